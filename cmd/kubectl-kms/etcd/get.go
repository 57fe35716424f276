package etcd

import (
	"context"
	"path"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// Get returns what is stored under a key at this moment, as the whole cluster confirms,
// and whether there is anything. Its slices are the caller's.
func (r *Reader) Get(ctx context.Context, key string) (kv store.KeyValue, found bool, err error) {
	m, err := r.connect(ctx, store.NewPrefixes([]string{path.Dir(key)}))
	if err != nil {
		return kv, false, err
	}
	defer m.close()
	answer, err := m.get(ctx, key)
	if err != nil {
		return kv, false, m.explain(ctx, err)
	}
	if len(answer.Kvs) == 0 {
		return kv, false, nil
	}
	one := answer.Kvs[0]
	return store.KeyValue{Key: one.Key, Value: one.Value, ModRevision: one.ModRevision}, true, nil
}
