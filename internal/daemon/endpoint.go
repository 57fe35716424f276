package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/accept"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/ending"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/liveness"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// An endpoint is one socket with all that callers meet there: listener, gRPC
// server, connections. It lives as long as a configuration has the socket, over
// all the providers that are served on it.
type endpoint struct {
	path      string // as the configuration has it
	socket    *unixsocket.Socket
	server    *kmsserver.Server
	conns     unixsocket.Connections
	allowed   atomic.Pointer[[]uint32] // users that may connect; empty: the file's mode decides
	setting   string                   // that names them
	rejected  func(provider, reason string)
	itself    *unixsocket.Itself
	asking    *bounded.Lane // for the question whether the process answers
	answering *liveness.Answering
	answers   atomic.Bool // it is served
	missing   atomic.Pointer[missing]
	again     chan struct{} // has the socket tried at once, where it is missing
	began     time.Time
	log       *slog.Logger
	time      timing
	acceptBy  func(net.Listener) (net.Conn, error)

	stop      context.CancelFunc // ends the work; set by whoever starts that
	work      sync.WaitGroup
	accepting sync.WaitGroup // begun by the work, so it ends after that
	impatient func()         // ends the wait of the last listener's accept; of whoever accepts
}

// claimAndServe claims the socket, however long its holder takes to leave, and
// serves it. One that cannot be had is tried again until it can. settled is called
// when it is served, and when it is missing for the first time. What it starts ends
// with drain, and not with ctx.
func (e *endpoint) claimAndServe(ctx context.Context, wait time.Duration, settled func()) {
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	e.work.Go(func() {
		if err := e.socket.Claim(ctx, wait); err != nil && !e.claimLater(ctx, err, settled) {
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
	_, err := e.socket.Problem()
	return e.answers.Load() && err == nil
}

func (e *endpoint) run(ctx context.Context) {
	e.accept(ctx, e.socket.Current())
	e.answers.Store(true)
	e.log.Info("serving", "provider", e.server.Target().Name())
	e.work.Go(func() { e.answering.Watch(ctx, e.time.answer, e.ask, e.log) })
	e.work.Go(func() { e.socket.Keep(ctx, func(l net.Listener) { e.accept(ctx, l) }) })
}

// accept serves a listener, which takes the place of the one before. A listener
// that is broken does not end the process: the socket is made again.
func (e *endpoint) accept(ctx context.Context, l net.Listener) {
	e.impatient()
	ctx, e.impatient = context.WithCancel(ctx)
	g := unixsocket.NewGate(accept.Patiently(l, e.acceptBy, ctx.Done(), e.log), unixsocket.GateOptions{
		Allowed: func() []uint32 { return *e.allowed.Load() }, Setting: e.setting, Connections: &e.conns, Itself: e.itself,
		Provider: func() string { return e.server.Target().Name() }, Rejected: e.rejected, Log: e.log,
	})
	e.accepting.Go(func() {
		if err := e.server.Serve(g); err != nil && ctx.Err() == nil && e.socket.Renounce(l) {
			e.log.Error("the socket is broken: it is made again", "error", err.Error())
		}
	})
}

// close stops accepting and removes the socket. Calls under way go on.
func (e *endpoint) close() {
	e.stop()
	e.socket.Close()
}

// drain closes the endpoint and waits for running calls until ctx ends, which
// cuts them. It reports whether all has ended then; what hangs is left behind.
//
// No caller that was let in may be turned away: gRPC closes a connection that it
// is handed after GracefulStop has begun, and the caller's first call fails. So
// that waits until all that were accepted are in gRPC's hands.
func (e *endpoint) drain(ctx context.Context, ends *ending.Ending) bool {
	of := " of socket " + e.path
	late, cancel := ending.After(ctx, e.time.rest*2/5)
	defer cancel()
	ended := ends.Within(late, "the file"+of, e.close)
	ended = ends.Within(late, "work"+of, func() {
		e.work.Wait()
		e.accepting.Wait()
		e.conns.WaitUntilHandled()
	}) && ended
	defer context.AfterFunc(ctx, e.cut)()
	defer time.AfterFunc(e.time.silence, e.conns.CloseSilent).Stop()
	return ends.Within(late, "calls"+of, e.server.GracefulStop) && ended
}

// cut ends what GracefulStop waits for, other than a call that does not return.
func (e *endpoint) cut() {
	e.conns.CloseAll()
	e.server.Stop()
}

// discard undoes the claim of an endpoint that never served.
func (e *endpoint) discard() {
	e.socket.Discard()
	e.server.Stop()
}

// ask asks the endpoint's socket for its version, as a caller would. Where the file is
// not this process's own, or its file system hangs, nobody could know: the socket looks
// after that itself.
func (e *endpoint) ask(ctx context.Context) error {
	if !e.socket.Owns(ctx, liveness.Timeout) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, liveness.Timeout)
	defer cancel()
	dial := func(ctx context.Context) (net.Conn, error) { return e.itself.Dial(ctx, e.path) }
	err := bounded.RunIn(limited, e.asking, func(ctx context.Context) error { return liveness.Ask(ctx, e.path, dial) })
	if _, ok := errors.AsType[*bounded.AbandonedError](err); ok {
		err = fmt.Errorf("asking %s for its version: %w", e.path, err)
	}
	if err != nil && e.socket.Owns(ctx, liveness.Timeout) {
		return err
	}
	return nil
}
