package bounded

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// crowd is how much of what a Lane left behind may run before it holds back.
	crowd = 4
	// holdBack is how long it does at first.
	holdBack = time.Minute
)

// A Lane is for work that is begun again and again, such as the read of a file, so
// that what is left behind does not pile up: each read of a hung file system costs
// a thread until it returns. While four still run, another is begun a minute after
// the last, then two minutes, four, and so on, for it may be only they that hang.
// It is safe for concurrent use.
type Lane struct {
	Observer *Observer
	Wait     Wait
	Alone    bool // one that is left behind has to return before another is begun

	mu     sync.Mutex
	behind int
	began  time.Time     // of the last work
	ended  chan struct{} // cap 1: some that was left behind has returned
}

// ErrHeldBack is the Cause where a Lane began no work.
var ErrHeldBack = errors.New("what was begun before has not returned")

// DoIn is [Do] for one work of a Lane, which fails at once where too much of what
// was left behind before still runs.
func DoIn[T any](ctx context.Context, l *Lane, work func(context.Context) (T, error)) (T, error) {
	if !l.begin() {
		var none T
		return none, &AbandonedError{Wait: l.Wait, Cause: ErrHeldBack}
	}
	return Do(ctx, l.Observer, l.Wait, func(ctx context.Context) (T, error) {
		defer l.end(ctx)
		return work(ctx)
	})
}

// RunIn is [DoIn] for work without a value.
func RunIn(ctx context.Context, l *Lane, work func(context.Context) error) error {
	_, err := DoIn(ctx, l, func(ctx context.Context) (struct{}, error) { return struct{}{}, work(ctx) })
	return err
}

// Ended receives when work has returned that may have been left behind: the next
// can be begun at once.
func (l *Lane) Ended() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signal()
}

func (l *Lane) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.behind > 0 && l.Alone {
		return false
	}
	if more := l.behind - crowd; more >= 0 && time.Since(l.began) < holdBack<<min(more, 20) {
		return false
	}
	l.behind++
	l.began = time.Now()
	return true
}

func (l *Lane) end(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind--
	if ctx.Err() == nil {
		return
	}
	select {
	case l.signal() <- struct{}{}:
	default:
	}
}

// signal returns the channel of Ended. The caller holds the lock.
func (l *Lane) signal() chan struct{} {
	if l.ended == nil {
		l.ended = make(chan struct{}, 1)
	}
	return l.ended
}
