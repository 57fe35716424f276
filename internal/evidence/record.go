package keyring

import (
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// A State says how a key is doing. Its text is the value of the metrics label
// "state", so a name never changes.
type State string

// States of a key. A bug counts as an outage.
const (
	Unknown     State = "unknown" // not yet reached
	Healthy     State = "healthy"
	Refused     State = "refused"
	Outage      State = "outage"
	Credentials State = "credentials"
)

// Fails reports whether a key that is in the state does not do its work.
func (s State) Fails() bool { return s == Refused || s == Outage || s == Credentials }

// States returns every state, in the order in which a reader of metrics wants
// them.
func States() []State { return []State{Unknown, Healthy, Refused, Outage, Credentials} }

type operation int

const (
	encrypt operation = iota
	decrypt
	reopen // what was just sealed, by this process
	operations
)

// A record is the evidence about one key: what every KMS call that used it told.
// It is kept for each operation, since a key that still encrypts and no longer
// decrypts is the one that loses data, and one that decrypts only what is older
// loses it too. It is safe for concurrent use.
type record struct {
	mu      sync.Mutex
	tracks  [operations]track
	resumed time.Time // when the last pause of the process ended that is known here

	barred atomic.Pointer[cause.Error] // why nothing may be encrypted; nil: it may
}

// enter tells how a call ended. began is when the due check began that made it;
// zero for every other call.
func (r *record) enter(op operation, now time.Time, err error, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil { // it ends whatever was wrong
		r.tracks[op] = track{lastOK: now, graceFrom: now}
	} else {
		r.tracks[op].failed(now, cause.Of(err), began)
	}
	r.barred.Store(r.unreadableLocked())
}

// resume starts to count again where a pause of the process has ended since the
// last time.
func (r *record) resume(at time.Time) {
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

// unreadableLocked returns why what is encrypted now could not be read again.
func (r *record) unreadableLocked() *cause.Error {
	for _, op := range []operation{decrypt, reopen} {
		if t := &r.tracks[op]; t.confirmed {
			return t.err
		}
	}
	return nil
}

// unreadable returns why what is encrypted now could not be read again: Decrypt is
// confirmed as refused, or what was sealed does not open. nil: it can be read, as
// far as is known.
func (r *record) unreadable() *cause.Error { return r.barred.Load() }

// A verdict is what the evidence amounts to at one moment.
type verdict struct {
	state     State
	err       *cause.Error // the cause; also of failures that do not yet amount to a state
	since     time.Time    // of the first failure; zero where nothing is wrong
	lastOK    time.Time    // of the operation that fails, or of the older of both
	graceFrom time.Time    // from when the grace counts: lastOK, or later after a pause
	contacted bool         // both operations have worked once
	suspect   bool         // a failure is outstanding
	inDoubt   bool         // checks tell nothing any more
	confirm   bool         // a refusal waits for a check of its own
	refusedAt time.Time    // when the first such refusal came, of the operation where it came last
	confirmAt time.Time    // from when a check confirms the first of them
}

// verdict weighs the evidence.
func (r *record) verdict() verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := verdict{state: Healthy, contacted: true}
	for i := range r.tracks {
		t := &r.tracks[i]
		v.suspect = v.suspect || t.failing()
		if t.unconfirmed() {
			at := t.refusedAt.Add(confirmAfter)
			if !v.confirm || at.Before(v.confirmAt) {
				v.confirmAt = at
			}
			v.confirm, v.refusedAt = true, later(v.refusedAt, t.refusedAt)
		}
		if operation(i) == reopen { // which shows no more than the other two, where it works
			continue
		}
		v.contacted = v.contacted && !t.lastOK.IsZero()
		if i == 0 || t.lastOK.Before(v.lastOK) {
			v.lastOK, v.graceFrom = t.lastOK, t.graceFrom
		}
	}
	if worst := r.worstLocked(); worst != nil {
		v.state, v.err, v.since, v.lastOK, v.graceFrom = worst.state(), worst.told(), worst.first, worst.lastOK, worst.graceFrom
		v.inDoubt = worst.inDoubt()
	}
	if v.state == Healthy && !v.contacted {
		v.state = Unknown
	}
	return v
}

// worstLocked returns the failing track that decides, nil where none fails.
func (r *record) worstLocked() *track {
	var worst *track
	for i := range r.tracks {
		t := &r.tracks[i]
		if t.failing() && (worst == nil || rank(t.state()) > rank(worst.state())) {
			worst = t
		}
	}
	return worst
}

// freshUntil is until when a check is not needed: the evidence of the older operation
// is interval old then, or what was sealed has not been opened for reopened.
func (r *record) freshUntil(interval, reopened time.Duration) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := r.tracks[reopen].lastOK.Add(reopened)
	for _, op := range []operation{encrypt, decrypt} {
		if fresh := r.tracks[op].lastOK.Add(interval); fresh.Before(until) {
			until = fresh
		}
	}
	return until
}

// fails says that an operation's failure is outstanding.
func (r *record) fails(op operation) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tracks[op].failing()
}
