package kmsserver

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Provider is what a socket serves; see [provider.Provider].
type Provider interface {
	Encrypt(ctx context.Context, plaintext secret.Bytes) (provider.Encrypted, error)
	Decrypt(ctx context.Context, stored keyring.Stored) (secret.Bytes, error)
	Status(ctx context.Context) (provider.Status, error)
}

// TargetOptions configure a Target. All fields are required.
type TargetOptions struct {
	Name     string // of the provider
	Key      string // as configured: the label of the predecessor's metrics
	Provider Provider
	Metrics  *metrics.Metrics
	Log      *slog.Logger
}

// A Target is a provider with all that a call to it needs. It never changes, so
// that a call sees one provider from beginning to end, whatever its server is
// set to meanwhile.
type Target struct {
	name     string
	provider Provider
	counts   [operations]*metrics.Call
	log      *slog.Logger
	panics   rate.Sometimes // stacks in the log
	failures *failureLog

	calls   atomic.Int64 // under way, and one until Retire
	retire  sync.Once
	last    sync.Once
	drained chan struct{}
}

// NewTarget returns a Target. Retire it when it has served.
func NewTarget(o TargetOptions) *Target {
	log := o.Log.With("provider", o.Name)
	t := &Target{
		name: o.Name, provider: o.Provider, log: log, panics: rate.Sometimes{Interval: window}, failures: newFailureLog(log),
		drained: make(chan struct{}),
	}
	t.calls.Store(1)
	for op := range operations {
		api, name := op.words()
		key := o.Key
		if op == v2Status { // the predecessor did not count it
			key = ""
		}
		t.counts[op] = o.Metrics.Call(o.Name, api, name, key)
	}
	return t
}

// Name returns the provider's name.
func (t *Target) Name() string { return t.name }

// UnderWay returns how many calls have begun on t and not ended.
func (t *Target) UnderWay() int64 { return t.calls.Load() - 1 }

// Retire is for when no server that still runs is set to t, nor will be again.
// It returns when the calls that began on t have ended, and writes the rest of
// its failure lines.
func (t *Target) Retire() {
	t.retire.Do(t.leave)
	<-t.drained
	t.failures.close()
}

// leave ends what enter began.
func (t *Target) leave() {
	if t.calls.Add(-1) == 0 { // more than once where a call came late and left at once
		t.last.Do(func() { close(t.drained) })
	}
}
