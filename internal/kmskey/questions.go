package kmskey

import (
	"bytes"
	"cmp"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// Intervals are the times between questions about the keys that data depends on.
// A field that is zero has the time that its comment says.
type Intervals struct {
	First   time.Duration // before the first question about a key that reads; 0: 10 seconds
	Ask     time.Duration // between two questions, and the longest back-off; 0: 5 minutes
	Confirm time.Duration // between a failure and the next question, from where it doubles; 0: 5 seconds
	Earlier time.Duration // between two questions about any earlier key of one alias; 0: 1 minute
	Denied  time.Duration // before KMS is asked again what it may not or cannot tell; 0: 6 hours
	Agree   time.Duration // that KMS may take until all of it says the same; 0: 5 minutes
}

// OrUsual returns the intervals with every zero field set.
func (i Intervals) OrUsual() Intervals {
	return Intervals{
		First:   cmp.Or(i.First, 10*time.Second),
		Ask:     cmp.Or(i.Ask, 5*time.Minute),
		Confirm: cmp.Or(i.Confirm, 5*time.Second),
		Earlier: cmp.Or(i.Earlier, time.Minute),
		Denied:  cmp.Or(i.Denied, 6*time.Hour),
		Agree:   cmp.Or(i.Agree, 5*time.Minute),
	}
}

// jitter is a random time up to a tenth of d, so that processes which started
// together do not ask together.
func jitter(d time.Duration) time.Duration {
	return mathrand.N(d/10 + 1) //nolint:gosec // jitter is no secret
}

// questions are what a key was asked and answered beside its record, and when it is
// asked next. It stays with the key over reloads. It is safe for concurrent use.
type questions struct {
	mu sync.Mutex

	next     time.Time     // question; zero: none was planned
	every    time.Duration // between questions; 0: nobody asks
	began    chan struct{} // closed when a failure begins; nil: nobody waits
	failing  cause.Class   // of what failed last; "": nothing
	since    time.Time     // failures of that class
	attempts int           // of ours since then
	proof    *proof

	allowedAt time.Time // when a dry run said yes; zero: never
	seesState bool      // KMS's dry runs do: one has refused the key for its state
	muteUntil time.Time // KMS does not know dry runs

	info         awskms.KeyInfo // of the last DescribeKey that was answered
	infoAt       time.Time      // zero: none was
	agreedAt     time.Time      // by then all of KMS says the same
	nextDescribe time.Time
	deniedUntil  time.Time // KMS refuses to describe the key

	said        evidence.State // a bad state that the log has told; "": none
	saidEnd     bool           // the log has told that the key is to be deleted,
	saidEndDate time.Time      // and when
}

// A proof is a ciphertext with which a key is asked what a caller would ask. One
// that the key has opened proves that it works. One that it refused shows at least
// whether it still does.
type proof struct {
	blob []byte
	arn  keyref.ARN // of the key that opened it; "": none has yet
}

// heard takes in how a caller's Decrypt ended. It reports whether the log may have
// to tell.
func (q *questions) heard(blob []byte, arn keyref.ARN, err error, now time.Time, confirm time.Duration) (news bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		q.openedLocked(blob, arn, now)
		return q.said != ""
	}
	class := cause.ClassOf(err)
	if !class.TellsHealth() {
		return false
	}
	if class == cause.Refused && (q.proof == nil || q.proof.arn == "") {
		q.proof = &proof{blob: bytes.Clone(blob)}
	}
	if q.failing == class || q.failing == cause.Refused {
		return false
	}
	q.failLocked(class, now)
	q.next = now.Add(confirm + jitter(2*confirm))
	if q.began != nil {
		close(q.began)
		q.began = nil
	}
	return false
}

// opened takes in a ciphertext that the key has opened.
func (q *questions) opened(blob []byte, arn keyref.ARN, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.openedLocked(blob, arn, now)
}

func (q *questions) openedLocked(blob []byte, arn keyref.ARN, now time.Time) {
	q.proof = &proof{blob: bytes.Clone(blob), arn: arn}
	q.failing, q.attempts = "", 0
	if q.every > 0 {
		q.next = now.Add(q.every - jitter(q.every))
	}
}

