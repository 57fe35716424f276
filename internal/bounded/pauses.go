package bounded

import (
	"context"
	"sync"
	"time"
)

const (
	turnEvery = time.Second
	// turnLate is how late a turn may be before the process counts as paused.
	turnLate = 10 * time.Second
)

// Pauses knows when the process did not run: it was stopped by a signal, its
// machine was paused, or it got no processor. Whoever concludes from failures that
// come one after the other, or from something that has not happened for a while,
// starts to count again where a pause ended: the limits of what was under way ran
// out together, and show nothing.
//
// It measures by the monotonic clock, so that a step of the wall clock does not count
// as a pause. Nil has never seen a pause. It is safe for concurrent use.
type Pauses struct {
	mu   sync.Mutex
	turn time.Time // the last one
	last time.Time // when the last pause ended
}

// NewPauses returns a Pauses whose first turn is now. Run has to run beside it.
func NewPauses() *Pauses { return &Pauses{turn: time.Now()} }

// Run takes a turn every second until ctx ends. A turn that is more than ten
// seconds late is a pause.
func (p *Pauses) Run(ctx context.Context) {
	ticker := time.NewTicker(turnEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.Turn()
		}
	}
}

// Turn is what Run does every second. A test has a pause by not calling it.
func (p *Pauses) Turn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look(time.Now())
}

// Last returns when the last pause ended, and the zero time where there was none.
// It looks for itself: when the process goes on, whoever asks may come before Run
// does.
func (p *Pauses) Last() time.Time {
	if p == nil {
		return time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.turn) > turnEvery+turnLate {
		p.look(now)
	}
	return p.last
}

// Since reports whether a pause ended after when: what began before it is to be
// counted again.
func (p *Pauses) Since(when time.Time) bool { return p.Last().After(when) }

// look takes a turn. The caller holds the lock.
func (p *Pauses) look(now time.Time) {
	if now.Sub(p.turn) > turnEvery+turnLate {
		p.last = now
	}
	p.turn = now
}
