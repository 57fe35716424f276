package daemon

import (
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/readiness"
)

// snapshot is what is served now, for the health port.
func (d *Daemon) snapshot() readiness.Snapshot {
	g := d.current.Load()
	s := readiness.Snapshot{}
	for _, p := range g.providers {
		s.Providers = append(s.Providers, p.snapshot())
	}
	if d.reloader != nil {
		s.File = d.reloader.snapshot(g)
	}
	return s
}

func (s *served) snapshot() readiness.Provider {
	p := readiness.Provider{
		Name: s.cfg.Name, Socket: s.at.path, Health: s.provider.Health(), Began: s.began, Answers: s.at.answers.Load(), Made: s.at.began,
	}
	if m := s.at.missing.Load(); m != nil {
		p.Missing, p.Since = m.err, m.since
	}
	p.LostFrom, p.Lost = s.at.socket.Problem()
	return p
}

func (r *reloader) snapshot(g *generation) *readiness.File {
	state := r.state.Load()
	return &readiness.File{Path: g.cfg.File, Hash: g.cfg.Hash, Loaded: g.loaded, Err: state.err, Since: state.since, Retried: state.retried}
}

// keyMetrics are how the keys of all providers are doing. Earlier keys of an alias
// go by its name: their own come out of stored data.
func (d *Daemon) keyMetrics() []metrics.Key {
	var all []metrics.Key
	for _, s := range d.current.Load().providers {
		h := s.provider.Health()
		add := func(key, use string, state evidence.State, err *cause.Error, deletion *kmskey.Deletion) {
			m := metrics.Key{Provider: h.Provider, Key: key, Use: use, State: string(state)}
			if err != nil && state.Fails() {
				m.Code = err.Code.String()
			}
			if deletion != nil {
				m.Deletion = deletion.Date
			}
			all = append(all, m)
		}
		add(h.Key, metrics.UseWrite, h.State, h.Err, h.Deletion)
		for _, k := range h.ReadKeys {
			if k.Unlisted {
				add(k.Alias, metrics.UseEarlier, k.State, k.Err, k.Deletion)
				continue
			}
			add(k.Key, metrics.UseRead, k.State, k.Err, k.Deletion)
		}
	}
	return all
}

func (d *Daemon) healthMetrics() []metrics.Health {
	providers := d.current.Load().providers
	out := make([]metrics.Health, 0, len(providers))
	for _, s := range providers {
		h := s.provider.Health()
		m := metrics.Health{Provider: h.Provider, State: string(h.State), KeyID: h.KeyID, LastOK: h.LastOK, GraceEnds: h.GraceEnds}
		if h.Err != nil {
			m.Codes = append(m.Codes, h.Err.Code.String())
		}
		if s.at.missing.Load() != nil {
			m.Codes = append(m.Codes, cause.SocketNotHad.String())
		}
		m.Served = s.at.found()
		out = append(out, m)
	}
	return out
}
