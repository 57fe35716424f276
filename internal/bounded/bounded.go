// Package bounded ends waits for work that may never return.
//
// A context ends a wait only where what runs below listens to it. An HTTP 101
// detaches a connection from its request, a read of a hung file system cannot be
// interrupted at all, and a library may have a bug. [Do] therefore waits in the
// caller's goroutine while the work runs in another: when the context has ended
// and the work has not returned a moment later, the work is left behind, and the
// caller goes on, gives back its places and locks, and may try again.
//
// What is left behind costs a goroutine until it returns by itself. It is counted
// by the kind of wait and said in the log once.
//
// [Pauses] knows when the process itself did not run, so that nobody counts what ran
// out meanwhile.
//
// It is a leaf: every package may import it, and it imports none of ours.
package bounded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A Wait is a kind of wait. Its text is the value of the metrics label "wait", so
// a name never changes.
type Wait string

// Every kind of wait.
const (
	Call     Wait = "call"     // one call of KMS
	Check    Wait = "check"    // a check of a key's health
	Look     Wait = "look"     // a look at what a key's name stands for
	Settings Wait = "settings" // a look-up of AWS settings, credentials or Region
	File     Wait = "file"     // a read of a file or directory
	Question Wait = "question" // a question to the process's own socket
	Close    Wait = "close"    // a Close or a drain
)

// Waits returns every kind of wait, in the order in which a reader of metrics
// wants them.
func Waits() []Wait { return []Wait{Call, Check, Look, Settings, File, Question, Close} }

// grace is how long work may take to return after its context has ended: an error
// of its own says more than "left behind". It is less than what a caller keeps for
// its reply.
const grace = 100 * time.Millisecond

// An Observer counts what is left behind and says so. The zero value and nil do
// neither. It is safe for concurrent use.
type Observer struct {
	Log  *slog.Logger // nil: nobody is told
	Left func(Wait)   // called for each work that is left behind; nil: nobody counts

	mu   sync.Mutex
	said map[Wait]bool
	at   map[Wait]time.Time // when it was said last
}

// AbandonedError is work that was left behind. It unwraps to the error of the
// context that ended the wait.
type AbandonedError struct {
	Wait  Wait
	Cause error // of the context
}

func (e *AbandonedError) Error() string {
	return fmt.Sprintf("%s left behind: it did not end with its time limit: %v", e.Wait, e.Cause)
}

// Unwrap returns the error of the context.
func (e *AbandonedError) Unwrap() error { return e.Cause }

// Timeout says to whoever asks as [net.Error] does whether time ran out.
func (e *AbandonedError) Timeout() bool { return errors.Is(e.Cause, context.DeadlineExceeded) }

// Do runs work in a goroutine of its own and returns what it returns, or an
// [*AbandonedError] soon after ctx has ended although the work goes on. Work must
// own all that it uses: it may run on for any time, and what it returns late is
// dropped. A panic of the work is one of Do, as long as Do waits.
//
// Whoever calls Do gives ctx a deadline; without one the wait has no bound.
func Do[T any](ctx context.Context, o *Observer, wait Wait, work func(context.Context) (T, error)) (T, error) {
	return DoOn(ctx, nil, o, wait, work, func(T) {})
}

// DoOn is [Do] on one of the workers, or on a goroutine of its own where workers is
// nil. What the work returns late is given to late.
func DoOn[T any](ctx context.Context, workers *Workers, o *Observer, wait Wait,
	work func(context.Context) (T, error), late func(T),
) (T, error) {
	h := &handover[T]{ctx: ctx, do: work, done: make(chan struct{}), late: late}
	workers.run(h)
	if !h.await(ctx) {
		o.left(wait)
		var none T
		return none, &AbandonedError{Wait: wait, Cause: ctx.Err()}
	}
	if !h.returned {
		panic(h.panicked)
	}
	o.ended(wait)
	return h.value, h.err
}

// Run is [Do] for work without a value.
func Run(ctx context.Context, o *Observer, wait Wait, work func(context.Context) error) error {
	_, err := Do(ctx, o, wait, func(ctx context.Context) (struct{}, error) { return struct{}{}, work(ctx) })
	return err
}

// A handover is how a result gets from the work to whoever waits, or nowhere.
type handover[T any] struct {
	ctx  context.Context //nolint:containedctx // that of the work
	do   func(context.Context) (T, error)
	late func(T)

	settled atomic.Bool   // by the first of the two: the work ended, or nobody waits
	done    chan struct{} // closed when what follows is the waiter's

	value    T
	err      error
	returned bool
	panicked any
}

func (h *handover[T]) work() {
	defer func() {
		if !h.returned {
			h.panicked = recover()
		}
	}()
	h.value, h.err = h.do(h.ctx)
	h.returned = true
}

func (h *handover[T]) deliver() {
	if h.settled.CompareAndSwap(false, true) {
		close(h.done)
	} else if h.returned {
		h.late(h.value)
	}
}

// await waits for the work, for a moment longer than ctx, and reports whether the
// work has ended. Where it reports that it has not, late gets the result.
func (h *handover[T]) await(ctx context.Context) bool {
	select {
	case <-h.done:
		return true
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-h.done:
		return true
	case <-timer.C:
	}
	if h.settled.CompareAndSwap(false, true) {
		return false
	}
	<-h.done // closed by now, or about to be
	return true
}

// sayEvery bounds the lines where some work ends in time and some does not, as
// under load.
const sayEvery = time.Minute

// left counts work that is left behind, and says it once until such work ends in
// time again, though not more often than that.
func (o *Observer) left(wait Wait) {
	if o == nil {
		return
	}
	if o.Left != nil {
		o.Left(wait)
	}
	o.mu.Lock()
	if o.said == nil {
		o.said, o.at = map[Wait]bool{}, map[Wait]time.Time{}
	}
	now := time.Now()
	last, ever := o.at[wait]
	said := o.said[wait] || ever && now.Sub(last) < sayEvery
	o.said[wait] = true
	if !said {
		o.at[wait] = now
	}
	o.mu.Unlock()
	if o.Log != nil && !said {
		o.Log.Warn("what did not end within its time is left behind, and tried again: what it waits for ignores its limit", "wait", string(wait))
	}
}

// ended makes the next work that is left behind be said again.
func (o *Observer) ended(wait Wait) {
	if o == nil {
		return
	}
	o.mu.Lock()
	delete(o.said, wait)
	o.mu.Unlock()
}