func (q *questions) failLocked(class cause.Class, now time.Time) {
	if q.failing != class {
		q.failing, q.since, q.attempts = class, now, 0
	}
}

// begin plans the first question where none is planned.
func (q *questions) begin(first, every time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.every = every
	if q.next.IsZero() {
		q.next = time.Now().Add(first + jitter(5*first))
	}
	if q.nextDescribe.IsZero() {
		q.nextDescribe = q.next
	}
}

// due returns when something is to be asked, and a channel that is closed when a
// failure makes that sooner.
func (q *questions) due() (at time.Time, sooner <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.began == nil {
		q.began = make(chan struct{})
	}
	describe := q.nextDescribe
	if describe.Before(q.deniedUntil) {
		describe = q.deniedUntil
	}
	if describe.Before(q.next) {
		return describe, q.began
	}
	return q.next, q.began
}

// questionDue reports whether it is time for a question of Decrypt.
func (q *questions) questionDue(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !now.Before(q.next)
}

// urgency orders the earlier keys of an alias: a refusal that is to be confirmed
// comes first, then what waits longest.
func (q *questions) urgency(now time.Time) (urgent bool, waits time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failing == cause.Refused && q.attempts < 2, now.Sub(q.next)
}

// confirms returns when a question began that may confirm a refusal of before; zero
// where it came too soon after that.
func (q *questions) confirms(now time.Time, confirm time.Duration) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failing != cause.Refused || now.Sub(q.since) < confirm {
		return time.Time{}
	}
	return now
}

// ended takes in how a question ended, and plans the next one.
func (q *questions) ended(now time.Time, class cause.Class, i Intervals) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if class == "" {
		q.failing, q.attempts = "", 0
		q.next = now.Add(q.every - jitter(q.every))
		return
	}
	q.failLocked(class, now)
	wait := min(i.Ask, i.Confirm<<min(q.attempts, 20))
	q.attempts++
	q.next = now.Add(wait)
	if wait < i.Ask {
		q.next = q.next.Add(jitter(2 * wait))
	}
}

// withProof returns a ciphertext to ask the key with, nil where there is none.
func (q *questions) withProof() *proof {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.proof
}

// dropProof forgets a ciphertext that is none of the key's.
func (q *questions) dropProof(p *proof) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.proof == p {
		q.proof = nil
	}
}

// dryRunKnown reports whether KMS may know dry runs without a ciphertext.
func (q *questions) dryRunKnown(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !now.Before(q.muteUntil)
}

func (q *questions) dryRunUnknown(until time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.muteUntil = until
}

// dryRunRefused notes what a dry run can see.
func (q *questions) dryRunRefused(code cause.Code) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seesState = q.seesState || code.OfKeyState()
}

// dryRunAllowed notes that a dry run said yes, and reports whether that proves the
// key's state too.
func (q *questions) dryRunAllowed(now time.Time) (state bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.allowedAt = now
	return q.seesState || q.info.State == enabledState && q.infoAt.Equal(now)
}

func (q *questions) lastAllowed() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.allowedAt
}

// describeDue reports whether DescribeKey is to be asked: by itself, or beside a
// question.
func (q *questions) describeDue(now time.Time, question bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !now.Before(q.deniedUntil) && (question || !now.Before(q.nextDescribe))
}

// described takes in what DescribeKey answered.
func (q *questions) described(now time.Time, info awskms.KeyInfo, err error, i Intervals) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.nextDescribe = now.Add(i.Ask) // a question comes sooner, and takes it along
	switch {
	case err == nil:
		q.info, q.infoAt, q.agreedAt = info, now, now.Add(i.Agree)
	case cause.Of(err).Code == cause.KeyNotFound:
		q.info, q.infoAt = awskms.KeyInfo{}, time.Time{}
	case cause.ClassOf(err) == cause.Refused, cause.ClassOf(err) == cause.Bug:
		q.deniedUntil = now.Add(i.Denied - jitter(i.Denied))
	}
}

// description returns what DescribeKey told last, when, and when all of KMS says the same.
func (q *questions) description() (info awskms.KeyInfo, at, agreed time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.info, q.infoAt, q.agreedAt
}

// postpone leaves questions of Decrypt to others.
func (q *questions) postpone(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next = now.Add(q.every)
}
