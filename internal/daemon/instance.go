package daemon

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/ending"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
)

// An instance is one provider as long as nothing of its configuration changes but the
// socket. It is carried from one generation to the next as it is.
type instance struct {
	cfg      config.Provider // whose Listen may be an earlier generation's
	timeout  time.Duration
	grace    time.Duration
	keys     []*key
	provider *provider.Provider
	target   *kmsserver.Target
	memory   *memory // nil: it is not kept anywhere
	gone     bool    // nobody has its memory any more: it goes with the instance
	began    time.Time

	stop    context.CancelFunc // ends Run; nil before start
	running sync.WaitGroup
}

// A key is one key of an instance, with its connection to KMS. It is carried to the
// instance that replaces its own where it is called in the same way, for however
// long.
type key struct {
	*kmskey.Key

	cfg      config.Key
	provider string // under whose name its calls are counted
	retry    config.Retry
	client   *awskms.Client
	users    atomic.Int64 // instances that have not ended
}

// find returns the instance's key that is called in the same way, nil where there is
// none.
func (r *instance) find(p config.Provider, k config.Key) *key {
	if r == nil {
		return nil
	}
	i := slices.IndexFunc(r.keys, func(old *key) bool {
		return old.cfg.Equal(k) && old.provider == p.Name && old.retry == p.Retry
	})
	if i < 0 {
		return nil
	}
	return r.keys[i]
}

// serves reports whether the instance is what a configuration asks for, on whatever
// socket.
func (r *instance) serves(cfg *config.Config, p config.Provider) bool {
	p.Listen = r.cfg.Listen
	return r.cfg.Equal(p) && r.timeout == cfg.KMSTimeout && r.grace == cfg.OutageGrace
}

// start makes the instance's settings hold for its keys, and begins the background
// work. That ends with end and not with ctx: a call may wait for it.
func (r *instance) start(ctx context.Context) {
	for _, k := range r.keys {
		k.client.SetTimeout(r.timeout)
	}
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.running.Go(func() { r.provider.Run(ctx) })
}

// longest is more than any call of the instance may take.
func (r *instance) longest() time.Duration { return r.timeout + 10*time.Second }

// end waits for the calls that began on the instance, which no server has any more,
// until ctx ends. Then it ends the background work, and closes what no other instance
// uses. It reports whether all that has ended; what hangs is left behind, within rest.
func (r *instance) end(ctx context.Context, rest time.Duration, e *ending.Ending) bool {
	of := " of provider " + r.cfg.Name
	called, cancel := ending.After(ctx, rest*3/5)
	defer cancel()
	ended := e.Within(called, "calls"+of, r.target.Retire)
	if r.stop != nil {
		r.stop()
	}
	stopped, cancel := ending.After(ctx, rest*4/5)
	defer cancel()
	ended = e.Within(stopped, "checks"+of, r.running.Wait) && ended
	if r.gone { // what stays behind does not count: it is of another configuration
		ended = e.Within(stopped, "what is known"+of, func() { _ = r.memory.Erase() }) && ended
	}
	for _, k := range r.keys {
		if k.users.Add(-1) == 0 {
			ended = e.Within(stopped, "key "+k.cfg.Key+of, k.client.Close) && ended
		}
	}
	return ended
}
