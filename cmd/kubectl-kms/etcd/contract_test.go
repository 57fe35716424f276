package etcd

import (
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store/storetest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestContract: etcd 3.7 by streams and by pages, and 3.6, which has pages only, read
// the same. Pages are small, so that there are many.
func TestContract(t *testing.T) {
	for _, c := range []struct {
		name    string
		version etcdtest.Version
		pages   bool
	}{
		{"3.7 by streams", etcdtest.V37, false},
		{"3.7 by pages", etcdtest.V37, true},
		{"3.6", etcdtest.V36, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t, c.version, cluster.EtcdOptions{})
			storetest.Test(t, false, func(t *testing.T) storetest.Place {
				return e.Place(t, func() store.Reader {
					r := reader(t, e.URL)
					r.limits.firstPage, r.limits.page, r.limits.noStreams = 2, 8, c.pages
					return r
				})
			})
		})
	}
}

// reader is a Reader of an etcd without TLS.
func reader(t testing.TB, url string) *Reader {
	t.Helper()
	r, err := New(Options{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
