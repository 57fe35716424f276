package provider

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// OK is the healthz text of a provider that works, by the contract of KMS v2.
const OK = "ok"

// A Status is what kube-apiserver polls.
type Status struct {
	Healthz string // "ok", or what is wrong
	KeyID   string
}

// Status answers kube-apiserver's poll. A refused key is an error: the API
// server then stops writing under its DEK seed, which nobody could read after a
// restart. An outage is a text with the unchanged key_id, after a grace: a
// running API server needs no KMS meanwhile. Before the first contact with KMS
// there is no key_id, so it is an error too. Errors are, or wrap, [cause.Error]s.
func (p *Provider) Status(ctx context.Context) (Status, error) {
	v := p.verdict()
	if !v.Contacted && v.State != evidence.Refused {
		p.awaitFirstCheck(ctx)
		v = p.verdict()
	}
	switch {
	case v.State == evidence.Refused:
		return Status{}, p.named(p.advised(v.Err))
	case !v.Contacted:
		if known := p.inherited(v); known != nil {
			return p.statusBefore(known, v), nil
		}
		return Status{}, p.notContacted(v)
	case v.State == evidence.Healthy, time.Now().Before(v.GraceFrom.Add(p.opts.OutageGrace)):
		return Status{Healthz: OK, KeyID: p.tellKeyID(ctx)}, nil
	}
	text := fmt.Sprintf("since %s: %v", v.Since.UTC().Format(time.RFC3339), p.named(v.Err))
	return Status{Healthz: text, KeyID: p.tellKeyID(ctx)}, nil
}

// tellKeyID returns the key_id for a caller, after the first contact.
func (p *Provider) tellKeyID(ctx context.Context) string {
	w := p.written()
	p.answer(ctx, w)
	return w.keyID
}

// verdict weighs the evidence about the write key. Its first contact is over when
// there is a key_id.
func (p *Provider) verdict() evidence.Verdict {
	p.write.Resume(p.opts.Pauses.Last())
	v := p.write.Verdict()
	v.Contacted = v.Contacted && p.written() != nil
	if v.State == evidence.Healthy && !v.Contacted {
		v.State = evidence.Unknown
	}
	return v
}

// advised adds to a refusal of the write key what an operator with another key
// can do: kube-apiserver reads nothing from a provider that cannot encrypt.
func (p *Provider) advised(err error) error {
	e := cause.Of(err)
	if e.Class() != cause.Refused {
		return err
	}
	for _, k := range p.keys[1:] {
		if k.Address() == p.write.Address() { // with another context, or by another name
			continue
		}
		if _, failed := k.Reading(); failed != nil {
			continue
		}
		return e.Noted("a restarted API server reads nothing from a provider whose first key cannot encrypt: put a key first that can, such as " + k.Address() + ", once all nodes list it, and keep this one below")
	}
	return err
}

// awaitFirstCheck waits until the first check has ended, or the caller needs its
// answer.
func (p *Provider) awaitFirstCheck(ctx context.Context) {
	limit := p.timing.FirstContact
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-awskms.Reply)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.concluded:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (p *Provider) notContacted(v evidence.Verdict) error {
	if v.Err == nil {
		return p.named(&cause.Error{Code: cause.NoContact, Key: p.write.Name()})
	}
	return fmt.Errorf("KMS has not been reached since this process started: %w", p.named(v.Err))
}

// Health is how a provider is doing, for operators: unlike Status it knows no
// grace.
type Health struct {
	Provider  string
	Key       string // the write key, as configured
	KeyID     string // "" before the first contact, where nothing is known of the process before
	Contacted bool   // the write key has encrypted and decrypted for this process
	State     evidence.State
	Suspect   bool             // something fails that does not yet amount to a state
	Err       *cause.Error     // the cause, nil where nothing is wrong
	Since     time.Time        // of the first failure
	LastOK    time.Time        // zero: never
	GraceEnds time.Time        // in an outage: when Status will say so; else zero
	Deletion  *kmskey.Deletion // of the write key; nil: it is not to be deleted, as far as is known
	ReadKeys  []kmskey.Health
	Trouble   *kmskey.Trouble      // why the write key's alias is not followed; nil: it is, or is none
	Missing   []keyring.MissingKey // that stored data needed and nobody configured, newest first
}

// CanEncrypt reports whether the provider can do its work.
func (h Health) CanEncrypt() bool { return h.State == evidence.Healthy }

// readKeys is how the keys are doing that only read.
func (p *Provider) readKeys() []kmskey.Health {
	var all []kmskey.Health
	for i, k := range p.keys {
		if i > 0 {
			all = append(all, k.Health(""))
		}
		for _, e := range k.Earlier() {
			all = append(all, e.Health(k.Name()))
		}
	}
	return all
}

// Health returns at once.
func (p *Provider) Health() Health {
	v := p.verdict()
	h := Health{
		Provider: p.opts.Name, Key: p.write.Name(), KeyID: p.keyID(),
		State: v.State, Contacted: v.Contacted, Suspect: v.Suspect, Err: v.Err, Since: v.Since, LastOK: v.LastOK,
	}
	if (v.State == evidence.Outage || v.State == evidence.Credentials) && v.Contacted {
		h.GraceEnds = v.GraceFrom.Add(p.opts.OutageGrace)
	}
	if known := p.inherited(v); known != nil {
		h.KeyID, h.LastOK, h.GraceEnds = known.KeyID, known.LastOK, known.LastOK.Add(p.opts.OutageGrace)
	}
	h.ReadKeys = p.readKeys()
	if h.State == evidence.Refused {
		h.Err = cause.Of(p.advised(h.Err))
	}
	h.Err = h.Err.CalledBy(p.opts.Called)
	for i := range h.ReadKeys {
		h.ReadKeys[i].Err = h.ReadKeys[i].Err.CalledBy(p.opts.Called)
	}
	h.Deletion = p.write.DeletionBy(h.State, h.Err, h.LastOK)
	h.Trouble, h.Missing = p.write.Trouble(), p.ring.Missing()
	return h
}

