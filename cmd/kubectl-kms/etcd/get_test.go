package etcd_test

import (
	"errors"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// Get gives one key as it is now, says that there is none, or why it cannot tell.
func TestGet(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	e.Put("/registry/secrets/default/a", "old")
	revision := e.Put("/registry/secrets/default/a", "new")
	r, err := etcd.New(etcd.Options{Endpoints: []string{e.URL}})
	if err != nil {
		t.Fatal(err)
	}
	kv, found, err := r.Get(t.Context(), "/registry/secrets/default/a")
	if err != nil || !found || string(kv.Value) != "new" || kv.ModRevision != revision {
		t.Errorf("%q, %d, %t, %v", kv.Value, kv.ModRevision, found, err)
	}
	if _, found, err = r.Get(t.Context(), "/registry/secrets/default"); err != nil || found {
		t.Errorf("a key that is not there: %t, %v", found, err)
	}
	if r, err = etcd.New(etcd.Options{Endpoints: []string{"http://127.0.0.1:1"}}); err != nil {
		t.Fatal(err)
	}
	_, _, err = r.Get(t.Context(), "/registry/a")
	if _, said := errors.AsType[*store.Error](err); !said {
		t.Errorf("where nobody is: %v", err)
	}
}
