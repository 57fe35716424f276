package daemon

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/connect"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
)

// A ring is one provider as long as nothing of its configuration changes but the
// socket. It is carried from one generation to the next as it is.
type ring struct {
	cfg      config.Provider // whose Listen may be an earlier generation's
	timeout  time.Duration
	grace    time.Duration
	keys     []*key
	provider *provider.Provider
	target   *kmsserver.Target
	memory   *memory // nil: it is not kept anywhere
	gone     bool    // nobody has its memory any more: it goes with the ring
	began    time.Time

	stop    context.CancelFunc // ends Run; nil before start
	running sync.WaitGroup
}

// A key is one key of a ring, with its connection to KMS. It is carried to the
// ring that replaces its own where it is called in the same way, for however
// long.
type key struct {
	*kmskey.Key

	cfg      config.Key
	provider string // under whose name its calls are counted
	retry    config.Retry
	client   *awskms.Client
	users    atomic.Int64 // rings that have not ended
}

// newRing returns a ring that does nothing yet. before is the one that it
// replaces, nil where there is none: keys that both have are the same.
func (d *Daemon) newRing(cfg *config.Config, p config.Provider, before *ring) *ring {
	r := &ring{cfg: p, timeout: cfg.KMSTimeout, grace: cfg.OutageGrace, began: time.Now()}
	o := provider.Options{
		Name: p.Name, Epoch: p.Epoch, Timeout: r.timeout, OutageGrace: r.grace, Log: d.log, Waits: d.waits,
		Pauses: d.pauses, Intervals: d.time.keys, History: d.histories[p.Name],
	}
	if r.memory = d.newMemory(p); r.memory != nil {
		o.Memory = r.memory
	}
	switch {
	case before != nil:
		o.Before = before.provider
	case r.memory != nil:
		o.Known = d.recall(r.memory)
	}
	for _, k := range p.Keys {
		one := before.find(p, k)
		if one == nil {
			one = d.newKey(p, k, r.timeout)
		}
		one.users.Add(1)
		r.keys = append(r.keys, one)
		o.Keys = append(o.Keys, one.Key)
	}
	r.provider = provider.New(o)
	r.target = kmsserver.NewTarget(kmsserver.TargetOptions{
		Name: p.Name, Key: p.Keys[0].Key, Provider: r.provider, Metrics: d.metrics, Log: d.log,
	})
	return r
}

// find returns the ring's key that is called in the same way, nil where there is
// none.
func (r *ring) find(p config.Provider, k config.Key) *key {
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

// newKey returns a key with a client of its own: each has retry tokens of its
// own.
func (d *Daemon) newKey(p config.Provider, k config.Key, timeout time.Duration) *key {
	observe := d.metrics.KMS(p.Name)
	o := connect.Options(p, k)
	o.Connections, o.Timeout, o.UserAgent, o.Waits = d.conns, timeout, d.opts.Version, d.waits
	o.Log = d.log.With("provider", p.Name, "key", k.Key)
	o.Observe = func(op string, class cause.Class, took time.Duration) {
		if class == "" {
			class = metrics.Success
		}
		observe(op, string(class), took)
	}
	client := awskms.New(o)
	return &key{
		Key: kmskey.New(kmskey.Config{Name: k.Key, Context: keyref.ContextHash(k.EncryptionContext), KMS: client}),
		cfg: k, provider: p.Name, retry: p.Retry, client: client,
	}
}

// serves says whether the ring is what a configuration asks for, on whatever
// socket.
func (r *ring) serves(cfg *config.Config, p config.Provider) bool {
	p.Listen = r.cfg.Listen
	return r.cfg.Equal(p) && r.timeout == cfg.KMSTimeout && r.grace == cfg.OutageGrace
}

// start makes the ring's settings hold for its keys, and begins the background
// work. That ends with end and not with ctx: a call may wait for it.
func (r *ring) start(ctx context.Context) {
	for _, k := range r.keys {
		k.client.SetTimeout(r.timeout)
	}
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.running.Go(func() { r.provider.Run(ctx) })
}

// longest is more than any call of the ring may take.
func (r *ring) longest() time.Duration { return r.timeout + 10*time.Second }

// end waits for the calls that began on the ring, which no server has any more,
// until ctx ends. Then it ends the background work, and closes what no other ring
// uses. It reports whether all that has ended; what hangs is left behind, within rest.
func (r *ring) end(ctx context.Context, rest time.Duration, e *ending) bool {
	of := " of provider " + r.cfg.Name
	called, cancel := after(ctx, rest*3/5)
	defer cancel()
	ended := e.within(called, "calls"+of, r.target.Retire)
	if r.stop != nil {
		r.stop()
	}
	stopped, cancel := after(ctx, rest*4/5)
	defer cancel()
	ended = e.within(stopped, "checks"+of, r.running.Wait) && ended
	if r.gone { // what stays behind does not count: it is of another configuration
		ended = e.within(stopped, "what is known"+of, func() { _ = r.memory.Erase() }) && ended
	}
	for _, k := range r.keys {
		if k.users.Add(-1) == 0 {
			ended = e.within(stopped, "key "+k.cfg.Key+of, k.client.Close) && ended
		}
	}
	return ended
}
