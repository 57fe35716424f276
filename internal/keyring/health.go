package keyring

import (
	"sync"
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

// States returns every state, in the order in which a reader of metrics wants
// them.
func States() []State { return []State{Unknown, Healthy, Refused, Outage, Credentials} }

// An outage is declared when at least outageFailures calls failed over at least
// outageSpan and none succeeded: one throttled call must not empty the load
// balancers.
const (
	outageFailures = 3
	outageSpan     = 20 * time.Second
)

type operation int

const (
	encrypt operation = iota
	decrypt
	operations
)

// A record is the evidence about one key: what every KMS call that used it told.
// It is kept for each operation, since a key that still encrypts and no longer
// decrypts is the one that loses data. It is safe for concurrent use.
type record struct {
	mu     sync.Mutex
	tracks [operations]track
}

// A track is the evidence about one operation under one key.
type track struct {
	lastOK      time.Time    // zero: never
	failures    int          // since lastOK
	first, last time.Time    // of those failures
	err         *cause.Error // the last of them
	refusals    int          // of those failures
	refusal     *cause.Error // the last of them
	refusedAt   time.Time
	confirmed   bool // a refusal was confirmed by a check of its own
}

// enter tells how a call ended.
func (r *record) enter(op operation, now time.Time, err error, check bool) {
	if err == nil {
		r.succeeded(op, now)
		return
	}
	r.failed(op, now, cause.Of(err), check)
}

// succeeded tells that a call worked. It ends whatever was wrong.
func (r *record) succeeded(op operation, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tracks[op] = track{lastOK: now}
}

// failed tells that a call failed. What says nothing about a key is ignored.
// check says that the call was a check of health and not traffic: only a check
// can confirm a refusal.
func (r *record) failed(op operation, now time.Time, err *cause.Error, check bool) {
	if !err.Class().TellsHealth() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.tracks[op]
	if t.failures == 0 {
		t.first = now
	}
	t.failures++
	t.last = now
	refused := err.Class() == cause.Refused
	if refused {
		t.confirmed = t.confirmed || check && t.refusals > 0
		t.refusals++
		t.refusal, t.refusedAt = err, now
	}
	if refused || !t.confirmed {
		t.err = err
		return
	}
	// A refused key stays refused until it works, also when KMS can no longer be
	// asked: what is told is the refusal, and that nobody knows whether it lasts.
	told := *t.err
	told.Later = err
	t.err = &told
}

// A verdict is what the evidence amounts to at one moment.
type verdict struct {
	state     State
	err       *cause.Error // the cause; also of failures that do not yet amount to a state
	since     time.Time    // of the first failure; zero where nothing is wrong
	lastOK    time.Time    // of the operation that fails, or of the older of both
	contacted bool         // both operations have worked once
	suspect   bool         // a failure is outstanding
	confirm   bool         // a refusal waits for a check of its own
	refusedAt time.Time    // when that came
}

// verdict weighs the evidence.
func (r *record) verdict() verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := verdict{state: Healthy, contacted: true}
	for i := range r.tracks {
		t := &r.tracks[i]
		v.contacted = v.contacted && !t.lastOK.IsZero()
		v.suspect = v.suspect || t.failures > 0
		if t.unconfirmed() {
			v.confirm = true
			v.refusedAt = later(v.refusedAt, t.refusedAt)
		}
		if i == 0 || t.lastOK.Before(v.lastOK) {
			v.lastOK = t.lastOK
		}
	}
	if worst := r.worstLocked(); worst != nil {
		v.state, v.err, v.since, v.lastOK = worst.state(), worst.err, worst.first, worst.lastOK
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
		if t.failures > 0 && (worst == nil || rank(t.state()) > rank(worst.state())) {
			worst = t
		}
	}
	return worst
}

// unconfirmed says that there was a refusal which no check has confirmed, and no
// success since.
func (t *track) unconfirmed() bool {
	return t.refusals > 0 && !t.confirmed
}

func (t *track) state() State {
	switch {
	case t.confirmed:
		return Refused
	case t.failures < outageFailures || t.last.Sub(t.first) < outageSpan:
		return Healthy
	case t.err.Class() == cause.Credentials:
		return Credentials
	}
	return Outage
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func rank(s State) int {
	switch s {
	case Refused:
		return 3
	case Credentials:
		return 2
	case Outage:
		return 1
	case Healthy, Unknown, Authorised:
		return 0
	}
	return 0
}

// freshUntil is when the evidence of the older operation is interval old.
func (r *record) freshUntil(interval time.Duration) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.tracks[encrypt].lastOK
	if d := r.tracks[decrypt].lastOK; d.Before(oldest) {
		oldest = d
	}
	return oldest.Add(interval)
}

// fails says that an operation's failure is outstanding.
func (r *record) fails(op operation) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tracks[op].failures > 0
}