// loggedState is the state that the log told last.
func (p *Provider) loggedState() evidence.State {
	p.stateMu.Lock()
	defer p.stateMu.Unlock()
	return p.state
}

// weigh logs a change of the provider's state, and wakes the checks where a
// failure is outstanding.
func (p *Provider) weigh(ctx context.Context, failed bool) {
	if !failed && p.healthy.Load() {
		return
	}
	p.stateMu.Lock()
	defer p.stateMu.Unlock()
	v := p.verdict() // under the lock, so that an older one cannot overtake it
	if v.Suspect {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	was, news := p.state, v.State != p.state || v.InDoubt && !p.inDoubt
	p.state, p.inDoubt = v.State, v.InDoubt
	// A success while a failure of the other operation is outstanding must be weighed.
	p.healthy.Store(v.State == evidence.Healthy && !v.Suspect)
	if news {
		p.logChange(ctx, was, v)
	}
}

// logChange says at once, grace or not, that a provider's state changed, or that
// nobody knows it any more.
func (p *Provider) logChange(ctx context.Context, was evidence.State, v evidence.Verdict) {
	if v.State == evidence.Healthy || v.State == evidence.Unknown {
		p.log.InfoContext(ctx, words(v.State), "key", p.write.Address(), "state", v.State, "was", was)
		return
	}
	e := cause.Of(p.named(p.advised(v.Err)))
	attrs := []any{"key", p.write.Address(), "state", v.State, "was", was, "code", e.Code.String(), "class", e.Class(), "since", v.Since.UTC(), "error", e.Error()}
	if v.State != evidence.Refused && v.Contacted {
		attrs = append(attrs, "status_ok_until", v.GraceFrom.Add(p.opts.OutageGrace).UTC())
	}
	said := words(v.State)
	if v.InDoubt {
		said = "nobody knows whether the key works: its checks tell nothing"
	}
	p.log.ErrorContext(ctx, said, attrs...)
}

// words say a state as a line of the log does.
func words(s evidence.State) string {
	switch s {
	case evidence.Healthy:
		return "key works"
	case evidence.Refused:
		return "key is refused"
	case evidence.Outage:
		return "key cannot be used: KMS fails or cannot be reached"
	case evidence.Credentials:
		return "key cannot be used: no valid AWS credentials"
	case evidence.Unknown:
		return "key has not been seen to encrypt and decrypt yet"
	case evidence.Authorised: // of a key that only reads
	}
	return string(s)
}

// adviceForReading is what an operator must not do while a key does not read.
const adviceForReading = "do not restart an API server: one that runs holds in memory what this key protects, and one that starts cannot read it; " +
	"do not change the keys of one node alone: what that one then writes, the others cannot read"

// weighKey tells in the log once when a key that only reads fails or works again,
// and when any key is to be deleted.
func (p *Provider) weighKey(ctx context.Context, k *kmskey.Key) {
	if k == p.write {
		v := p.verdict()
		p.weighDeletion(ctx, k, k.DeletionBy(v.State, v.Err, v.LastOK))
		return
	}
	h := k.Health("")
	state, err := h.State, h.Err
	p.weighDeletion(ctx, k, h.Deletion)
	was, changed := k.News(state, func() bool {
		return (state == evidence.Outage || state == evidence.Credentials) && p.verdict().State == state // the provider's own line says it
	})
	if !changed {
		return
	}
	if !state.Fails() {
		p.log.InfoContext(ctx, wordsForReading(state), "key", k.Address(), "state", state, "was", was)
		return
	}
	e := cause.Of(p.named(err))
	level := slog.LevelWarn
	if state == evidence.Refused {
		level = slog.LevelError
	}
	p.log.Log(ctx, level, wordsForReading(state), "key", k.Address(), "state", state, "code", e.Code.String(), "class", e.Class(), "error", e.Error(), "advice", adviceForReading)
}

// weighDeletion tells in the log once that a key is to be deleted, again when the
// date is known, and once when it is cancelled.
func (p *Provider) weighDeletion(ctx context.Context, k *kmskey.Key, now *kmskey.Deletion) {
	switch begun, ended := k.NewsOfDeletion(now); {
	case ended:
		p.log.InfoContext(ctx, "key is no longer scheduled for deletion", "key", k.Address())
	case begun:
		attrs := []any{"key", k.Address()}
		if !now.Date.IsZero() {
			attrs = append(attrs, "deleted_at", now.Date.UTC())
		}
		e := &cause.Error{Code: cause.KeyPendingDeletion, Key: k.Address()}
		p.log.ErrorContext(ctx, "key is scheduled for deletion: what it protects is lost then, backups of etcd included",
			append(attrs, "code", e.Code.String(), "advice", e.Next()+"; "+adviceForReading)...)
	}
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
