package daemon

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// healthPages answer what is asked on the health port.
type healthPages struct {
	daemon  *Daemon
	metrics http.Handler
}

func newHealthPages(d *Daemon) *healthPages {
	return &healthPages{daemon: d, metrics: promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{})}
}

// ServeHTTP implements [http.Handler]. Paths are compared as they are: what an
// operator may configure is no pattern of a mux.
func (s *healthPages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	health := s.daemon.started.Health
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, "only GET and HEAD are answered here")
		return
	}
	verbose := r.URL.Query().Has("verbose")
	name, one := strings.CutPrefix(r.URL.Path, "/readyz/")
	switch {
	case r.URL.Path == health.HealthzPath, r.URL.Path == health.LivezPath:
		s.livez(w)
	case r.URL.Path == "/readyz":
		s.readyz(w, verbose)
	case one:
		s.readyzOne(w, name, verbose)
	case r.URL.Path == "/metrics":
		s.metrics.ServeHTTP(w, r)
	default:
		answer(w, http.StatusNotFound, fmt.Sprintf("nothing is served here, but at %s, %s, /readyz, /readyz/<n> and /metrics", health.HealthzPath, health.LivezPath))
	}
}

// livez fails only where a restart could help.
func (s *healthPages) livez(w http.ResponseWriter) {
	if err := s.daemon.Silent(); err != nil {
		answer(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, http.StatusOK, "ok")
}

// readyz fails while any provider cannot encrypt. A file that could not be loaded
// is no reason: what was served before is served.
func (s *healthPages) readyz(w http.ResponseWriter, verbose bool) {
	g := s.daemon.current.Load()
	lines := make([]string, 0, len(g.providers))
	code := http.StatusOK
	for _, p := range g.providers {
		line, ready := p.readiness()
		if !ready {
			code = http.StatusServiceUnavailable
		}
		lines = append(lines, line)
		if verbose {
			lines = append(lines, p.details()...)
		}
	}
	if verbose && s.daemon.reloader != nil {
		lines = append(lines, s.daemon.reloader.lines(g)...)
	}
	answer(w, code, strings.Join(lines, "\n"))
}

func (s *healthPages) readyzOne(w http.ResponseWriter, name string, verbose bool) {
	g := s.daemon.current.Load()
	p := g.named(name)
	if p == nil {
		answer(w, http.StatusNotFound, "no provider has that name; "+g.names())
		return
	}
	line, ready := p.readiness()
	if verbose {
		line = strings.Join(append([]string{line}, p.details()...), "\n")
	}
	code := http.StatusOK
	if !ready {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, line)
}

// names says how the providers are called.
func (g *generation) names() string {
	if g.cfg.File == "" {
		return "they are numbered from 0 in the order of --key"
	}
	names := make([]string, len(g.providers))
	for i, p := range g.providers {
		names[i] = p.cfg.Name
	}
	return "there are " + strings.Join(names, ", ")
}

// readiness is a provider's line on /readyz.
func (s *served) readiness() (line string, ready bool) {
	h := s.provider.Health()
	prefix := "provider " + s.cfg.Name + ": "
	if m := s.at.missing.Load(); m != nil {
		return fmt.Sprintf("%sits socket is not served since %s: %v", prefix, stamp(m.since), m.err), false
	}
	if !s.at.answers.Load() {
		return prefix + "its socket is not served yet, since the start at " + stamp(s.at.began), false
	}
	if since, err := s.at.socket.Problem(); err != nil {
		return fmt.Sprintf("%sits %s since %s: %v", prefix, unixsocket.LossWords(err), stamp(since), err), false
	}
	switch {
	case h.CanEncrypt() && h.Suspect:
		return prefix + "ok, but a call failed since it last worked: " + h.Err.Error() + readKeys(h), true
	case h.CanEncrypt():
		return prefix + "ok, key_id " + h.KeyID + readKeys(h), true
	case h.Err == nil:
		return fmt.Sprintf("%s%s since %s: %v", prefix, h.State, stamp(s.began), &cause.Error{Code: cause.NoContact, Key: h.Key}), false
	}
	line = fmt.Sprintf("%s%s since %s: %v", prefix, h.State, stamp(h.Since), h.Err)
	return line + grace(h.GraceEnds) + readKeys(h), false
}

// grace says what Status makes of an outage whose grace has that end.
func grace(ends time.Time) string {
	switch {
	case ends.IsZero():
		return ""
	case time.Now().Before(ends):
		return "; Status stays ok until " + stamp(ends)
	}
	return "; Status has not been ok since " + stamp(ends)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// readKeys names the keys that only read and fail or are to be deleted. They decide
// nothing: what they can still open is between them and the data.
func readKeys(h provider.Health) string {
	var b strings.Builder
	for _, k := range h.ReadKeys {
		switch {
		case k.Err != nil && k.State.Fails():
			fmt.Fprintf(&b, "\n  decrypt key %s is %s: %v%s", k.Key, k.State, k.Err, deletionWords(k.Deletion))
		case k.Err != nil:
			fmt.Fprintf(&b, "\n  decrypt key %s failed, which is to be confirmed: %v", k.Key, k.Err)
		case k.Deletion != nil:
			fmt.Fprintf(&b, "\n  decrypt key %s still reads%s", k.Key, deletionWords(k.Deletion))
		}
	}
	return b.String()
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n")) //nolint:gosec // G705: plain text, which no browser may take for anything else
}
