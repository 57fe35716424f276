package rewrite

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How a pace follows what an API server can take.
const (
	slow      = time.Second     // an answer that takes this long halves the rate
	cutAgain  = time.Second     // no sooner: answers that were sent before a cut say nothing of it
	raiseEach = 5 * time.Second // without trouble
	raiseBy   = 1.0 / 16        // of the full rate
	leastPart = 1.0 / 64        // of the full rate, and no less than leastRate
	leastRate = 1.0 / 4         // a second
	maxPause  = time.Minute     // that an API server may ask for
	firstTry  = time.Second     // of a pause that it does not ask for; doubled each time
	maxTries  = 5               // for one object in one round
	maxTurns  = 10              // conflicts of one object in one round
)

// A pace bounds how many requests are sent a second. It halves where the API server
// has too much to do, and recovers slowly. It may be used by many goroutines.
type pace struct {
	limiter *rate.Limiter
	full    float64

	mu      sync.Mutex
	now     float64
	changed time.Time
}

func newPace(full float64) *pace {
	return &pace{limiter: rate.NewLimiter(rate.Limit(full), 1), full: full, now: full, changed: time.Now()}
}

// wait returns when the next request may be sent, or ctx ends.
func (p *pace) wait(ctx context.Context) error { return p.limiter.Wait(ctx) }

// answered takes how an answer came.
func (p *pace) answered(took time.Duration, throttled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := time.Since(p.changed)
	var next float64
	switch {
	case (throttled || took >= slow) && since >= cutAgain:
		next = max(p.now/2, min(p.full, max(p.full*leastPart, leastRate)))
	case !throttled && took < slow && since >= raiseEach:
		next = min(p.full, p.now+p.full*raiseBy)
	default:
		return
	}
	p.now, p.changed = next, time.Now()
	p.limiter.SetLimit(rate.Limit(next))
}
