// Package ending ends things in order, waits for each no longer than it may, and names
// what hangs.
package ending

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Ending is what the end of the process, or of what a reload replaced, waits
// for. Each wait has a name, so that the log can say what hangs. It is safe for
// concurrent use.
type Ending struct {
	Left func() // called for each wait that is given up

	mu   sync.Mutex
	open []string
}

// Within runs work, and reports whether it ended before ctx did. Else the work goes
// on by itself. [bounded.Run] would wait for a moment longer, which the waits of one
// end, one for each key and socket, have no time for.
func (e *Ending) Within(ctx context.Context, what string, work func()) bool {
	e.Begin(what)
	done := make(chan struct{})
	go func() { // ends with the work
		defer close(done)
		defer e.End(what)
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
		e.Left()
		return false
	}
}

// After returns a context that ends a while after another one has ended.
func After(ctx context.Context, while time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() { time.AfterFunc(while, cancel) })
	return late, func() { forget(); cancel() }
}

// Begin notes that something is waited for. Call End with the same name.
func (e *Ending) Begin(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open = append(e.open, what)
}

// End notes that it has ended.
func (e *Ending) End(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(e.open, what); i >= 0 {
		e.open = slices.Delete(e.open, i, i+1)
	}
}

// Hanging names what has not ended, "" where all has.
func (e *Ending) Hanging() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(e.open))), ", ")
}
