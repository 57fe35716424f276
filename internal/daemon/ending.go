package daemon

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// An ending is what the end of the process, or of what a reload replaced, waits
// for. Each wait has a name, so that the log can say what hangs.
type ending struct {
	left func() // called for each wait that is given up

	mu   sync.Mutex
	open []string
}

// within runs work, and reports whether it ended before ctx did. Else the work goes
// on by itself. [bounded.Run] would wait for a moment longer, which the waits of one
// end, one for each key and socket, have no time for.
func (e *ending) within(ctx context.Context, what string, work func()) bool {
	e.begin(what)
	done := make(chan struct{})
	go func() { // ends with the work
		defer close(done)
		defer e.end(what)
		work()
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-done: // both
		return true
	default:
		e.left()
		return false
	}
}

// after returns a context that ends a while after another one has ended.
func after(ctx context.Context, while time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() { time.AfterFunc(while, cancel) })
	return late, func() { forget(); cancel() }
}

func (e *ending) begin(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open = append(e.open, what)
}

func (e *ending) end(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(e.open, what); i >= 0 {
		e.open = slices.Delete(e.open, i, i+1)
	}
}

// hanging names what has not ended, "" where all has.
func (e *ending) hanging() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(e.open))), ", ")
}
