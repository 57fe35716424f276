package snapshot

import (
	"fmt"
	"path/filepath"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store/storetest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestContract: snapshots and copied databases of both minors.
func TestContract(t *testing.T) {
	for _, v := range etcdtest.Versions() {
		for what, write := range map[string]func(e *etcdtest.Etcd, path string){
			"snapshot":  (*etcdtest.Etcd).Snapshot,
			"copied db": (*etcdtest.Etcd).CopyDB,
		} {
			t.Run(fmt.Sprintf("%s of %s", what, v), func(t *testing.T) {
				t.Parallel()
				e := etcdtest.Start(t, v, cluster.EtcdOptions{})
				storetest.Test(t, true, func(t *testing.T) storetest.Place {
					dir, n := t.TempDir(), 0
					return e.Place(t, func() store.Reader {
						n++
						path := filepath.Join(dir, fmt.Sprintf("%d.db", n))
						write(e, path)
						return New(path, Options{})
					})
				})
			})
		}
	}
}
