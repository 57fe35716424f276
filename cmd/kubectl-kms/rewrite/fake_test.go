package rewrite_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
)

var secrets = rewrite.Resource{Name: "secrets"} //nolint:gochecknoglobals // a constant

// An object of a cluster that exists in a test alone.
type object struct {
	revision int64
	stale    bool
	doubt    bool
	size     int
}

// A cluster is etcd and its API server. It implements what Run asks for.
type cluster struct {
	mu       sync.Mutex
	revision int64
	objects  map[string]*object

	// answer decides about a request; nil: as an API server does. It may call c.write.
	answer func(ctx context.Context, c *cluster, name string, nth int) (int64, error)
	asked  map[string]int // requests by object
	sent   []string       // in order
	when   []time.Time

	listed                 []error // errors of the n-th list
	lists                  int
	lost                   []rewrite.Left
	notRead                []string
	judged                 []rewrite.Judgement // the n-th; the last counts on
	judges                 int
	looks                  []error
	serves                 string
	noEtcd                 bool
	onJudge                func(nth int)
	onList                 func(c *cluster)
	inFlight, mostInFlight int
}

func newCluster(names ...string) *cluster {
	c := &cluster{objects: map[string]*object{}, asked: map[string]int{}, revision: 100}
	for _, name := range names {
		c.revision++
		c.objects[name] = &object{revision: c.revision, stale: true, size: 100}
	}
	c.judged = []rewrite.Judgement{{Converged: true, Basis: "both write under aws", RestsOn: "two of them", Keys: map[string]string{"aws": "sha256:new"}}}
	return c
}

func (c *cluster) of(name string) rewrite.Object {
	o := c.objects[name]
	return rewrite.Object{
		Path: "/registry/secrets/default/" + name, Resource: secrets, Namespace: "default", Object: name, Revision: o.revision,
		Size: rewrite.Size{Least: o.size, Most: o.size}, Under: "kms v2 aws", Doubt: o.doubt,
	}
}

func (c *cluster) List(context.Context, map[string]string) (*rewrite.Work, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	if c.onList != nil {
		c.onList(c)
	}
	if len(c.listed) >= c.lists && c.listed[c.lists-1] != nil {
		return nil, c.listed[c.lists-1]
	}
	w := &rewrite.Work{Basis: "etcd", Lost: c.lost, NotRead: c.notRead}
	for _, name := range slices.Sorted(maps.Keys(c.objects)) {
		if c.objects[name].stale || c.objects[name].doubt {
			w.Stale = append(w.Stale, c.of(name))
		}
	}
	return w, nil
}

func (c *cluster) Look(_ context.Context, o rewrite.Object, revision int64, _ map[string]string) (rewrite.Sight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.looks) > 0 {
		err := c.looks[0]
		c.looks = c.looks[1:]
		return rewrite.Sight{}, err
	}
	now := c.objects[o.Object]
	if now == nil {
		return rewrite.Sight{}, nil
	}
	if revision != 0 && now.revision != revision {
		return rewrite.Sight{}, rewrite.ErrNotCompared
	}
	return rewrite.Sight{Object: c.of(o.Object), Found: true, Stale: now.stale || now.doubt}, nil
}

func (c *cluster) Proves() bool                                    { return !c.noEtcd }
func (c *cluster) Learn(context.Context, []rewrite.Resource) error { return nil }
func (c *cluster) Serves(rewrite.Resource) (why string)            { return c.serves }

func (c *cluster) Judge(context.Context) (rewrite.Judgement, error) {
	c.judges++
	if c.onJudge != nil {
		c.onJudge(c.judges)
	}
	return c.judged[min(c.judges, len(c.judged))-1], nil
}

func (c *cluster) Patch(ctx context.Context, o rewrite.Object) (int64, error) {
	c.mu.Lock()
	c.asked[o.Object]++
	nth := c.asked[o.Object]
	c.sent = append(c.sent, o.Object)
	c.when = append(c.when, time.Now())
	c.inFlight++
	c.mostInFlight = max(c.mostInFlight, c.inFlight)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inFlight--
		c.mu.Unlock()
	}()
	if c.answer != nil {
		if revision, err := c.answer(ctx, c, o.Object, nth); !errors.Is(err, errAsUsual) {
			return revision, err
		}
	}
	return c.usual(o)
}

// errAsUsual has an answer be what an API server's is.
var errAsUsual = errors.New("as usual")

func (c *cluster) usual(o rewrite.Object) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.objects[o.Object]
	switch {
	case now == nil:
		return 0, refusal(404)
	case now.revision != o.Revision:
		return 0, refusal(409)
	case !now.stale:
		return now.revision, nil
	}
	c.writeLocked(o.Object, false)
	return now.revision, nil
}

func (c *cluster) writeLocked(name string, stale bool) {
	c.revision++
	o := c.objects[name]
	if o == nil {
		o = &object{size: 100}
		c.objects[name] = o
	}
	o.revision, o.stale = c.revision, stale
}

func (c *cluster) write(name string, stale bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeLocked(name, stale)
}

func (c *cluster) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.objects, name)
}

func refusal(code int) error { return &rewrite.RefusalError{Code: code, Cause: "refused by a test"} }

func (c *cluster) run(t *testing.T, o rewrite.Options) *rewrite.Report {
	t.Helper()
	r, err := rewrite.Run(t.Context(), o, c, c, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if sum := r.Rewritten + r.ByOthers + r.Fresh + r.Gone + r.LeftCount; !o.DryRun && sum != r.Stale {
		t.Errorf("%d of %d objects are accounted for: %+v", sum, r.Stale, r)
	}
	return r
}
