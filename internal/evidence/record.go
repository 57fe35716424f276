// Package evidence weighs what calls of KMS showed about one key: whether it works,
// is refused, cannot be reached, or has no credentials.
//
// Every call enters its outcome into the [Record] of its key. [Record.Verdict] says
// what all of them amount to:
//
//   - One success of an operation ends whatever was wrong with it.
//   - A refusal counts once a check that begins at least five seconds later is refused
//     too: IAM is eventually consistent.
//   - An outage needs three failures over 20 seconds.
//   - Three due checks in a row that tell nothing put the key in doubt.
//   - Bad data, cancelled calls and overload tell nothing.
//
// The package does no I/O, starts nothing and reads no clock: its callers pass the time.
package evidence

import (
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// An Operation is one kind of call, whose evidence is kept apart from the others'.
type Operation int

// Operations, in the order in which a failure is looked for.
const (
	Encrypt Operation = iota
	Decrypt
	Reopen // the Decrypt of what this process has just encrypted
)

const operations = 3

// Operations returns every operation.
func Operations() []Operation { return []Operation{Encrypt, Decrypt, Reopen} }

// A Record is the evidence about one key: what every KMS call that used it showed.
// It is kept for each operation, since a key that still encrypts and no longer
// decrypts is the one that loses data, and so does one that decrypts only older
// data. The zero value has no evidence. It is safe for concurrent use.
type Record struct {
	mu      sync.Mutex
	tracks  [operations]track
	resumed time.Time // when the last pause of the process ended that is known here

	barred atomic.Pointer[cause.Error] // why nothing may be encrypted; nil: it may
}

// Enter records how a call ended, at now. began is when the due check began that
// made the call; zero for every other call.
func (r *Record) Enter(op Operation, now time.Time, err error, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil { // it ends whatever was wrong
		r.tracks[op] = track{lastOK: now, graceFrom: now}
	} else {
		r.tracks[op].failed(now, cause.Of(err), began)
	}
	r.barred.Store(r.unreadableLocked())
}

// Resume starts to count again after a pause of the process that ended at the given
// time, unless that pause is known already.
func (r *Record) Resume(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !at.After(r.resumed) {
		return
	}
	ran := r.resumed // the process did then, and whenever a call ended before the pause did
	for i := range r.tracks {
		for _, ended := range []time.Time{r.tracks[i].last, r.tracks[i].lastOK} {
			if !ended.After(at) {
				ran = later(ran, ended)
			}
		}
	}
	r.resumed = at
	for i := range r.tracks {
		r.tracks[i].resume(at, ran)
	}
}

// Forget drops all evidence: the key's name stands for another key now.
func (r *Record) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tracks = [operations]track{}
}

// Backdate makes all evidence d older, as a pause of the process does whose clock
// went on. Only tests of pauses need it.
func (r *Record) Backdate(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.resumed.IsZero() {
		r.resumed = r.resumed.Add(-d)
	}
	for i := range r.tracks {
		t := &r.tracks[i]
		for _, at := range []*time.Time{&t.lastOK, &t.graceFrom, &t.first, &t.last, &t.refusedAt} {
			if !at.IsZero() {
				*at = at.Add(-d)
			}
		}
	}
}

// unreadableLocked returns why nobody could read what is encrypted now.
func (r *Record) unreadableLocked() *cause.Error {
	for _, op := range []Operation{Decrypt, Reopen} {
		if t := &r.tracks[op]; t.confirmed {
			return t.err
		}
	}
	return nil
}

// Unreadable returns why nobody could read what is encrypted now: Decrypt is
// confirmed as refused, or what was encrypted does not open. nil: it can be read, as
// far as is known.
func (r *Record) Unreadable() *cause.Error { return r.barred.Load() }

// A Verdict is what the evidence amounts to at one moment.
type Verdict struct {
	State     State
	Err       *cause.Error // the cause; also of failures that do not yet amount to a state
	Since     time.Time    // of the first failure; zero where nothing is wrong
	LastOK    time.Time    // of the operation that fails, or of the older of both
	GraceFrom time.Time    // from when the grace counts: LastOK, or later after a pause
	Contacted bool         // both operations have worked once
	Suspect   bool         // a failure is outstanding
	InDoubt   bool         // checks tell nothing any more
	Confirm   bool         // a refusal waits for a check of its own
	RefusedAt time.Time    // when the first such refusal came, of the operation where it came last
	ConfirmAt time.Time    // from when a check confirms the first of them
}

// Verdict weighs the evidence.
func (r *Record) Verdict() Verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := Verdict{State: Healthy, Contacted: true}
	for i := range r.tracks {
		t := &r.tracks[i]
		v.Suspect = v.Suspect || t.failing()
		if t.unconfirmed() {
			at := t.refusedAt.Add(confirmAfter)
			if !v.Confirm || at.Before(v.ConfirmAt) {
				v.ConfirmAt = at
			}
			v.Confirm, v.RefusedAt = true, later(v.RefusedAt, t.refusedAt)
		}
		if Operation(i) == Reopen { // which shows no more than the other two, where it works
			continue
		}
		v.Contacted = v.Contacted && !t.lastOK.IsZero()
		if i == 0 || t.lastOK.Before(v.LastOK) {
			v.LastOK, v.GraceFrom = t.lastOK, t.graceFrom
		}
	}
	if worst := r.worstLocked(); worst != nil {
		v.State, v.Err, v.Since, v.LastOK, v.GraceFrom = worst.state(), worst.told(), worst.first, worst.lastOK, worst.graceFrom
		v.InDoubt = worst.inDoubt()
	}
	if v.State == Healthy && !v.Contacted {
		v.State = Unknown
	}
	return v
}

// worstLocked returns the failing track that decides, nil where none fails.
func (r *Record) worstLocked() *track {
	var worst *track
	for i := range r.tracks {
		t := &r.tracks[i]
		if t.failing() && (worst == nil || t.state().rank() > worst.state().rank()) {
			worst = t
		}
	}
	return worst
}

// FreshUntil returns until when no check is needed: then the evidence of the older
// operation is as old as interval, or what was encrypted has not been opened for
// reopened.
func (r *Record) FreshUntil(interval, reopened time.Duration) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := r.tracks[Reopen].lastOK.Add(reopened)
	for _, op := range []Operation{Encrypt, Decrypt} {
		if fresh := r.tracks[op].lastOK.Add(interval); fresh.Before(until) {
			until = fresh
		}
	}
	return until
}

// Fails reports whether a failure of an operation is outstanding.
func (r *Record) Fails(op Operation) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tracks[op].failing()
}

// Reading weighs the evidence about Decrypt alone, for a key that only reads. lastOK
// is zero where no Decrypt has worked.
func (r *Record) Reading() (state State, err *cause.Error, lastOK time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.tracks[Decrypt]
	state = t.state()
	if state == Healthy && t.lastOK.IsZero() {
		state = Unknown
	}
	return state, t.err, t.lastOK
}

// Allowed records that KMS says it would allow Decrypt. That ends what is wrong,
// except a refusal for the key's state where the answer does not prove that state.
// It returns the class of what goes on, "" for nothing.
func (r *Record) Allowed(stateProven bool) cause.Class {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.tracks[Decrypt]
	if t.refusals > 0 && t.refusal.Code.OfKeyState() && !stateProven {
		return cause.Refused
	}
	*t = track{lastOK: t.lastOK}
	return ""
}
