package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/filewatch"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// A reloader makes the process serve what the file of --config says.
type reloader struct {
	daemon *Daemon
	source *config.Source
	asked  chan struct{} // SIGHUP
	state  atomic.Pointer[fileState]

	// Of run's own goroutine.
	watch   *filewatch.Watch
	reads   *bounded.Lane // of the file, whose file system may hang
	last    attempt
	missing time.Time // since when the file is away; zero: it is there
	forced  bool      // what was asked for has not been done yet
}

// A fileState is what became of the file, for operators.
type fileState struct {
	err     error     // why the file as it is now is not served; nil: it is
	since   time.Time // when it was first found to be so
	retried bool      // it is tried again, also where it does not change
}

// An attempt is what was last made of the file.
type attempt struct {
	hash  string        // of its content; "": it could not be read
	pause time.Duration // until it is tried again; 0: not before it changes
	retry time.Time     // when that is
	err   string
}

func newReloader(d *Daemon, cfg *config.Config) *reloader {
	r := &reloader{
		daemon: d, source: d.opts.Source, asked: make(chan struct{}, 1), last: attempt{hash: cfg.Hash},
		reads: &bounded.Lane{Observer: d.waits, Wait: bounded.File},
	}
	r.state.Store(&fileState{})
	return r
}

// ask makes run load the file, changed or not.
func (r *reloader) ask() {
	select {
	case r.asked <- struct{}{}:
	default: // it will
	}
}

func (r *reloader) metrics() metrics.Reload {
	g := r.daemon.current.Load()
	return metrics.Reload{OK: r.state.Load().err == nil, LastOK: g.loaded, Hash: g.cfg.Hash}
}

// run loads the file whenever it changes, until ctx ends.
func (r *reloader) run(ctx context.Context) {
	t := r.daemon.time
	r.watch = filewatch.New(filewatch.Options{
		Path: r.source.Path(), Timing: filewatch.Timing{Settle: t.settle, SettleMost: t.settleMost, Poll: t.poll},
		Notify: r.daemon.files.notify, Log: r.daemon.log,
	})
	for ctx.Err() == nil {
		r.look(ctx)
		if r.watch.Wait(ctx, r.due(), r.asked, r.reads.Ended()) {
			r.forced = true
		}
	}
	r.watch.Close()
}

// read follows the watch and then reads the file. Where that hangs it is left
// behind, and the watch with it.
func (r *reloader) read(ctx context.Context) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, r.daemon.time.File)
	defer cancel()
	w, path, read := r.watch, r.source.Path(), r.daemon.files.read
	data, err := bounded.DoIn(limited, r.reads, func(context.Context) ([]byte, error) {
		defer w.Leave()
		w.Follow()
		return read(path)
	})
	if _, hangs := errors.AsType[*bounded.AbandonedError](err); !hangs {
		w.TakeBack()
		return data, err
	}
	if !errors.Is(err, bounded.ErrHeldBack) {
		w.Leave()
		r.watch = w.Another()
	}
	return nil, &unixsocket.HungError{What: "reading the configuration", Limit: r.daemon.time.File}
}

// due is when to look again, whatever is noticed.
func (r *reloader) due() time.Duration {
	_, hangs := errors.AsType[*unixsocket.HungError](r.state.Load().err)
	switch {
	case hangs:
		return r.daemon.time.poll / 2
	case !r.missing.IsZero() && r.last.hash != "":
		return r.daemon.time.missing / 10
	case r.last.pause > 0:
		return max(0, min(r.daemon.time.poll, time.Until(r.last.retry)))
	}
	return r.daemon.time.poll
}

// look reads the file, and loads it where there is a reason to.
func (r *reloader) look(ctx context.Context) {
	data, err := r.read(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		if r.missing.IsZero() {
			r.missing = time.Now()
		}
		if time.Since(r.missing) < r.daemon.time.missing { // it is being replaced, perhaps
			return
		}
	} else {
		r.missing = time.Time{}
	}
	hash := ""
	if err == nil {
		hash = config.Hash(data)
	}
	forced := r.forced
	r.forced = false
	due := r.last.pause > 0 && !time.Now().Before(r.last.retry)
	if hash == r.last.hash && !due && !forced {
		return
	}
	if hash != r.last.hash || forced {
		r.last = attempt{hash: hash}
	}
	if err == nil {
		r.daemon.conns.Refresh() // what else is read from files may have changed as well
		err = r.load(ctx, data)
	}
	if err != nil && ctx.Err() == nil {
		r.failed(err)
	}
}

// load makes the daemon serve what data says.
func (r *reloader) load(ctx context.Context, data []byte) error {
	cfg, err := r.source.Load(data)
	if err != nil {
		return err
	}
	did, err := r.daemon.change(ctx, cfg)
	if err != nil {
		return err
	}
	r.last = attempt{hash: r.last.hash}
	r.state.Store(&fileState{})
	log := r.daemon.log
	log.Info("configuration reloaded", "file", r.source.Path(), "hash", cfg.Hash,
		"added", did.added, "removed", did.removed, "changed", did.changed, "carried", did.carried)
	for _, warning := range append(did.warnings, append(cfg.Warnings, r.daemon.late(cfg)...)...) {
		log.Warn(warning)
	}
	return nil
}

// failed notes why the file is not served. One that is broken has to change; what
// else is wrong may mend itself.
func (r *reloader) failed(err error) {
	t := r.daemon.time
	_, broken := errors.AsType[config.Mistakes](err)
	if !broken {
		r.last.pause = min(max(t.retry, 2*r.last.pause), t.retryMost)
		r.last.retry = time.Now().Add(r.last.pause)
	}
	text := err.Error()
	now := &fileState{err: err, since: time.Now(), retried: !broken}
	if was := r.state.Load(); was.err != nil {
		now.since = was.since
	}
	r.state.Store(now)
	if text == r.last.err {
		return
	}
	r.last.err = text
	next := "when the file changes, or at SIGHUP"
	if !broken {
		next = fmt.Sprintf("in %s, when the file changes, or at SIGHUP", r.last.pause)
	}
	r.daemon.log.Error("configuration not reloaded: the running one goes on", "file", r.source.Path(), "hash", r.last.hash,
		"running", r.daemon.current.Load().cfg.Hash, "error", text, "tried_again", next)
}
