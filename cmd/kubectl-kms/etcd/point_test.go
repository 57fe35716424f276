package etcd_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestPoint: a key as it is and as it was, until etcd compacts, by many at once.
func TestPoint(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	r, err := etcd.New(etcd.Options{Endpoints: []string{e.URL}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Point(t.Context(), []string{"/registry"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	first := e.Put("/registry/secrets/a/b", "1")
	second := e.Put("/registry/secrets/a/b", "2")
	deleted := e.Delete("/registry/secrets/a/b")
	e.Put("/registry/secrets/a/c", "3")

	var all sync.WaitGroup
	for _, c := range []struct {
		key      string
		revision int64
		value    string // empty: it is not there
		at       int64
	}{
		{"/registry/secrets/a/b", first, "1", first},
		{"/registry/secrets/a/b", second, "2", second},
		{"/registry/secrets/a/b", deleted, "", 0},
		{"/registry/secrets/a/b", 0, "", 0},
		{"/registry/secrets/a/c", 0, "3", deleted + 1},
		{"/registry/secrets/a/c", second, "", 0},
	} {
		all.Go(func() {
			kv, found, err := p.Get(t.Context(), c.key, c.revision)
			got := fmt.Sprintf("%s %d %t", kv.Value, kv.ModRevision, found)
			if want := fmt.Sprintf("%s %d %t", c.value, c.at, c.value != ""); got != want || err != nil {
				t.Errorf("%s at %d: %s, %v; want %s", c.key, c.revision, got, err, want)
			}
		})
	}
	all.Wait()
	e.Compact(deleted)
	if _, _, err := p.Get(t.Context(), "/registry/secrets/a/b", first); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("compacted: %v", err)
	}
}
