package awskms

import (
	"context"
	"time"
)

// A Call is how much of a caller's time one call of KMS may take. It takes no more
// than [Options.Timeout], and ends [Reply] before its context does, in any case. The
// zero value asks for nothing else.
type Call struct {
	// By is when everything that is done for the caller has ended, over all the keys
	// that are tried; zero: no time is named.
	By time.Time
	// Share makes the call take no more than an n-th part of the time that is left, for
	// a caller that has n keys to try. A time-out is KMS's fault all the same. Less than
	// two: the call takes all of it.
	Share int
}

// Within returns the Call of a caller who has so long from now on.
func Within(limit time.Duration) Call { return Call{By: time.Now().Add(limit)} }

// limit is the time that is left for the caller's keys, and no more than most. reply is
// what the caller keeps of its deadline.
func (c Call) limit(ctx context.Context, most, reply time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline)-reply)
	}
	if !c.By.IsZero() {
		most = min(most, time.Until(c.By))
	}
	return most
}

// shared is what the call may take of that time.
func (c Call) shared(limit time.Duration) time.Duration {
	return limit / time.Duration(max(c.Share, 1))
}
