package kmskey

import (
	"context"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
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

// Asking is how keys are asked about, beside the calls of their users.
type Asking struct {
	Caller

	Every Intervals
	Asked func(ctx context.Context, k *Key) // is called when all that was due has been asked
}

// KeepAsking asks, until ctx ends, how the key is doing and when it is to be deleted,
// whenever that is due. It never encrypts. Of a key that writes, whose checks say the
// rest, it asks for the deletion alone.
func (k *Key) KeepAsking(ctx context.Context, a Asking, writes bool) {
	k.questions.begin(a.Every.First, a.Every.Ask)
	for ctx.Err() == nil {
		at, sooner := k.questions.due()
		timer := time.NewTimer(time.Until(at))
		select {
		case <-ctx.Done():
		case <-sooner:
		case <-timer.C:
			k.ask(ctx, a, writes)
		}
		timer.Stop()
	}
}

// KeepAskingEarlier asks about the alias's earlier keys, one at a time, so that many of
// them cost no more than one.
func (k *Key) KeepAskingEarlier(ctx context.Context, a Asking) {
	for {
		timer := time.NewTimer(a.Every.Earlier + jitter(a.Every.Earlier))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if earlier := mostUrgent(k.Earlier(), a.Every); earlier != nil {
			earlier.ask(ctx, a, false)
		}
	}
}

// mostUrgent returns which of an alias's earlier keys is to be asked now, nil for
// none. Each comes early enough that two turns may pass until a refusal of it is
// found and confirmed.
func mostUrgent(earlier []*Key, i Intervals) *Key {
	const turns = 2
	every := max(i.Ask-turns*i.Earlier, i.Earlier)
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

// ask asks about the key what is due, and takes in the answers.
func (k *Key) ask(ctx context.Context, a Asking, writes bool) {
	now := time.Now()
	question := !writes && k.questions.questionDue(now)
	if writes { // which the checks look after
		k.questions.postpone(now)
	}
	if k.questions.describeDue(now, question) {
		k.describe(ctx, a, now)
	}
	if question && ctx.Err() == nil {
		k.question(ctx, a, now)
	}
	if ctx.Err() == nil {
		a.Asked(ctx, k)
	}
}

// question asks whether a key that only reads still does.
func (k *Key) question(ctx context.Context, a Asking, now time.Time) {
	opened, err := k.decryptProof(ctx, a.Caller)
	allowed := false
	if !opened && err == nil {
		allowed, err = k.dryRun(ctx, a, now)
	}
	class := cause.Class("")
	switch {
	case ctx.Err() != nil: // the process ends: that says nothing
		return
	case err != nil:
		class = cause.ClassOf(err)
		k.enter(ctx, a.Caller, evidence.Decrypt, err, k.questions.confirms(now, a.Every.Confirm))
	case opened:
		k.enter(ctx, a.Caller, evidence.Decrypt, nil, time.Time{})
	case allowed:
		class = k.record.Allowed(k.questions.dryRunAllowed(now))
	}
	k.questions.ended(now, class, a.Every)
}

// decryptProof decrypts what the key has opened before, or refused. It returns
// false and no error where there is no such ciphertext, or where it turns out to be
// another key's.
func (k *Key) decryptProof(ctx context.Context, c Caller) (opened bool, err error) {
	with := k.questions.withProof()
	if with == nil || with.arn != "" && !k.StandsFor(with.arn) {
		return false, nil
	}
	address := k.Address()
	arn, err := question(ctx, c, k, "Decrypt", func(ctx context.Context, within awskms.Call) (keyref.ARN, error) {
		o, err := k.config.KMS.Decrypt(ctx, within, address, with.blob)
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
func (k *Key) dryRun(ctx context.Context, a Asking, now time.Time) (allowed bool, err error) {
	if kms, ok := k.config.KMS.(describer); ok && k.questions.dryRunKnown(now) {
		address := k.Address()
		_, err = question(ctx, a.Caller, k, "Decrypt", func(ctx context.Context, _ awskms.Call) (struct{}, error) {
			return struct{}{}, kms.MayDecrypt(ctx, address, nil)
		})
		switch {
		case err == nil:
			allowed = true
		case cause.ClassOf(err) == cause.Bug, cause.ClassOf(err) == cause.BadData: // not every KMS knows the request
			k.questions.dryRunUnknown(now.Add(a.Every.Denied))
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
func (k *Key) describe(ctx context.Context, a Asking, now time.Time) {
	kms, ok := k.config.KMS.(describer)
	if !ok {
		k.questions.described(now, awskms.KeyInfo{}, &cause.Error{Code: cause.AccessDenied}, a.Every)
		return
	}
	address := k.Address()
	info, err := question(ctx, a.Caller, k, "DescribeKey", func(ctx context.Context, _ awskms.Call) (awskms.KeyInfo, error) {
		return kms.DescribeKey(ctx, address)
	})
	if ctx.Err() == nil {
		k.questions.described(now, info, err, a.Every)
	}
}

// question makes one call of KMS about a key. Where that is left behind it says no
// more than a time-out: only the checks of the key that writes put it in doubt.
func question[T any](ctx context.Context, c Caller, k *Key, op string, call func(context.Context, awskms.Call) (T, error)) (T, error) {
	return within(ctx, c, bounded.Check, cause.TimedOut, op, k.Address(), call)
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
	info, at, _ := k.questions.description()
	if !at.Equal(now) {
		return nil
	}
	e := &cause.Error{Op: "DescribeKey", Key: k.Address(), Said: "the key's state is " + info.State}
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
