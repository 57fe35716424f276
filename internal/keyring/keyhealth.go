package keyring

import (
	"context"
	"log/slog"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
)

// KeyHealth is how a key that only reads is doing, by what traffic and questions
// told.
type KeyHealth struct {
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

// readKeys is how the keys are doing that only read.
func (p *Provider) readKeys() []KeyHealth {
	var all []KeyHealth
	for i, k := range p.keys {
		if i > 0 {
			all = append(all, k.health(""))
		}
		for _, e := range k.before() {
			all = append(all, e.health(k.config.Name))
		}
	}
	return all
}

func (k *Key) health(alias string) KeyHealth {
	state, err := k.reading()
	info, _ := k.questions.description()
	return KeyHealth{
		Key: k.config.Name, State: state, Err: err, Described: info.State,
		Deletion: k.deletion(state, err, k.lastDecrypt()), Unlisted: alias != "", Alias: alias,
	}
}

// reading is how a key that only reads is doing.
func (k *Key) reading() (evidence.State, *cause.Error) {
	state, err, lastOK := k.record.Reading()
	if (state == evidence.Healthy || state == evidence.Unknown) && k.questions.lastAllowed().After(lastOK) {
		state = evidence.Authorised
	}
	return state, err
}

// lastDecrypt is when the key last opened something, by traffic or a question.
func (k *Key) lastDecrypt() time.Time {
	_, _, lastOK := k.record.Reading()
	return lastOK
}

// deletion returns whether a key is to be deleted: KMS refused it for that, or
// described it so and it has not worked for long since.
func (k *Key) deletion(state evidence.State, err *cause.Error, lastOK time.Time) *Deletion {
	const propagation = 5 * time.Minute // that KMS may take until all of it agrees
	info, at := k.questions.description()
	described := (info.State == pendingDeletionState || info.State == pendingReplicaState) && k.standsFor(info.ARN)
	switch {
	case described && !lastOK.After(at.Add(propagation)):
		return &Deletion{Date: info.Deletion}
	case state == evidence.Refused && err != nil && err.Code == cause.KeyPendingDeletion:
		return &Deletion{}
	}
	return nil
}

// heard takes in how a caller's Decrypt under a key ended.
func (p *Provider) heard(ctx context.Context, k *Key, blob []byte, arn string, err error) {
	if k.questions.heard(blob, arn, err, time.Now(), p.every.Confirm) && k != p.write {
		p.weighKey(ctx, k)
	}
}

// adviceForReading is what an operator must not do while a key does not read.
const adviceForReading = "do not restart an API server: one that runs holds in memory what this key protects, and one that starts cannot read it; " +
	"do not change the keys of one node alone: what that one then writes, the others cannot read"

// weighKey tells in the log once when a key that only reads fails or works again,
// and when any key is to be deleted.
func (p *Provider) weighKey(ctx context.Context, k *Key) {
	if k == p.write {
		v := p.verdict()
		p.weighDeletion(ctx, k, k.deletion(v.State, v.Err, v.LastOK))
		return
	}
	state, err := k.reading()
	p.weighDeletion(ctx, k, k.deletion(state, err, k.lastDecrypt()))
	was, changed := k.questions.saying(state, func() bool {
		return (state == evidence.Outage || state == evidence.Credentials) && p.verdict().State == state // the provider's own line says it
	})
	if !changed {
		return
	}
	if !state.Fails() {
		p.log.InfoContext(ctx, wordsForReading(state), "key", k.address(), "state", state, "was", was)
		return
	}
	e := cause.Of(p.named(err))
	level := slog.LevelWarn
	if state == evidence.Refused {
		level = slog.LevelError
	}
	p.log.Log(ctx, level, wordsForReading(state), "key", k.address(), "state", state, "code", e.Code.String(), "class", e.Class(), "error", e.Error(), "advice", adviceForReading)
}

// weighDeletion tells in the log once that a key is to be deleted, again when the
// date is known, and once when it is cancelled.
func (p *Provider) weighDeletion(ctx context.Context, k *Key, now *Deletion) {
	switch begun, ended := k.questions.sayingDeletion(now); {
	case ended:
		p.log.InfoContext(ctx, "key is no longer scheduled for deletion", "key", k.address())
	case begun:
		attrs := []any{"key", k.address()}
		if !now.Date.IsZero() {
			attrs = append(attrs, "deleted_at", now.Date.UTC())
		}
		e := &cause.Error{Code: cause.KeyPendingDeletion, Key: k.address()}
		p.log.ErrorContext(ctx, "key is scheduled for deletion: what it protects is lost then, backups of etcd included",
			append(attrs, "code", e.Code.String(), "advice", e.Next()+"; "+adviceForReading)...)
	}
}

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

// wordsForReading say a state of a key that only reads as a line of the log does.
func wordsForReading(s evidence.State) string {
	switch s {
	case evidence.Refused:
		return "a key that only reads is refused"
	case evidence.Outage:
		return "a key that only reads cannot be used: KMS fails or cannot be reached"
	case evidence.Credentials:
		return "a key that only reads cannot be used: no valid AWS credentials"
	case evidence.Authorised:
		return "a key that only reads may decrypt again; its state is not proven"
	case evidence.Healthy, evidence.Unknown:
	}
	return "a key that only reads works again"
}
