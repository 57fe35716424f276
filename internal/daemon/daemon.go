// Package daemon owns what the process holds: sockets, the HTTP listener of
// health and metrics, and the order in which all of it starts and ends. It knows
// no cryptography.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

// Options are what the process is beside its configuration. All fields are
// required.
type Options struct {
	Log       *slog.Logger
	Version   string
	Commit    string
	GoVersion string
}

// A Daemon serves until it is shut down.
type Daemon struct {
	cfg       *config.Config
	opts      Options
	time      timing
	log       *slog.Logger
	registry  *prometheus.Registry
	metrics   *metrics.Metrics
	conns     *awskms.Connections
	providers []*served
	http      *httpServer

	stop   context.CancelFunc // ends the background work
	work   sync.WaitGroup
	failed chan error // a socket that could not be had, or stopped accepting

	serving chan struct{} // closed when every socket is served
	missing atomic.Int64  // sockets that are not served yet
}

// served is one provider with its socket.
type served struct {
	provider  *keyring.Provider
	cfg       config.Provider
	began     time.Time // when the process started
	server    *kmsserver.Server
	conns     connections
	answering answering

	mu     sync.Mutex
	socket *socket // nil until it is claimed
	ended  bool    // it must not be claimed any more
}

// Start makes everything and begins to serve. It does not wait: a socket whose
// holder is still alive, a health port that is taken and a KMS that cannot be
// reached each keep nothing else from serving.
func Start(cfg *config.Config, o Options) *Daemon { return start(cfg, o, usualTiming()) }

func start(cfg *config.Config, o Options, t timing) *Daemon {
	d := &Daemon{cfg: cfg, opts: o, time: t, log: o.Log, registry: prometheus.NewRegistry(), conns: awskms.NewConnections(), failed: make(chan error, 1), serving: make(chan struct{})}
	d.missing.Store(int64(len(cfg.Providers)))
	d.metrics = metrics.New(d.registry, o.Version, o.Commit, o.GoVersion, words(cause.Classes()))
	for _, p := range cfg.Providers {
		d.providers = append(d.providers, d.newServed(p))
	}
	metrics.RegisterHealth(d.registry, words(keyring.States()), d.healthMetrics)
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	for _, s := range d.providers {
		d.work.Go(func() { d.serve(ctx, s) })
		d.work.Go(func() { s.provider.Run(ctx) })
	}
	d.http = newHTTPServer(d)
	d.work.Go(func() { d.http.run(ctx) })
	return d
}

func (d *Daemon) newServed(p config.Provider) *served {
	keys := make([]*keyring.Key, 0, len(p.Keys))
	for _, k := range p.Keys {
		keys = append(keys, keyring.NewKey(keyring.KeyConfig{Name: k.Key, Context: keyref.ContextHash(k.EncryptionContext), KMS: d.newClient(p, k)}))
	}
	s := &served{cfg: p, began: time.Now()}
	s.provider = keyring.New(keyring.Options{
		Name: p.Name, Keys: keys, Epoch: p.Epoch,
		Timeout: d.cfg.KMSTimeout, OutageGrace: d.cfg.OutageGrace, Log: d.log,
	})
	s.server = kmsserver.New(d.opts.Version, kmsserver.NewTarget(kmsserver.TargetOptions{
		Name: p.Name, Key: p.Keys[0].Key, Provider: s.provider, Metrics: d.metrics, Log: d.log,
	}))
	return s
}

// newClient returns the client of one key: each has retry tokens of its own.
func (d *Daemon) newClient(p config.Provider, k config.Key) *awskms.Client {
	observe := d.metrics.KMS(p.Name)
	return awskms.New(awskms.Options{
		Connections: d.conns, Timeout: d.cfg.KMSTimeout,
		Region: k.Region, Endpoint: k.Endpoint, AssumeRoleARN: k.AssumeRoleARN, ExternalID: k.ExternalID,
		SourceARN: k.SourceARN, EncryptionContext: k.EncryptionContext,
		Retry: awskms.RetryBudget(p.Retry), UserAgent: d.opts.Version,
		Observe: func(op string, class cause.Class, took time.Duration) {
			if class == "" {
				class = metrics.Success
			}
			observe(op, string(class), took)
		},
	})
}

