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
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/ending"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/healthport"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/readiness"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// Options are what the process is beside its configuration. All fields are
// required but Source, Sockets and RuntimeDir.
type Options struct {
	Log        *slog.Logger
	Version    string
	Commit     string
	GoVersion  string
	Source     *config.Source // of the configuration, to be read again; nil: it is not of a file
	Sockets    []*os.File     // that listen already, handed over by a service manager
	RuntimeDir string         // where what is known outlives the process; "": beside each socket
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
	pauses   *bounded.Pauses
	reaching *bounded.Lane // for the directories of sockets
	handed   *unixsocket.Handed
	itself   *unixsocket.Itself
	http     *healthport.Server

	current   atomic.Pointer[generation]
	reloader  *reloader                    // nil without a file
	histories map[string]*provider.History // by name of every provider that there ever was; of the reloader's goroutine

	stop      context.CancelFunc // ends reloads and the health port; calls and what they need go on
	stopping  <-chan struct{}    // closed by that
	reloading sync.WaitGroup     // what changes the generation
	changing  sync.Mutex         // held while the generation changes
	final     bool               // it changes no more
	draining  sync.WaitGroup     // what earlier generations have left behind
	work      sync.WaitGroup     // the HTTP server
	ending    *ending.Ending
	cut       context.CancelFunc           // running calls are waited for no longer
	onCut     func(func()) (forget func()) // calls a function then
	failed    chan error                   // no socket could be had

	serving chan struct{} // closed when every socket is served, or missing beside one that is
	once    sync.Once     // closes it
}

// Start makes everything and begins to serve. It does not wait: a socket whose
// holder is still alive, a health port that is taken and a KMS that cannot be
// reached each keep nothing else from serving.
func Start(cfg *config.Config, o Options) *Daemon { return start(cfg, o, usualTiming(), usualFiles()) }

func start(cfg *config.Config, o Options, t timing, f files) *Daemon {
	d := &Daemon{
		opts: o, time: t, files: f, started: cfg, settings: settingsOf(cfg), log: o.Log, registry: prometheus.NewRegistry(),
		conns: awskms.NewConnections(), handed: unixsocket.NewHanded(o.Sockets, o.Log), itself: unixsocket.NewItself(f.Dial), failed: make(chan error, 1), serving: make(chan struct{}),
		histories: map[string]*provider.History{},
	}
	d.metrics = metrics.New(d.registry, o.Version, o.Commit, o.GoVersion, words(cause.Classes()), words(bounded.Waits()))
	d.waits = &bounded.Observer{Log: o.Log, Left: func(w bounded.Wait) { d.metrics.Abandoned(string(w)) }}
	d.pauses, d.reaching = bounded.NewPauses(), &bounded.Lane{Observer: d.waits, Wait: bounded.File}
	d.ending = &ending.Ending{Left: func() { d.metrics.Abandoned(string(bounded.Close)) }}
	cut, cutNow := context.WithCancel(context.Background())
	d.cut, d.onCut = cutNow, func(f func()) func() {
		stop := context.AfterFunc(cut, f)
		return func() { stop() }
	}
	d.conns.Waits, d.conns.Dial = d.waits, f.dial
	ctx, stop := context.WithCancel(context.Background())
	d.stop, d.stopping = stop, ctx.Done()
	first := d.next(nothing(), cfg)
	d.keepHistories(first)
	d.current.Store(first)
	metrics.RegisterHealth(d.registry, words(evidence.States()), d.healthMetrics)
	metrics.RegisterKeys(d.registry, words(evidence.KeyStates()), d.keyMetrics)
	if o.Source != nil {
		d.reloader = newReloader(d, cfg)
		metrics.RegisterReload(d.registry, d.reloader.metrics)
	}
	if limit, err := descriptorLimit(); err == nil {
		warnOfFewDescriptors(limit, len(first.providers), o.Log)
	}
	for _, s := range first.providers {
		s.instance.start(ctx)
		s.at.claimAndServe(ctx, t.holderWait, d.noteSettled)
	}
	if d.reloader != nil {
		d.reloading.Go(func() { d.reloader.run(ctx) })
	}
	d.http = healthport.New(healthport.Options{
		Address: cfg.Health.Address, Handler: readiness.Handler(readiness.Options{
			Liveness: []string{cfg.Health.HealthzPath, cfg.Health.LivezPath}, Live: d.Silent, Look: d.snapshot,
			Metrics: promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}),
		}), Retry: t.portRetry, Listen: f.listen, Accept: f.accept, Log: d.log,
	})
	d.work.Go(func() { d.http.Run(ctx) })
	d.work.Go(func() { d.pauses.Run(ctx) })
	return d
}

// noteSettled closes serving at the right time, or delivers that nothing can be
// served: what is served must not end for what is not.
func (d *Daemon) noteSettled() {
	g := d.current.Load()
	if !g.settled() {
		return
	}
	if err := g.allMissing(); err != nil {
		d.fail(err)
		return
	}
	d.once.Do(func() { close(d.serving) })
	d.warnOfUnused()
}

