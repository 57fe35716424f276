package rewrite

import (
	"sync/atomic"
	"time"
)

// Progress is how far a [Run] is. It may be read while Run runs.
type Progress struct {
	round, done, total, written, failed atomic.Int64
	began                               atomic.Pointer[time.Time]
	listing                             atomic.Bool
}

// Listing reports whether etcd is being read, and no object is being sent.
func (p *Progress) Listing() bool { return p.listing.Load() }

// Round is the present one, from 1, and when it began. It is 0 before the first.
func (p *Progress) Round() (round int64, began time.Time) {
	if at := p.began.Load(); at != nil {
		began = *at
	}
	return p.round.Load(), began
}

// Objects returns how many of a round's objects are dealt with, and how many it has.
func (p *Progress) Objects() (done, total int64) { return p.done.Load(), p.total.Load() }

// Counts returns how many objects were written in all rounds, and how many answers were
// failures.
func (p *Progress) Counts() (written, failed int64) { return p.written.Load(), p.failed.Load() }

func (p *Progress) begin(total int) {
	now := time.Now()
	p.began.Store(&now)
	p.round.Add(1)
	p.done.Store(0)
	p.total.Store(int64(total))
}