// serve claims the provider's socket and looks after it until ctx ends.
func (d *Daemon) serve(ctx context.Context, s *served) {
	log := d.log.With("provider", s.cfg.Name)
	sock, err := claim(ctx, socketOptions{path: s.cfg.Listen, mode: d.cfg.Socket.Mode, group: d.cfg.Socket.Group, log: log, time: d.time})
	if err != nil {
		d.fail(ctx, err)
		return
	}
	if !s.hold(sock) {
		sock.close() //nolint:contextcheck // it outlives ctx
		return
	}
	accept := func(l net.Listener) {
		g := newGate(l, d.cfg.Socket.AllowUIDs, &s.conns, func(reason string) { d.metrics.Rejected(s.cfg.Name, reason) }, log)
		d.work.Go(func() {
			if err := s.server.Serve(g); err != nil && l == sock.current() {
				d.fail(ctx, fmt.Errorf("serving %s: %w", s.cfg.Listen, err))
			}
		})
	}
	accept(sock.current())
	log.Info("serving", "socket", s.cfg.Listen, "key", s.cfg.Keys[0].Key)
	if d.missing.Add(-1) == 0 {
		close(d.serving)
	}
	d.work.Go(func() { s.answering.watch(ctx, d.time.answer, sock.ask, log) })
	sock.keep(ctx, accept)
}

// hold makes a socket the provider's own, and returns false where the end came
// first.
func (s *served) hold(sock *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.socket = sock
	return true
}

// fail delivers the first error; whatever follows is of no use to anybody.
func (d *Daemon) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	select {
	case d.failed <- err:
	default:
	}
}

// Serving is closed when every socket is served.
func (d *Daemon) Serving() <-chan struct{} { return d.serving }

// Failed delivers an error that ends the process: a socket that cannot be had.
func (d *Daemon) Failed() <-chan error { return d.failed }

// HealthAddress returns where health and metrics are served, "" while the port
// is not to be had.
func (d *Daemon) HealthAddress() string { return d.http.address() }

// Shutdown stops accepting, lets running calls finish for up to five seconds,
// and removes the sockets. hurry cuts that short.
func (d *Daemon) Shutdown(hurry context.Context) {
	d.stop()
	var drained sync.WaitGroup
	for _, s := range d.providers {
		drained.Go(func() { s.shutdown(hurry, d.time.drain) })
	}
	drained.Wait()
	d.work.Wait()
	for _, s := range d.providers {
		s.server.Target().Retire() //nolint:contextcheck // its last lines are no call's
	}
	d.conns.Close()
}

func (s *served) shutdown(hurry context.Context, drain time.Duration) {
	s.mu.Lock()
	s.ended = true
	sock := s.socket
	s.mu.Unlock()
	if sock != nil {
		sock.close() //nolint:contextcheck // it outlives ctx
	}
	s.conns.closeSilent()
	done := make(chan struct{})
	go func() { // ends with GracefulStop, which Stop cuts short
		s.server.GracefulStop()
		close(done)
	}()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
	case <-hurry.Done():
	}
	s.conns.closeAll()
	s.server.Stop()
	<-done
}

func (d *Daemon) healthMetrics() []metrics.Health {
	out := make([]metrics.Health, 0, len(d.providers))
	for _, s := range d.providers {
		h := s.provider.Health()
		m := metrics.Health{Provider: h.Provider, State: string(h.State), KeyID: h.KeyID, LastOK: h.LastOK, GraceEnds: h.GraceEnds}
		if h.Err != nil {
			m.Code = h.Err.Code.String()
		}
		out = append(out, m)
	}
	return out
}

// words are the texts of a closed set of names.
func words[S ~string](names []S) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return out
}
