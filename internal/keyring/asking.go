package keyring

import (
	"context"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
)

// A describer is a KMS that can also tell of a key without using it. A
// [KMS] need not be one: its keys are then asked only with ciphertexts that
// they have opened.
type describer interface {
	// MayDecrypt asks whether Decrypt would be allowed, by a dry run; without a
	// blob the ciphertext is left out. AWS documents that such a dry run checks
	// authorization. Whether it sees a disabled key is not documented.
	MayDecrypt(ctx context.Context, key string, blob []byte) error
	DescribeKey(ctx context.Context, key string) (awskms.KeyInfo, error)
}

// askKeys asks, until ctx ends, how the keys are doing that only read, and when
// any of the configured keys is to be deleted. No key is ever encrypted with here.
func (p *Provider) askKeys(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	for _, k := range p.keys {
		asking.Go(func() { p.keepAsking(ctx, k) })
		if k.ref.IsAlias() {
			asking.Go(func() { p.keepAskingEarlier(ctx, k) })
		}
	}
}

// keepAsking asks about a configured key whenever that is due.
func (p *Provider) keepAsking(ctx context.Context, k *Key) {
	k.questions.begin(p.every.First, p.every.Ask)
	for ctx.Err() == nil {
		at, sooner := k.questions.due()
		timer := time.NewTimer(time.Until(at))
		select {
		case <-ctx.Done():
		case <-sooner:
		case <-timer.C:
			p.ask(ctx, k)
		}
		timer.Stop()
	}
}

// keepAskingEarlier asks about an alias's earlier keys, one at a time, so that
// many of them cost no more than one.
func (p *Provider) keepAskingEarlier(ctx context.Context, alias *Key) {
	for {
		timer := time.NewTimer(p.every.Earlier + jitter(p.every.Earlier))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if k := p.mostUrgent(alias.before()); k != nil {
			p.ask(ctx, k)
		}
	}
}

// mostUrgent returns which of an alias's earlier keys is to be asked now, nil for
// none. Each comes early enough that two turns may pass until a refusal of it is
// found and confirmed.
func (p *Provider) mostUrgent(earlier []*Key) *Key {
	const turns = 2
	every := max(p.every.Ask-turns*p.every.Earlier, p.every.Earlier)
	now := time.Now()
	var most *Key
	var mostUrgent bool
	var longest time.Duration
	for _, k := range earlier {
		k.questions.begin(0, every)
		if at, _ := k.questions.due(); now.Before(at) {
			continue
		}
		urgent, waits := k.questions.urgency(now)
		if most == nil || urgent && !mostUrgent || urgent == mostUrgent && waits > longest {
			most, mostUrgent, longest = k, urgent, waits
		}
	}
	return most
}

// ask asks about a key what is due, and takes in the answers.
func (p *Provider) ask(ctx context.Context, k *Key) {
	now := time.Now()
	question := k != p.write && k.questions.questionDue(now)
	if k == p.write { // which the checks look after
		k.questions.postpone(now)
	}
	if k.questions.describeDue(now, question) {
		p.describe(ctx, k, now)
	}
	if question && ctx.Err() == nil {
		p.question(ctx, k, now)
	}
	if ctx.Err() == nil {
		p.weighKey(ctx, k)
	}
}

// question asks whether a key that only reads still does.
func (p *Provider) question(ctx context.Context, k *Key, now time.Time) {
	opened, err := p.decryptProof(ctx, k)
	allowed := false
	if !opened && err == nil {
		allowed, err = p.dryRun(ctx, k, now)
	}
	class := cause.Class("")
	switch {
	case ctx.Err() != nil: // the process ends: that says nothing
		return
	case err != nil:
		class = cause.ClassOf(err)
		p.enter(ctx, k, evidence.Decrypt, err, k.questions.confirms(now, p.every.Confirm))
	case opened:
		p.tell(ctx, k, evidence.Decrypt, nil)
	case allowed:
		class = k.record.Allowed(k.questions.dryRunAllowed(now))
	}
	k.questions.ended(now, class, p.every)
}

