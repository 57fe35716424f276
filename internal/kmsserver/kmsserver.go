// Package kmsserver translates kube-apiserver's KMS v1beta1 and v2 to the
// keyring and back. The two differ in their messages and never in what happens:
// what stands in both belongs below them.
//
// Protocols: https://pkg.go.dev/k8s.io/kms/apis/v1beta1 and .../apis/v2
package kmsserver

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

const (
	// MaxMessage bounds a message, in bytes: KMS takes 6,144, an annotation up to 32 kB.
	MaxMessage = 256 << 10
	// maxUnderWay bounds the calls that wait for KMS at once, Status excepted.
	// gRPC's own limit on streams would queue Status behind them.
	maxUnderWay = 1024
	// handshakeTime is what a new connection has for its first words: silent ones
	// would use up the places of a socket.
	handshakeTime = 10 * time.Second
	// streamWorkers keep goroutines and their stacks between calls.
	streamWorkers = 32
)

// A Server serves both APIs on one socket, for the target that it is set to. It
// outlives its targets: connections stay when the target changes.
type Server struct {
	*grpc.Server

	target   atomic.Pointer[Target]
	underWay atomic.Int64
	asking   atomic.Int64 // calls of Status under way
	silent   *silentStreams
}

// New returns a Server that is set to a target. version is this program's.
func New(version string, t *Target) *Server {
	s := &Server{}
	s.silent = newSilentStreams(func() *slog.Logger { return s.Target().log })
	s.Server = grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxHeaderListSize(maxHead),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.StaticStreamWindowSize(flowWindow),
		grpc.StaticConnWindowSize(flowWindow),
		grpc.InTapHandle(s.silent.begin),
		grpc.UnaryInterceptor(heard),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(handshakeTime),
	)
	s.target.Store(t)
	v1beta1.RegisterKeyManagementServiceServer(s, &v1Server{server: s, version: version})
	v2.RegisterKeyManagementServiceServer(s, &v2Server{server: s})
	return s
}

// Set makes new calls go to a target. Calls under way end where they began.
func (s *Server) Set(t *Target) { s.target.Store(t) }

// Target returns what the server is set to.
func (s *Server) Target() *Target { return s.target.Load() }

// enter returns the target of a new call, which has to leave it. A call that
// meets a change begins again, so that none enters a target once that has been
// retired.
func (s *Server) enter() *Target {
	for {
		t := s.target.Load()
		t.calls.Add(1)
		if s.target.Load() == t {
			return t
		}
		t.leave()
	}
}

// do runs one call.
func (s *Server) do(ctx context.Context, op operation, uid string, work func(context.Context, *Target) error) (err error) {
	start := time.Now()
	t := s.enter()
	defer t.leave()
	if uid != "" {
		ctx = withUID(ctx, uid)
	}
	if op == v2Status {
		err = s.answer(ctx, t, work)
	} else {
		err = s.admit(ctx, t, work)
	}
	took := time.Since(start)
	if err == nil {
		t.counts[op].Done(metrics.Success, false, took)
		if t.log.Enabled(ctx, slog.LevelDebug) {
			api, name := op.words()
			t.log.DebugContext(ctx, "call served", "api", api, "operation", name, "took", took.String())
		}
		return nil
	}
	e := cause.Of(err)
	t.counts[op].Done(string(e.Class()), e.Code == cause.Throttled, took)
	t.failures.record(ctx, op, e, err, took)
	return status.Error(codeOf(e), textOf(err, e))
}

// answer runs a Status, which is never refused for load. Of too many at once, those
// that come last say what is known and wait for nothing.
func (s *Server) answer(ctx context.Context, t *Target, work func(context.Context, *Target) error) error {
	defer s.asking.Add(-1)
	if s.asking.Add(1) > maxUnderWay {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 0)
		defer cancel()
	}
	return t.guard(ctx, work)
}

// admit refuses work when too much is under way on this socket, over all the
// targets that it has had.
func (s *Server) admit(ctx context.Context, t *Target, work func(context.Context, *Target) error) error {
	if s.underWay.Add(1) > maxUnderWay {
		s.underWay.Add(-1)
		return &cause.Error{Code: cause.TooManyCalls, Provider: t.name, Said: fmt.Sprintf("the limit is %d", maxUnderWay)}
	}
	defer s.underWay.Add(-1)
	return t.guard(ctx, work)
}

// guard turns a panic into an error: one call must not take down the process
// that an API server hangs on.
func (t *Target) guard(ctx context.Context, work func(context.Context, *Target) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.panics.Do(func() {
				t.log.ErrorContext(ctx, "panic in a call", "panic", cause.Quote(fmt.Sprint(p)), "stack", string(debug.Stack()))
			})
			err = &cause.Error{Code: cause.Panicked, Provider: t.name}
		}
	}()
	return work(ctx, t)
}
