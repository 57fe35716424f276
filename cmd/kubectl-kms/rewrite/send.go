package rewrite

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// An end is what became of one object in one round.
type end struct {
	outcome   ending
	object    Object // as it was sent last
	revision  int64  // of what was written
	conflicts int64
	why       Left // where it is left: Outcome, Cause and Next
	change    *Change
	compared  bool
}

type ending uint8

const (
	ended ending = iota // before anything was known: ctx
	written
	notWritten
	byOthers
	gone
	refused // for good: the same request would be refused again
	failed  // another round may do
)

// send has one object written. When ctx ends no further request begins; one that is
// under way is waited for.
func (r *run) send(ctx context.Context, o Object) end {
	e := end{object: o}
	for tries := 1; ; {
		if r.pace.wait(ctx) != nil {
			return e
		}
		revision, took, err := r.patch(ctx, e.object)
		refusal, answered := errors.AsType[*RefusalError](err)
		denied, hangs := answered && refusal.Denied, answered && refusal.Hangs
		again := answered && !denied && (refusal.Code == http.StatusTooManyRequests || refusal.Code >= http.StatusInternalServerError)
		if !hangs { // else it is not the API server that has too much to do
			r.pace.answered(took, again)
		}
		switch {
		case err == nil:
			return r.answered(ctx, e, revision)
		case denied:
			e.outcome, e.why = refused, Left{Outcome: OutcomeRefused, Cause: refusal.Cause, Next: refusal.Next}
			return e
		case answered && refusal.Code == http.StatusConflict:
			if e.conflicts++; !r.conflict(ctx, &e) {
				return e
			}
			continue
		case answered && refusal.Code == http.StatusNotFound:
			return r.notFound(ctx, e)
		case answered && !again:
			e.outcome, e.why = refused, Left{Outcome: OutcomeRefused, Cause: refusal.Cause, Next: refusal.Next}
			return e
		case errors.Is(err, context.DeadlineExceeded), tries == maxTries,
			hangs, answered && (refusal.Code == http.StatusGatewayTimeout || refusal.RetryAfter > maxPause):
			// What hangs would hang again: the next round asks once more.
			e.outcome, e.why = failed, failure(err, r.o.Timeout)
			return e
		}
		pause := firstTry << (tries - 1)
		if answered && refusal.RetryAfter > 0 {
			pause = refusal.RetryAfter
		}
		tries++
		if !sleep(ctx, pause) {
			return e
		}
	}
}

// patch sends one request, which ctx does not end.
func (r *run) patch(ctx context.Context, o Object) (revision int64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.Timeout)
	defer cancel()
	begin := time.Now()
	revision, err = r.patcher.Patch(ctx, o)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // whatever the client calls it
	}
	return revision, time.Since(begin), err
}

// answered takes the answer to a request that the API server carried out. Only a later
// revision was written: an API server that takes the object for fresh answers with the
// one that it has.
func (r *run) answered(ctx context.Context, e end, revision int64) end {
	if revision <= e.object.Revision {
		e.outcome = notWritten
		return e
	}
	e.outcome, e.revision = written, revision
	if !r.lister.Proves() {
		return e
	}
	// Also when ctx has ended: what was written is looked at.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.Timeout)
	defer cancel()
	after, err := r.lister.Look(ctx, e.object, revision, r.keys)
	if err != nil || !after.Found {
		return e
	}
	e.compared = true
	if before := e.object.Size; before.Differs(after.Object.Size) {
		e.change = &Change{Path: shown(e.object.name()), Before: Bytes(before), After: Bytes(after.Object.Size)}
	}
	return e
}

// conflict looks at what somebody else has written or created, and reports whether to
// send that.
func (r *run) conflict(ctx context.Context, e *end) bool {
	now, err := r.lister.Look(ctx, e.object, 0, r.keys)
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		e.outcome, e.why = failed, Left{Outcome: OutcomeConflict, Cause: "somebody else wrote it, and it could not be read again: " + err.Error(), Next: nextAgain}
	case !now.Found:
		e.outcome = gone
	case !now.Stale:
		e.outcome = byOthers
	case now.Object.Revision == e.object.Revision && r.lister.Proves():
		e.outcome, e.why = failed, Left{
			Outcome: OutcomeMismatch, Cause: "the API server has another revision of it than etcd", Next: nextMismatch,
		}
	case e.conflicts >= maxTurns:
		e.outcome, e.why = failed, Left{Outcome: OutcomeConflict, Cause: "somebody else writes it again and again", Next: nextAgain}
	default:
		e.object = now.Object
		return true
	}
	return false
}

// notFound believes etcd: an API server of another cluster would find nothing either.
func (r *run) notFound(ctx context.Context, e end) end {
	now, err := r.lister.Look(ctx, e.object, 0, r.keys)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.outcome, e.why = failed, Left{Outcome: OutcomeFailed, Cause: "the API server does not find it, and etcd could not be read: " + err.Error(), Next: nextAgain}
	case now.Found:
		e.outcome, e.why = failed, Left{Outcome: OutcomeMismatch, Cause: "the API server does not find it, and etcd has it", Next: nextMismatch}
	default:
		e.outcome = gone
	}
	return e
}

// What to do about what is left.
const (
	nextAgain    = "Run this again"
	nextMismatch = "Do --endpoints and the kubeconfig belong to one cluster? Else look at it with kubectl get"
)

// failure says why a request was not answered, or with a 5xx.
func failure(err error, limit time.Duration) Left {
	l := Left{Outcome: OutcomeFailed, Next: nextAgain}
	if refusal, ok := errors.AsType[*RefusalError](err); ok {
		l.Cause = refusal.Cause
		if refusal.Next != "" {
			l.Next = refusal.Next
		}
		return l
	}
	if errors.Is(err, context.DeadlineExceeded) {
		l.Cause = "no answer within " + limit.String()
		l.Next = "Is a webhook behind it that hangs, or an API server that is overloaded? Then run this again"
		return l
	}
	l.Cause = err.Error()
	l.Next = "Is the API server up? Then run this again"
	return l
}

// sleep returns false when ctx has ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
