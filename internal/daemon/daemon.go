// Package daemon owns what the process holds: sockets, the HTTP listener of
// health and metrics, and the order in which all of it starts, changes and ends.
// It knows no cryptography.
//
// What is served follows from a configuration, as an immutable generation of
// providers. A file of --config that changes makes the next generation, which
// takes the place of the one before only when all of it is known to work.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

// Options are what the process is beside its configuration. All fields are
// required but Source and Sockets.
type Options struct {
	Log       *slog.Logger
	Version   string
	Commit    string
	GoVersion string
	Source    *config.Source // of the configuration, to be read again; nil: it is not of a file
	Sockets   []*os.File     // that listen already, handed over by a service manager
}

// A Daemon serves until it is shut down.
type Daemon struct {
	opts     Options
	time     timing
	files    files
	started  *config.Config // of which health and log hold till the end
	settings settings
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics.Metrics
	conns    *awskms.Connections
	waits    *bounded.Observer // of whatever may ignore its time limit
	handed   *handed
	http     *httpServer

	current  atomic.Pointer[generation]
	reloader *reloader // nil without a file

	stop      context.CancelFunc // ends the background work
	stopping  <-chan struct{}    // closed by that
	reloading sync.WaitGroup     // what changes the generation
	draining  sync.WaitGroup     // what earlier generations have left behind
	work      sync.WaitGroup     // the HTTP server
	cut       chan struct{}      // closed when running calls are waited for no longer
	failed    chan error         // a socket that could not be had, or stopped accepting

	serving chan struct{} // closed when every socket is served
	once    sync.Once     // closes it
}

// Start makes everything and begins to serve. It does not wait: a socket whose
// holder is still alive, a health port that is taken and a KMS that cannot be
// reached each keep nothing else from serving.
func Start(cfg *config.Config, o Options) *Daemon { return start(cfg, o, usualTiming(), usualFiles()) }

func start(cfg *config.Config, o Options, t timing, f files) *Daemon {
	d := &Daemon{
		opts: o, time: t, files: f, started: cfg, settings: settingsOf(cfg), log: o.Log, registry: prometheus.NewRegistry(),
		conns: awskms.NewConnections(), handed: newHanded(o.Sockets, o.Log), cut: make(chan struct{}), failed: make(chan error, 1), serving: make(chan struct{}),
	}
	d.metrics = metrics.New(d.registry, o.Version, o.Commit, o.GoVersion, words(cause.Classes()), words(bounded.Waits()))
	d.waits = &bounded.Observer{Log: o.Log, Left: func(w bounded.Wait) { d.metrics.Abandoned(string(w)) }}
	d.conns.Waits = d.waits
	ctx, stop := context.WithCancel(context.Background())
	d.stop, d.stopping = stop, ctx.Done()
	first := d.next(nothing(), cfg)
	d.current.Store(first)
	metrics.RegisterHealth(d.registry, words(keyring.States()), d.healthMetrics)
	if o.Source != nil {
		d.reloader = newReloader(d, cfg)
		metrics.RegisterReload(d.registry, d.reloader.metrics)
	}
	for _, s := range first.providers {
		s.ring.start(ctx)
		s.at.claimAndServe(ctx, t.holderWait, d.noteServing)
	}
	if d.reloader != nil {
		d.reloading.Go(func() { d.reloader.run(ctx) })
	}
	d.http = newHTTPServer(d)
	d.work.Go(func() { d.http.run(ctx) })
	return d
}

// noteServing closes serving at the right time.
func (d *Daemon) noteServing() {
	if d.current.Load().answering() {
		d.once.Do(func() { close(d.serving) })
		d.warnOfUnused()
	}
}

// warnOfUnused says which sockets were handed over for nothing. Callers are not
// refused there: they wait, until their time is up.
func (d *Daemon) warnOfUnused() {
	for _, path := range d.handed.unused() {
		d.log.Warn("nobody answers on a socket that was handed over: give a provider its path, or take it out of the socket unit", "socket", path)
	}
}

// fail delivers the first error; whatever follows is of no use to anybody.
func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// Reload reads the file of --config again, soon and also if it has not changed.
// It does nothing where there is none.
func (d *Daemon) Reload() {
	if d.reloader != nil {
		d.reloader.ask()
	}
}

// Serving is closed when every socket is served.
func (d *Daemon) Serving() <-chan struct{} { return d.serving }

// Stopping is closed when Shutdown begins.
func (d *Daemon) Stopping() <-chan struct{} { return d.stopping }

// Failed delivers an error that ends the process: a socket that cannot be had.
func (d *Daemon) Failed() <-chan error { return d.failed }

// Silent returns why the process should be started anew, nil where it should not:
// it does not answer on its own sockets. Nothing else could be mended by that.
func (d *Daemon) Silent() error {
	var silent []error
	for _, p := range d.current.Load().providers {
		if err := p.at.answering.problem(); err != nil {
			silent = append(silent, fmt.Errorf("provider %s does not answer on its socket: %w", p.cfg.Name, err))
		}
	}
	return errors.Join(silent...)
}

// States returns how each provider's first key is doing, in one line.
func (d *Daemon) States() string {
	g := d.current.Load()
	states := make([]string, 0, len(g.providers))
	for _, p := range g.providers {
		h := p.provider.Health()
		state := fmt.Sprintf("provider %s: %s", p.cfg.Name, h.State)
		if h.Err != nil {
			state += " (" + h.Err.Code.String() + ")"
		}
		states = append(states, state)
	}
	return strings.Join(states, ", ")
}

// HealthAddress returns where health and metrics are served, "" while the port
// is not to be had.
func (d *Daemon) HealthAddress() string { return d.http.address() }

// ShutdownDelay returns how long to go on serving once the process is told to
// end, by the configuration that is served.
func (d *Daemon) ShutdownDelay() time.Duration { return d.current.Load().cfg.ShutdownDelay }

// Shutdown stops accepting, lets running calls finish for up to five seconds,
// and removes the sockets. hurry cuts that short.
func (d *Daemon) Shutdown(hurry context.Context) {
	d.stop()
	d.reloading.Wait() // a reload under way is given up
	defer context.AfterFunc(hurry, func() { close(d.cut) })()
	g := d.current.Load()
	rings, endpoints := g.without(nothing())
	d.drain(rings, endpoints) //nolint:contextcheck // it outlives ctx
	d.draining.Wait()
	d.work.Wait()
	d.conns.Close() //nolint:contextcheck // has a limit of its own
	d.handed.close()
}

// drain lets what no generation has any more come to its end: sockets first, then
// what their last calls need.
func (d *Daemon) drain(rings []*ring, endpoints []*endpoint) {
	d.draining.Go(func() {
		var ends sync.WaitGroup
		for _, e := range endpoints {
			ends.Go(func() { e.drain(d.cut) })
		}
		ends.Wait()
		for _, r := range rings {
			ends.Go(r.end)
		}
		ends.Wait()
	})
}

func (d *Daemon) healthMetrics() []metrics.Health {
	providers := d.current.Load().providers
	out := make([]metrics.Health, 0, len(providers))
	for _, s := range providers {
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
