package evidence

import (
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

const (
	// An outage is declared when at least outageFailures calls failed over at least
	// outageSpan and none succeeded: one throttled call must not empty the load
	// balancers.
	outageFailures = 3
	outageSpan     = 20 * time.Second
	// confirmAfter is the least time between a refusal and the check that confirms
	// it: IAM is eventually consistent.
	confirmAfter = 5 * time.Second
	// doubtChecks is how many due checks running have to tell nothing until nobody
	// knows any more whether the key works.
	doubtChecks = 3
)

// A track is the evidence about one operation under one key.
type track struct {
	lastOK      time.Time    // zero: never
	graceFrom   time.Time    // lastOK, or later by the time for which the process did not run
	failures    int          // since lastOK
	mute        int          // due checks since lastOK that told nothing
	muted       *cause.Error // how the last of those ended
	first, last time.Time    // of all those
	err         *cause.Error // the last of them
	refusals    int          // of the failures, those that have to be confirmed
	refusal     *cause.Error // the last of them
	refusedAt   time.Time    // the first of them
	confirmed   bool         // by one that came confirmAfter later, or more
}

// failing says that something is wrong that no success has ended.
func (t *track) failing() bool { return t.failures > 0 || t.mute > 0 }

// failed tells that a call failed. began is when the due check began that made it,
// and zero for every other call: only a check confirms a refusal, and only what a
// check leaves open puts the key in doubt.
func (t *track) failed(now time.Time, err *cause.Error, began time.Time) {
	check, tells := !began.IsZero(), err.Class().TellsHealth()
	if !check && !tells {
		return
	}
	if !t.failing() {
		t.first = now
	}
	t.last = now
	if tells {
		t.failures++
	}
	if check && (!tells || err.Code == cause.InDoubt) {
		t.mute++
		t.muted = err
	}
	if confirmable(err) {
		t.refused(now, err, began)
	} else if t.confirmed {
		// A refused key stays refused until it works, also when KMS can no longer be
		// asked: what is told is the refusal, and that nobody knows whether it lasts.
		err = since(t.refusal, err)
	}
	t.err = err
}

// refused takes in a failure that becomes a state once it is confirmed: a refusal by
// a check, and that what was sealed does not open by whoever meets it.
func (t *track) refused(now time.Time, err *cause.Error, began time.Time) {
	if err.Code == cause.RoundTripBroken {
		began = now
	}
	if t.refusals == 0 {
		t.refusedAt = now
	}
	t.confirmed = t.confirmed || began.Sub(t.refusedAt) >= confirmAfter
	t.refusals++
	t.refusal = err
}

// confirmable reports whether a failure becomes a state once it is confirmed.
func confirmable(err *cause.Error) bool {
	return err.Class() == cause.Refused || err.Code == cause.RoundTripBroken
}

// unconfirmed says that there was a refusal which no check has confirmed, and no
// success since.
func (t *track) unconfirmed() bool { return t.refusals > 0 && !t.confirmed }

// inDoubt says that checks tell nothing. What a refused key is, is known.
func (t *track) inDoubt() bool { return t.mute >= doubtChecks && !t.confirmed }

func (t *track) state() State {
	switch {
	case t.confirmed && t.refusal.Class() == cause.Refused:
		return Refused
	case t.confirmed, t.inDoubt():
		return Outage
	case t.failures < outageFailures || t.last.Sub(t.first) < outageSpan:
		return Healthy
	case t.err.Class() == cause.Credentials:
		return Credentials
	}
	return Outage
}

// told is the error to tell of a track that fails.
func (t *track) told() *cause.Error {
	if !t.inDoubt() {
		return t.err
	}
	doubt := t.muted
	if doubt.Code != cause.InDoubt {
		doubt = doubt.Noted("checks of the key end so one after the other, which tells nothing: nobody knows whether it works")
	}
	if t.err != t.muted && t.err.Code != doubt.Code {
		return since(doubt, t.err)
	}
	return doubt
}

// resume starts to count again after a pause of the process, in which no check
// could run. What has become a state stays one, and of the grace only that time
// counts in which the process ran, as it did at ran.
func (t *track) resume(at, ran time.Time) {
	switch {
	case t.failing() && t.last.After(at): // all of it came later
		return
	case t.lastOK.IsZero():
	case t.failing():
		t.graceFrom = t.graceFrom.Add(at.Sub(ran))
	default:
		t.graceFrom = later(t.graceFrom, at)
	}
	if t.state() == Healthy {
		*t = track{lastOK: t.lastOK, graceFrom: t.graceFrom}
	}
}

// since is a failure with what failed after it.
func since(first, then *cause.Error) *cause.Error {
	told := *first
	told.Later = then
	return &told
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