// warnOfUnused says which sockets were handed over for nothing. Callers are not
// refused there: they wait, until their time is up.
func (d *Daemon) warnOfUnused() {
	for _, path := range d.handed.Unused() {
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

// Serving is closed when every socket is served. One that cannot be had is not waited
// for where another is served.
func (d *Daemon) Serving() <-chan struct{} { return d.serving }

// Stopping is closed when Shutdown begins.
func (d *Daemon) Stopping() <-chan struct{} { return d.stopping }

// Failed delivers an error that ends the process: not one socket can be had.
func (d *Daemon) Failed() <-chan error { return d.failed }

// Silent returns why the process should be restarted, nil where it should not:
// it does not answer on its own sockets. Nothing else could be mended by that.
func (d *Daemon) Silent() error {
	var silent []error
	for _, p := range d.current.Load().providers {
		if err := p.at.answering.Problem(); err != nil {
			silent = append(silent, fmt.Errorf("provider %s does not answer on its socket: %w", p.cfg.Name, err))
		}
	}
	return errors.Join(silent...)
}

// States returns in one line what is wrong with the file of --config, if anything, and
// how each provider's socket and first key are doing.
func (d *Daemon) States() string {
	g := d.current.Load()
	states := make([]string, 0, len(g.providers))
	for _, p := range g.providers {
		states = append(states, p.state())
	}
	return d.reloadTrouble() + strings.Join(states, ", ")
}

// state says in a few words how a provider's socket and first key are doing.
func (s *served) state() string {
	h := s.provider.Health()
	state := fmt.Sprintf("provider %s: %s", s.cfg.Name, h.State)
	if h.Err != nil {
		state += " (" + h.Err.Code.String() + ")"
	}
	if s.at.missing.Load() != nil {
		state += ", its socket cannot be had (" + cause.SocketNotHad.String() + ")"
	}
	return state
}

// reloadTrouble says why the file as it is now is not served, "" where it is.
func (d *Daemon) reloadTrouble() string {
	if d.reloader == nil {
		return ""
	}
	err := d.reloader.state.Load().err
	if err == nil {
		return ""
	}
	return "configuration not reloaded, the running one goes on: " + brief(err.Error()) + "; "
}

// brief is the beginning of a text that may have many lines.
func brief(text string) string {
	const most = 400
	text, _, _ = strings.Cut(text, "\n")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// HealthAddress returns where health and metrics are served, "" while the port
// is not to be had.
func (d *Daemon) HealthAddress() string { return d.http.Address() }

// ShutdownDelay returns how long to go on serving once the process is told to
// end, by the configuration that is served.
func (d *Daemon) ShutdownDelay() time.Duration { return d.current.Load().cfg.ShutdownDelay }

// Shutdown stops accepting, lets running calls finish for up to five seconds,
// and removes the sockets. What calls may wait for goes on until they have ended:
// checks, looks, credentials. hurry cuts that short. It returns soon after that,
// whatever hangs, and says in one line what does.
func (d *Daemon) Shutdown(hurry context.Context) {
	d.stop()
	defer d.cut() // so that nothing waits on where this does not
	over := make(chan struct{})
	defer d.onCut(func() { time.AfterFunc(d.time.rest, func() { close(over) }) })()
	defer context.AfterFunc(hurry, d.cut)()
	defer time.AfterFunc(d.time.drain, d.cut).Stop()
	done := make(chan struct{})
	go func() { //nolint:contextcheck // it outlives hurry, and ends with what hangs longest
		defer close(done)
		d.end()
	}()
	select {
	case <-done:
	case <-over:
	}
	if what := d.ending.Hanging(); what != "" {
		d.log.Warn("the process ends although this has not ended", "hanging", what)
	}
}

// end ends all in order: what changes the generation, the sockets, then what
// their calls needed.
func (d *Daemon) end() {
	soon, cancel := d.until(reloadEnds)
	defer cancel()
	d.ending.Within(soon, "a reload", d.reloading.Wait) // one under way is given up
	instances, endpoints := d.last()
	ctx, cancel := d.until(d.time.drain)
	defer cancel()
	last, cancel := ending.After(ctx, d.time.rest)
	defer cancel()
	d.drain(instances, endpoints)
	d.draining.Wait()
	d.ending.Within(last, "the health port", d.work.Wait)
	d.ending.Within(last, "connections to KMS", d.conns.Close)
	d.ending.Within(last, "sockets that were handed over", d.handed.Close)
}

// last is what the generation has that is followed by none.
func (d *Daemon) last() ([]*instance, []*endpoint) {
	const what = "a change of what is served"
	d.ending.Begin(what)
	defer d.ending.End(what)
	d.changing.Lock()
	defer d.changing.Unlock()
	d.final = true
	return d.current.Load().without(nothing())
}

// reloadEnds is how long the end of the process waits for a reload to be given up.
const reloadEnds = time.Second

// until returns a context with a limit, that ends earlier where running calls are
// cut.
func (d *Daemon) until(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	forget := d.onCut(cancel)
	return ctx, func() { forget(); cancel() }
}

// drain lets what no generation has any more come to its end: sockets first, then
// what their last calls need.
func (d *Daemon) drain(instances []*instance, endpoints []*endpoint) {
	d.draining.Go(func() {
		var hung atomic.Bool
		var ends sync.WaitGroup
		for _, e := range endpoints {
			ends.Go(func() {
				ctx, cancel := d.until(d.time.drain)
				defer cancel()
				if !e.drain(ctx, d.ending) {
					hung.Store(true)
				}
			})
		}
		ends.Wait()
		for _, r := range instances {
			ends.Go(func() {
				ctx, cancel := d.until(r.longest())
				defer cancel()
				if !r.end(ctx, d.time.rest, d.ending) {
					hung.Store(true)
				}
			})
		}
		ends.Wait()
		select {
		case <-d.stopping: // Shutdown says it
		default:
			if hung.Load() {
				d.log.Warn("what the configuration before had is left behind: it does not end", "hanging", d.ending.Hanging())
			}
		}
	})
}

// words are the texts of a closed set of names.
func words[S ~string](names []S) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return out
}
