package etcd

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A Point reads single keys over a connection that it keeps. Its methods may be called
// at once by many goroutines. Close it.
type Point struct{ m *member }

// Point connects to the first member that answers.
func (r *Reader) Point(ctx context.Context, prefixes []string) (*Point, error) {
	m, err := r.connect(ctx, store.NewPrefixes(prefixes))
	if err != nil {
		return nil, err
	}
	return &Point{m}, nil
}

// Get returns a key as the whole cluster has it, or as it was at a revision where that
// is not 0. found is false where the key was not there. The error is that of Read.
func (p *Point) Get(ctx context.Context, key string, revision int64) (kv store.KeyValue, found bool, err error) {
	var options []clientv3.OpOption
	if revision > 0 {
		options = append(options, clientv3.WithRev(revision))
	}
	for tries := 1; ; tries++ {
		answer, err := p.m.get(ctx, key, options...)
		switch {
		case err == nil && len(answer.Kvs) == 0:
			return store.KeyValue{}, false, nil
		case err == nil:
			kv := answer.Kvs[0]
			return store.KeyValue{Key: kv.Key, Value: kv.Value, ModRevision: kv.ModRevision}, true, nil
		case !passes(err) || tries >= p.m.limits.tries:
			return store.KeyValue{}, false, p.m.explain(ctx, err)
		}
		if err := wait(ctx, p.m.limits.pause); err != nil {
			return store.KeyValue{}, false, err
		}
	}
}

// Close ends the connection.
func (p *Point) Close() { p.m.close() }