// decryptProof decrypts what the key has opened before, or refused. It returns
// false and no error where there is no such ciphertext, or where it turns out to be
// another key's.
func (p *Provider) decryptProof(ctx context.Context, k *Key) (opened bool, err error) {
	with := k.questions.withProof()
	if with == nil || with.arn != "" && !k.standsFor(with.arn) {
		return false, nil
	}
	address := k.address()
	arn, err := question(ctx, p, k, "Decrypt", func(ctx context.Context) (string, error) {
		o, err := k.config.KMS.Decrypt(ctx, address, with.blob)
		o.Plaintext.Clear() // here, since nobody may be left to do it
		return o.KeyARN, err
	})
	switch {
	case err == nil:
		k.resolve(arn)
		k.questions.opened(with.blob, arn, time.Now())
		return true, nil
	case cause.ClassOf(err) == cause.BadData:
		if with.arn == "" { // what it was refused for comes before a look at the ciphertext, and has ended
			k.record.Allowed(true)
		}
		k.questions.dropProof(with)
		return false, nil
	case !cause.ClassOf(err).TellsHealth():
		return false, nil
	}
	return false, err
}

// dryRun asks whether Decrypt would be allowed. Where a dry run checks no more than
// that, a state in which the key cannot be used is what DescribeKey just said. It
// returns false and no error where nothing is known.
func (p *Provider) dryRun(ctx context.Context, k *Key, now time.Time) (allowed bool, err error) {
	if kms, ok := k.config.KMS.(describer); ok && k.questions.dryRunKnown(now) {
		address := k.address()
		_, err = question(ctx, p, k, "Decrypt", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, kms.MayDecrypt(ctx, address, nil)
		})
		switch {
		case err == nil:
			allowed = true
		case cause.ClassOf(err) == cause.Bug, cause.ClassOf(err) == cause.BadData: // not every KMS knows the request
			k.questions.dryRunUnknown(now.Add(p.every.Denied))
		case cause.ClassOf(err).TellsHealth():
			k.questions.dryRunRefused(cause.Of(err).Code)
			return false, err
		}
	}
	if e := k.describedRefusal(now); e != nil {
		return false, e
	}
	return allowed, nil
}

// describe asks what KMS says of a key. That KMS refuses to say it is normal, as
// under kOps, and no news.
func (p *Provider) describe(ctx context.Context, k *Key, now time.Time) {
	kms, ok := k.config.KMS.(describer)
	if !ok {
		k.questions.described(now, awskms.KeyInfo{}, &cause.Error{Code: cause.AccessDenied}, p.every)
		return
	}
	address := k.address()
	info, err := question(ctx, p, k, "DescribeKey", func(ctx context.Context) (awskms.KeyInfo, error) {
		return kms.DescribeKey(ctx, address)
	})
	if ctx.Err() == nil {
		k.questions.described(now, info, err, p.every)
	}
}

// question makes one call of KMS about a key. Where that is left behind it says no
// more than a time-out: only the checks of the key that writes put it in doubt.
func question[T any](ctx context.Context, p *Provider, k *Key, op string, call func(context.Context) (T, error)) (T, error) {
	return within(ctx, p, bounded.Check, cause.TimedOut, op, k.address(), call)
}

// States of a key as DescribeKey tells them.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
const (
	enabledState         = "Enabled"
	disabledState        = "Disabled"
	pendingImportState   = "PendingImport"
	pendingDeletionState = "PendingDeletion"
	pendingReplicaState  = "PendingReplicaDeletion" // of a primary key that still has replicas; it has no date yet
)

// describedRefusal is what a state that was described now means for Decrypt, nil
// where the key can be used.
func (k *Key) describedRefusal(now time.Time) *cause.Error {
	info, at := k.questions.description()
	if !at.Equal(now) {
		return nil
	}
	e := &cause.Error{Op: "DescribeKey", Key: k.address(), Said: "the key's state is " + info.State}
	switch info.State {
	case disabledState:
		e.Code = cause.KeyDisabled
	case pendingDeletionState, pendingReplicaState:
		e.Code = cause.KeyPendingDeletion
	case pendingImportState:
		e.Code = cause.KeyPendingImport
	default:
		return nil
	}
	return e
}
