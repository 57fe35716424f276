package daemon

import (
	"slices"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
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
	*ring

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
			s.ring = before.ring
		case before != nil:
			s.ring = d.newRing(cfg, p, before.ring)
		default:
			s.ring = d.newRing(cfg, p, nil)
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

func (g *generation) hasRing(r *ring) bool {
	return slices.ContainsFunc(g.providers, func(s *served) bool { return s.ring == r })
}

func (g *generation) hasEndpoint(e *endpoint) bool {
	return slices.ContainsFunc(g.providers, func(s *served) bool { return s.at == e })
}

// without returns the rings and endpoints of g that o does not have.
func (g *generation) without(o *generation) (rings []*ring, endpoints []*endpoint) {
	for _, s := range g.providers {
		if !o.hasRing(s.ring) {
			rings = append(rings, s.ring)
		}
		if !o.hasEndpoint(s.at) {
			endpoints = append(endpoints, s.at)
		}
	}
	return rings, endpoints
}
