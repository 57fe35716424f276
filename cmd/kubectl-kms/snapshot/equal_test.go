package snapshot

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// A ledger is what a test knows to be there, by key.
type ledger map[string]stored

type stored struct {
	Value       string
	ModRevision int64
}

// TestFilesEqualTheLivingEtcd: after random writes, deletions, transactions and
// compactions, of both minors, the living etcd, its snapshot and its copied database
// all hold what was written last.
func TestFilesEqualTheLivingEtcd(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, v := range etcdtest.Versions() {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
			e := etcdtest.Start(t, v, cluster.EtcdOptions{})
			truth, last := ledger{}, int64(1)
			for round := range 6 {
				for range 80 {
					last = truth.change(e, random)
				}
				if round%2 == 1 {
					e.Compact(last - int64(random.IntN(20)))
				}
				dir := t.TempDir()
				snapshot, db := filepath.Join(dir, "snapshot"), filepath.Join(dir, "db")
				e.Snapshot(snapshot)
				e.CopyDB(db)
				living, err := etcd.New(etcd.Options{Endpoints: []string{e.URL}})
				if err != nil {
					t.Fatal(err)
				}
				for name, r := range map[string]store.Reader{"living": living, "snapshot": New(snapshot, Options{}), "copy": New(db, Options{})} {
					truth.compare(t, name, r, last)
				}
			}
		})
	}
}

// change does one thing to etcd and to the ledger.
func (l ledger) change(e *etcdtest.Etcd, random *rand.Rand) (revision int64) {
	key := func() string { return fmt.Sprintf("/registry/secrets/%02d", random.IntN(40)) }
	value := fmt.Sprint(random.Uint64())
	one := key()
	switch _, there := l[one]; {
	case there && random.IntN(3) == 0:
		revision = e.Delete(one)
		delete(l, one)
	case random.IntN(5) == 0:
		put := map[string]string{one: value, key(): value}
		revision = e.Change(put, nil)
		for k := range put {
			l[k] = stored{value, revision}
		}
	default:
		revision = e.Put(one, value)
		l[one] = stored{value, revision}
	}
	return revision
}

func (l ledger) compare(t *testing.T, name string, r store.Reader, revision int64) {
	t.Helper()
	got := ledger{}
	reading, err := r.Read(t.Context(), []string{"/registry"}, func(kv store.KeyValue) error {
		if !kv.Older {
			got[string(kv.Key)] = stored{string(kv.Value), kv.ModRevision}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if diff := cmp.Diff(maps.Clone(l), got); diff != "" || reading.Revision != revision || reading.Keys != int64(len(l)) {
		t.Fatalf("%s at revision %d of %d, %d keys (-want +got):\n%s", name, reading.Revision, revision, reading.Keys, diff)
	}
}
