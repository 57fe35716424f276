package daemon

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
)

// An endpoint is one socket with all that callers meet there: listener, gRPC
// server, connections. It lives as long as a configuration has the socket, over
// all the providers that are served on it.
type endpoint struct {
	path      string // as the configuration has it
	socket    *socket
	server    *kmsserver.Server
	conns     connections
	allowed   atomic.Pointer[[]uint32] // users that may connect; empty: the file's mode decides
	rejected  func(provider, reason string)
	answering answering
	answers   atomic.Bool // it is served
	missing   atomic.Pointer[missing]
	again     chan struct{} // has the socket tried at once, where it is missing
	began     time.Time
	log       *slog.Logger

	stop      context.CancelFunc // ends the work; set by whoever starts that
	work      sync.WaitGroup
	accepting sync.WaitGroup // begun by the work, so it ends after that
	impatient func()         // ends the wait of the last listener's accept; of whoever accepts
}

// newEndpoint returns one that nobody can connect to yet.
func (d *Daemon) newEndpoint(cfg *config.Config, path string, t *kmsserver.Target) *endpoint {
	e := &endpoint{
		path: path, server: kmsserver.New(d.opts.Version, t), began: time.Now(), log: d.log.With("socket", path),
		rejected: d.metrics.Rejected, again: make(chan struct{}, 1), stop: func() {}, impatient: func() {}, answering: answering{pauses: d.pauses},
		socket: newSocket(socketOptions{
			path: path, access: access{mode: cfg.Socket.Mode, group: cfg.Socket.Group}, log: d.log, time: d.time, files: d.files, settings: d.settings, handed: d.handed,
			itself: d.itself, waits: d.waits, pauses: d.pauses,
		}),
	}
	e.allowed.Store(&cfg.Socket.AllowUIDs)
	return e
}

// claimAndServe claims the socket, however long its holder takes to leave, and
// serves it. One that cannot be had is tried again until it can. settled is called
// when it is served, and when it is missing for the first time. What it starts ends
// with drain, and not with ctx.
func (e *endpoint) claimAndServe(ctx context.Context, wait time.Duration, settled func()) {
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	e.work.Go(func() {
		if err := e.socket.claim(ctx, wait); err != nil && !e.claimLater(ctx, err, settled) {
			return
		}
		e.run(ctx)
		settled()
	})
}

// serve serves a socket that is claimed. What it starts ends with drain, and not
// with ctx.
func (e *endpoint) serve(ctx context.Context) {
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	e.run(ctx)
}

// found reports whether callers find the socket served.
func (e *endpoint) found() bool {
	_, err := e.socket.problem()
	return e.answers.Load() && err == nil
}

func (e *endpoint) run(ctx context.Context) {
	e.accept(ctx, e.socket.current())
	e.answers.Store(true)
	e.log.Info("serving", "provider", e.server.Target().Name())
	e.work.Go(func() { e.answering.watch(ctx, e.socket.time.answer, e.socket.ask, e.log) })
	e.work.Go(func() { e.socket.keep(ctx, func(l net.Listener) { e.accept(ctx, l) }) })
}

// accept serves a listener, which takes the place of the one before. A listener
// that is broken does not end the process: the socket is made again.
func (e *endpoint) accept(ctx context.Context, l net.Listener) {
	e.impatient()
	ctx, e.impatient = context.WithCancel(ctx)
	g := newGate(newPatientListener(l, e.socket.files.accept, ctx.Done(), e.log), e)
	e.accepting.Go(func() {
		if err := e.server.Serve(g); err != nil && ctx.Err() == nil && e.socket.renounce(l) {
			e.log.Error("the socket is broken: it is made again", "error", err.Error())
		}
	})
}

// close stops accepting and removes the socket. Calls under way go on.
func (e *endpoint) close() {
	e.stop()
	e.socket.close()
}

// drain closes the endpoint and waits for running calls until ctx ends, which
// cuts them. It reports whether all has ended then; what hangs is left behind.
//
// No caller that was let in may be turned away: gRPC closes a connection that it
// is handed after GracefulStop has begun, and the caller's first call fails. So
// that waits until all that were accepted are in gRPC's hands.
func (e *endpoint) drain(ctx context.Context, ends *ending) bool {
	of := " of socket " + e.path
	late, cancel := after(ctx, e.socket.time.rest*2/5)
	defer cancel()
	ended := ends.within(late, "the file"+of, e.close)
	ended = ends.within(late, "work"+of, func() {
		e.work.Wait()
		e.accepting.Wait()
		e.conns.waitUntilHandled()
	}) && ended
	defer context.AfterFunc(ctx, e.cut)()
	defer time.AfterFunc(e.socket.time.silence, e.conns.closeSilent).Stop()
	return ends.within(late, "calls"+of, e.server.GracefulStop) && ended
}

// cut ends what GracefulStop waits for, other than a call that does not return.
func (e *endpoint) cut() {
	e.conns.closeAll()
	e.server.Stop()
}

// discard undoes the claim of an endpoint that never served.
func (e *endpoint) discard() {
	e.socket.discard()
	e.server.Stop()
}

// SameSocket says whether two paths are the same socket, by whatever links they
// lead there: /var/run is one on most systems.
func SameSocket(a, b string) bool {
	return a == b || canonical(a) == canonical(b)
}

// canonical is a socket's path without links in it, as far as it is there.
func canonical(path string) string {
	if strings.HasPrefix(path, "@") {
		return path
	}
	path = filepath.Clean(path)
	dir, rest := filepath.Split(path)
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		if there, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(there, rest)
		}
		if dir == filepath.Dir(dir) {
			return path
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}
