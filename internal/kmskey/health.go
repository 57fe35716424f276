package kmskey

import (
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// Health is how a key that only reads is doing, by what traffic and questions
// told.
type Health struct {
	Key       string
	State     evidence.State
	Err       *cause.Error // what fails, also where that does not yet amount to a state
	Described string       // what DescribeKey says of its state; "": it was not told
	Deletion  *Deletion    // nil: it is not to be deleted, as far as is known

	Unlisted bool   // no configuration lists it: it is known because an alias named it before
	Alias    string // that did, as configured; "" for a key that is listed
}

// A Deletion is that of a key which is scheduled for it.
type Deletion struct {
	Date time.Time // zero: KMS tells it only by DescribeKey
}

// Health returns how a key is doing that only reads. alias is the one that named it
// before, "" for a key of the configuration.
func (k *Key) Health(alias string) Health {
	state, err, lastOK := k.reading()
	info, _, _ := k.questions.description()
	return Health{
		Key: k.config.Name, State: state, Err: err, Described: info.State,
		Deletion: k.DeletionBy(state, err, lastOK), Unlisted: alias != "", Alias: alias,
	}
}

// Reading is how a key that only reads is doing.
func (k *Key) Reading() (evidence.State, *cause.Error) {
	state, err, _ := k.reading()
	return state, err
}

func (k *Key) reading() (state evidence.State, err *cause.Error, lastOK time.Time) {
	state, err, lastOK = k.record.Reading()
	if (state == evidence.Healthy || state == evidence.Unknown) && k.questions.lastAllowed().After(lastOK) {
		state = evidence.Authorised
	}
	return state, err, lastOK
}

// DeletionBy returns whether a key in a state is to be deleted: KMS refused it for that,
// or described it so and it has not worked for long since.
func (k *Key) DeletionBy(state evidence.State, err *cause.Error, lastOK time.Time) *Deletion {
	info, _, agreed := k.questions.description()
	described := (info.State == pendingDeletionState || info.State == pendingReplicaState) && k.StandsFor(info.ARN)
	switch {
	case described && !lastOK.After(agreed):
		return &Deletion{Date: info.Deletion}
	case state == evidence.Refused && err != nil && err.Code == cause.KeyPendingDeletion:
		return &Deletion{}
	}
	return nil
}

// News returns the bad state that the log told last of a key that only reads, "" for
// none, and whether now is news. What is silent is neither told nor noted.
func (k *Key) News(now evidence.State, silent func() bool) (was evidence.State, news bool) {
	return k.questions.saying(now, silent)
}

// NewsOfDeletion reports whether the log has to tell that the key is to be deleted, or
// that it is no longer.
func (k *Key) NewsOfDeletion(now *Deletion) (begun, ended bool) {
	return k.questions.sayingDeletion(now)
}

// Verdict is what the evidence about the key amounts to.
func (k *Key) Verdict() evidence.Verdict { return k.record.Verdict() }

// Resume starts to count again after a pause of the process that ended at the given time.
func (k *Key) Resume(at time.Time) { k.record.Resume(at) }

// Unreadable returns why nobody could read what the key encrypts now, nil where that is
// not known.
func (k *Key) Unreadable() *cause.Error { return k.record.Unreadable() }

// FreshUntil returns until when no check is needed; see [evidence.Record.FreshUntil].
func (k *Key) FreshUntil(interval, reopened time.Duration) time.Time {
	return k.record.FreshUntil(interval, reopened)
}

// Fails reports whether a failure of an operation is outstanding.
func (k *Key) Fails(op evidence.Operation) bool { return k.record.Fails(op) }

// Backdate is for tests of pauses; see [evidence.Record.Backdate].
func (k *Key) Backdate(d time.Duration) { k.record.Backdate(d) }

// saying returns the bad state that the log told last, "" for none, and whether
// there is news. What is silent is neither told nor noted.
func (q *questions) saying(now evidence.State, silent func() bool) (was evidence.State, news bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	was = q.said
	switch {
	case now.Fails() && now != was && !silent():
		q.said = now
		return was, true
	case !now.Fails() && now != evidence.Unknown && was != "":
		q.said = ""
		return was, true
	}
	return was, false
}

func (q *questions) sayingDeletion(now *Deletion) (begun, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case now == nil && q.saidEnd:
		q.saidEnd, q.saidEndDate = false, time.Time{}
		return false, true
	case now != nil && (!q.saidEnd || q.saidEndDate.IsZero() && !now.Date.IsZero()):
		q.saidEnd, q.saidEndDate = true, now.Date
		return true, false
	}
	return false, false
}

// Trouble is why an alias is not followed, although it names another key now.
type Trouble struct {
	KeyARN keyref.ARN // that it names; "": it names none
	Err    *cause.Error
	Since  time.Time
}

// Troubled notes trouble, nil for none, and reports whether it is another than before.
func (k *Key) Troubled(now *Trouble) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.trouble
	same := was != nil && now != nil && was.KeyARN == now.KeyARN && was.Err.Code == now.Err.Code
	if same {
		now.Since = was.Since
	}
	k.trouble = now
	return now != nil && !same
}

// Trouble returns why the alias is not followed, nil where it is, or is none.
func (k *Key) Trouble() *Trouble {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trouble
}
