package daemon

import (
	"slices"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/connect"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/liveness"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// A generation is what one configuration makes the process serve. It never
// changes: the next one is built beside it, and takes its place as a whole.
type generation struct {
	cfg       *config.Config
	loaded    time.Time
	providers []*served // in the order of the configuration
}

// served is one provider of a generation: who answers, and where.
type served struct {
	*instance

	at *endpoint
}

// nothing is the generation before the first.
func nothing() *generation { return &generation{cfg: &config.Config{}} }

// next builds the generation of a configuration. What is the same in g is
// carried over as it is; what is new does nothing yet.
func (d *Daemon) next(g *generation, cfg *config.Config) *generation {
	n := &generation{cfg: cfg, loaded: time.Now()}
	for _, p := range cfg.Providers {
		s := &served{}
		before := g.before(cfg, p)
		switch {
		case before != nil && before.serves(cfg, p):
			s.instance = before.instance
		case before != nil:
			s.instance = d.newInstance(cfg, p, before.instance)
		default:
			s.instance = d.newInstance(cfg, p, nil)
		}
		if s.at = g.endpoint(p.Listen); s.at == nil || n.hasEndpoint(s.at) { // of two for one socket, to claim the second fails
			s.at = d.newEndpoint(cfg, p.Listen, s.target)
		}
		n.providers = append(n.providers, s)
	}
	return n
}

// before returns which of g's providers another configuration's replaces: the
// one of its name, else one of another name that is gone and had its socket.
func (g *generation) before(cfg *config.Config, p config.Provider) *served {
	if s := g.named(p.Name); s != nil {
		return s
	}
	for _, s := range g.providers {
		if unixsocket.Same(s.at.path, p.Listen) && !slices.ContainsFunc(cfg.Providers, func(o config.Provider) bool { return o.Name == s.cfg.Name }) {
			return s
		}
	}
	return nil
}

func (g *generation) named(name string) *served {
	for _, s := range g.providers {
		if s.cfg.Name == name {
			return s
		}
	}
	return nil
}

func (g *generation) endpoint(path string) *endpoint {
	for _, s := range g.providers {
		if unixsocket.Same(s.at.path, path) {
			return s.at
		}
	}
	return nil
}

func (g *generation) hasInstance(r *instance) bool {
	return slices.ContainsFunc(g.providers, func(s *served) bool { return s.instance == r })
}

func (g *generation) hasEndpoint(e *endpoint) bool {
	return slices.ContainsFunc(g.providers, func(s *served) bool { return s.at == e })
}

// without returns the instances and endpoints of g that o does not have.
func (g *generation) without(o *generation) (instances []*instance, endpoints []*endpoint) {
	for _, s := range g.providers {
		if !o.hasInstance(s.instance) {
			instances = append(instances, s.instance)
		}
		if !o.hasEndpoint(s.at) {
			endpoints = append(endpoints, s.at)
		}
	}
	return instances, endpoints
}

// newEndpoint returns one that nobody can connect to yet.
func (d *Daemon) newEndpoint(cfg *config.Config, path string, t *kmsserver.Target) *endpoint {
	e := &endpoint{
		path: path, server: kmsserver.New(d.opts.Version, t), began: time.Now(), log: d.log.With("socket", path), time: d.time, acceptBy: d.files.accept,
		setting: d.settings.allowUIDs, rejected: d.metrics.Rejected, itself: d.itself, asking: &bounded.Lane{Observer: d.waits, Wait: bounded.Question},
		again: make(chan struct{}, 1), stop: func() {}, impatient: func() {}, answering: liveness.New(d.pauses),
		socket: unixsocket.New(unixsocket.Options{
			Path: path, Access: unixsocket.Access{Mode: cfg.Socket.Mode, Group: cfg.Socket.Group}, Words: d.settings.Words,
			Timing: d.time.Timing, Files: d.files.Files, Handed: d.handed, Log: d.log, Waits: d.waits,
		}),
	}
	e.allowed.Store(&cfg.Socket.AllowUIDs)
	return e
}

// newInstance returns an instance that does nothing yet. before is the one that it
// replaces, nil where there is none: keys that both have are the same.
func (d *Daemon) newInstance(cfg *config.Config, p config.Provider, before *instance) *instance {
	r := &instance{cfg: p, timeout: cfg.KMSTimeout, grace: cfg.OutageGrace, began: time.Now()}
	o := provider.Options{
		Name: p.Name, Epoch: p.Epoch, Timeout: r.timeout, OutageGrace: r.grace, Called: cfg.Called, Log: d.log, Waits: d.waits,
		Pauses: d.pauses, Timing: d.time.provider, History: d.histories[p.Name],
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
