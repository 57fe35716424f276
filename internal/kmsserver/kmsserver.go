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
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
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

// Provider is what a socket serves; see [keyring.Provider].
type Provider interface {
	Encrypt(ctx context.Context, plaintext secret.Bytes) (keyring.Encrypted, error)
	Decrypt(ctx context.Context, stored keyring.Stored) (secret.Bytes, error)
	Status(ctx context.Context) (keyring.Status, error)
}

// Options configure a Server. All fields are required.
type Options struct {
	Name     string // of the provider
	Key      string // as configured: the label of the predecessor's metrics
	Version  string // of this program
	Provider Provider
	Metrics  *metrics.Metrics
	Log      *slog.Logger
}

// New returns a gRPC server that serves both APIs for one provider. close stops
// what New started; call it when the server has stopped.
func New(o Options) (server *grpc.Server, closeLog func()) {
	server = grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(handshakeTime),
	)
	log := o.Log.With("provider", o.Name)
	s := &service{
		name: o.Name, provider: o.Provider, log: log, panics: rate.Sometimes{Interval: window}, failures: newFailureLog(log),
	}
	bind := func(api, operation, key string) *metrics.Call { return o.Metrics.Call(o.Name, api, operation, key) }
	v1beta1.RegisterKeyManagementServiceServer(server, &v1Server{
		service: s, version: o.Version,
		encrypt: bind("v1", "encrypt", o.Key), decrypt: bind("v1", "decrypt", o.Key),
	})
	v2.RegisterKeyManagementServiceServer(server, &v2Server{
		service: s,
		encrypt: bind("v2", "encrypt", o.Key), decrypt: bind("v2", "decrypt", o.Key), status: bind("v2", "status", ""),
	})
	return server, s.failures.close
}

// service is what both translators share: admission, panics, metrics, logs and
// the form of errors.
type service struct {
	name     string
	provider Provider
	log      *slog.Logger
	panics   rate.Sometimes // stacks in the log
	failures *failureLog
	underWay atomic.Int64
}

// A call is one call's name in logs and its handles in metrics.
type call struct {
	api, operation, uid string
	metrics             *metrics.Call
	free                bool // never refused for load
}

// do runs one call.
func (s *service) do(ctx context.Context, c call, work func(context.Context) error) (err error) {
	start := time.Now()
	if c.uid != "" {
		ctx = withUID(ctx, c.uid)
	}
	if c.free {
		err = s.guard(ctx, work)
	} else {
		err = s.admit(ctx, work)
	}
	took := time.Since(start)
	if err == nil {
		c.metrics.Done(metrics.Success, false, took)
		if s.log.Enabled(ctx, slog.LevelDebug) {
			s.log.DebugContext(ctx, "call served", "api", c.api, "operation", c.operation, "took", took.String())
		}
		return nil
	}
	e := cause.Of(err)
	c.metrics.Done(string(e.Class()), e.Code == cause.Throttled, took)
	s.failures.record(ctx, c, e, err, took)
	return status.Error(codeOf(e), strings.ToValidUTF8(err.Error(), "?"))
}

// admit refuses work when too much is under way.
func (s *service) admit(ctx context.Context, work func(context.Context) error) error {
	if s.underWay.Add(1) > maxUnderWay {
		s.underWay.Add(-1)
		return &cause.Error{Code: cause.TooManyCalls, Provider: s.name, Said: fmt.Sprintf("the limit is %d", maxUnderWay)}
	}
	defer s.underWay.Add(-1)
	return s.guard(ctx, work)
}

// guard turns a panic into an error: one call must not take down the process
// that an API server hangs on.
func (s *service) guard(ctx context.Context, work func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panics.Do(func() {
				s.log.ErrorContext(ctx, "panic in a call", "panic", cause.Quote(fmt.Sprint(p)), "stack", string(debug.Stack()))
			})
			err = &cause.Error{Code: cause.Panicked, Provider: s.name}
		}
	}()
	return work(ctx)
}

// codeOf is the gRPC code of an error: its class's, except that a deadline has a
// code of its own.
func codeOf(e *cause.Error) codes.Code {
	if e.Code == cause.TooLittleTime {
		return codes.DeadlineExceeded
	}
	return e.Class().GRPCCode()
}
