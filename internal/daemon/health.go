package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"

	"sigs.k8s.io/aws-encryption-provider/internal/accept"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// httpServer serves health and metrics. It never keeps a socket from serving.
type httpServer struct {
	daemon  *Daemon
	server  *http.Server
	metrics http.Handler
	places  httpPlaces

	mu   sync.Mutex
	addr string // "" while there is no listener
}

func newHTTPServer(d *Daemon) *httpServer {
	s := &httpServer{daemon: d, metrics: promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}), places: newHTTPPlaces(d.log)}
	errorLog := slog.NewLogLogger(d.log.Handler(), slog.LevelWarn)
	errorLog.SetOutput(&seldomWriter{Writer: errorLog.Writer(), quiet: rate.NewLimiter(rate.Every(time.Minute), 3)})
	s.server = &http.Server{
		Handler: s, ErrorLog: errorLog, ConnState: changed, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	return s
}

// ServeHTTP implements [http.Handler]. Paths are compared as they are: what an
// operator may configure is no pattern of a mux.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	health := s.daemon.started.Health
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, "only GET and HEAD are answered here")
		return
	}
	if r.ContentLength != 0 { // nobody reads a body, so nobody waits for it either
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
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

// run serves until ctx ends, and tries again while the port cannot be had.
func (s *httpServer) run(ctx context.Context) {
	log, reported := s.daemon.log, false
	for ctx.Err() == nil {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.daemon.started.Health.Address)
		if err == nil {
			log.Info("serving health and metrics", "address", l.Addr().String())
			s.serve(ctx, l)
			reported = false
		}
		if err != nil && !reported && ctx.Err() == nil {
			reported = true
			log.Error("health and metrics cannot be served yet: trying again in the background", "address", s.daemon.started.Health.Address, "error", err.Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.daemon.time.portRetry):
		}
	}
}

// serve serves a listener until ctx ends or the listener is broken.
func (s *httpServer) serve(ctx context.Context, l net.Listener) {
	s.setAddress(l.Addr().String())
	gate := &httpGate{accept.Patiently(l, s.daemon.files.accept, ctx.Done(), s.daemon.log.With("listener", "health port")), s.places}
	var broken error // set before the channel is closed
	stopped := make(chan struct{})
	go func() { // ends with the server, or as the listener breaks
		defer close(stopped)
		broken = s.server.Serve(gate)
	}()
	select {
	case <-ctx.Done():
	case <-stopped:
	}
	if ctx.Err() == nil {
		s.setAddress("")
		s.daemon.log.Error("the health port is broken: it is opened again", "error", broken.Error())
		return
	}
	_ = s.server.Close()
	<-stopped
}

func (s *httpServer) setAddress(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr = addr
}

func (s *httpServer) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// livez fails only where a restart could help.
func (s *httpServer) livez(w http.ResponseWriter) {
	if err := s.daemon.Silent(); err != nil {
		answer(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, http.StatusOK, "ok")
}

// readyz fails while any provider cannot encrypt. A file that could not be loaded
// is no reason: what was served before is served.
func (s *httpServer) readyz(w http.ResponseWriter, verbose bool) {
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

func (s *httpServer) readyzOne(w http.ResponseWriter, name string, verbose bool) {
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
func readKeys(h keyring.Health) string {
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
