package kmskey

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A Caller is on whose behalf keys are used. A key may have several, one after the
// other: it passes from one provider to the next.
type Caller struct {
	Limit    time.Duration     // of one call of KMS
	Call     awskms.Call       // zero: each call has Limit, and no other end
	Confirm  time.Duration     // between a refusal and the question that confirms it
	Waits    *bounded.Observer // is told of calls that are left behind; nil: nobody is
	Listener Listener          // nil: nobody listens
}

// Begun returns the caller with an end: all that is done for it takes no longer than one
// call of KMS may.
func (c Caller) Begun() Caller {
	c.Call = awskms.Within(c.Limit)
	return c
}

// Sharing returns the caller with an n-th part of its time for each call.
func (c Caller) Sharing(n int) Caller {
	c.Call.Share = n
	return c
}

// A Listener hears how the calls of keys end. Its methods return soon, and do not call
// the key.
type Listener interface {
	// Entering is called before an outcome is entered into the key's evidence.
	Entering(k *Key, err error)
	// Entered is called after that.
	Entered(ctx context.Context, k *Key, err error)
	// Heard is called when a call may have changed what the log says of a key that only
	// reads.
	Heard(ctx context.Context, k *Key)
}

// enter enters the outcome of a call. began is when the due check began that made it;
// zero for every other call.
func (k *Key) enter(ctx context.Context, c Caller, op evidence.Operation, err error, began time.Time) {
	if c.Listener == nil {
		k.record.Enter(op, time.Now(), err, began)
		return
	}
	c.Listener.Entering(k, err)
	k.record.Enter(op, time.Now(), err, began)
	c.Listener.Entered(ctx, k, err)
}

// hear notes how a caller's Decrypt ended, for the questions that the key is asked.
func (k *Key) hear(ctx context.Context, c Caller, blob []byte, arn keyref.ARN, err error) {
	if k.questions.heard(blob, arn, err, time.Now(), c.Confirm) && c.Listener != nil {
		c.Listener.Heard(ctx, k)
	}
}

// Encrypt wraps 1 to 4,096 bytes. KMS is asked by address, which is the key's name or
// what that stands for. Errors are [cause.Error]s.
func (k *Key) Encrypt(ctx context.Context, c Caller, address string, plaintext secret.Bytes) (Wrapped, error) {
	w, err := direct(ctx, k.config.KMS, c.Call, address, plaintext)
	k.enter(ctx, c, evidence.Encrypt, err, time.Time{})
	return w, err
}

// Decrypt opens a blob of KMS with the key, and with no other. Errors are
// [cause.Error]s.
func (k *Key) Decrypt(ctx context.Context, c Caller, blob []byte) (secret.Bytes, error) {
	opened, err := k.config.KMS.Decrypt(ctx, c.Call, k.Address(), blob)
	k.enter(ctx, c, evidence.Decrypt, err, time.Time{})
	k.hear(ctx, c, blob, opened.KeyARN, err)
	if err != nil {
		return nil, err
	}
	k.resolve(opened.KeyARN)
	return opened.Plaintext, nil
}

// DecryptUnpinned lets KMS choose the key. How it ends is no evidence about this one.
func (k *Key) DecryptUnpinned(ctx context.Context, c Caller, blob []byte) (awskms.Opened, error) {
	return k.config.KMS.Decrypt(ctx, c.Call, "", blob)
}

// Opened enters that the key, whose ARN this is, has opened a blob for somebody who did
// not name it.
func (k *Key) Opened(ctx context.Context, c Caller, blob []byte, arn keyref.ARN) {
	k.enter(ctx, c, evidence.Decrypt, nil, time.Time{})
	k.hear(ctx, c, blob, arn, nil)
}

type unresolved struct {
	err   *cause.Error
	until time.Time
}

// ResolveByEncrypt learns from an Encrypt what the alias stands for: KMS has no other
// answer that every user of a key may ask for. Where it refuses, it is not asked again
// for a time.
func (k *Key) ResolveByEncrypt(ctx context.Context, c Caller, again time.Duration) *cause.Error {
	if known := k.unresolved.Load(); known != nil && time.Now().Before(known.until) {
		return known.err
	}
	w, err := k.Encrypt(ctx, c, k.Address(), randomBytes())
	if err != nil {
		e := *cause.Of(err)
		e.Note = "to read what its earlier keys made, the alias has to be resolved: with its ARN in its place (arn:aws:kms:REGION:ACCOUNT:" + k.ref.Alias + ") no Encrypt is needed"
		if e.Class() == cause.Refused {
			k.unresolved.Store(&unresolved{&e, time.Now().Add(again)})
		}
		return &e
	}
	k.resolve(w.KeyARN)
	return nil
}

// ForgetUnresolved makes KMS be asked again at once.
func (k *Key) ForgetUnresolved() { k.unresolved.Store(nil) }

// A Trip is what encrypting random bytes and decrypting them again came to.
type Trip struct {
	Asked    string // by which name
	Probe    Probe
	Material string

	encryptErr, decryptErr error // the second is of use where the first is nil
}

// A Probe is what was encrypted, and what has to come out of it.
type Probe struct {
	Wrapped Wrapped
	want    secret.Bytes
}

// NewProbe returns the probe of what a caller had encrypted.
func NewProbe(w Wrapped, plaintext secret.Bytes) Probe { return Probe{w, bytes.Clone(plaintext)} }

// Err is how the trip failed.
func (t Trip) Err() error {
	if t.encryptErr != nil {
		return t.encryptErr
	}
	return t.decryptErr
}

// EncryptErr is how its Encrypt failed.
func (t Trip) EncryptErr() error { return t.encryptErr }

// Of reports whether the trip shows how a key does, and not another one which its
// alias names now.
func (t Trip) Of(k *Key) bool {
	return !k.ref.IsAlias() || t.Asked == k.Address() || t.encryptErr == nil && string(t.Probe.Wrapped.KeyARN) == k.Address()
}

// Observation is what a trip that worked showed.
func (t Trip) Observation() Observation { return Observation{t.Probe.Wrapped.KeyARN, t.Material} }

// Trip makes a round trip by a name. Either call has the time of a call of its own, and
// is left behind where it does not keep to it: what it comes to later is dropped. It
// enters nothing: see [Key.EnterTrip].
func (k *Key) Trip(ctx context.Context, c Caller, wait bounded.Wait, name string) Trip {
	t := Trip{Asked: name, Probe: Probe{want: randomBytes()}}
	plaintext := bytes.Clone(t.Probe.want) // of a call that may go on
	t.Probe.Wrapped, t.encryptErr = call(ctx, c, wait, "Encrypt", name, func(ctx context.Context, within awskms.Call) (Wrapped, error) {
		return direct(ctx, k.config.KMS, within, name, plaintext)
	})
	if t.encryptErr == nil {
		t.Material, t.decryptErr = k.Reopen(ctx, c, wait, t.Probe)
	}
	return t
}

// EnterTrip enters how each call of a trip ended. began is when the due check began that
// made it, zero for every other trip. A check that ends with ctx shows nothing of what it
// did not come to.
func (k *Key) EnterTrip(ctx context.Context, c Caller, t Trip, began time.Time) {
	k.enterUnlessEnded(ctx, c, evidence.Encrypt, t.encryptErr, began)
	if t.encryptErr == nil {
		k.EnterReopened(ctx, c, t.decryptErr, began)
	}
}

// EnterReopened enters how a [Key.Reopen] ended. Where KMS takes that for bad data, this
// shows nothing of older data, which may open all the same.
func (k *Key) EnterReopened(ctx context.Context, c Caller, err error, began time.Time) {
	broken := err != nil && cause.Of(err).Code == cause.RoundTripBroken
	if !broken {
		k.enterUnlessEnded(ctx, c, evidence.Decrypt, err, began)
	}
	if broken || err == nil {
		k.enterUnlessEnded(ctx, c, evidence.Reopen, err, began)
	}
}

func (k *Key) enterUnlessEnded(ctx context.Context, c Caller, op evidence.Operation, err error, began time.Time) {
	if err != nil && !began.IsZero() && ctx.Err() != nil {
		return
	}
	k.enter(ctx, c, op, err, began)
}

// EnterWorks enters that the key has just encrypted and decrypted.
func (k *Key) EnterWorks(ctx context.Context, c Caller) {
	for _, op := range evidence.Operations() {
		k.enter(ctx, c, op, nil, time.Time{})
	}
}

// Reopen decrypts what was just encrypted, and returns the key material that it
// is under. That it cannot be opened is no bad data: these bytes are our own.
func (k *Key) Reopen(ctx context.Context, c Caller, wait bounded.Wait, probe Probe) (material string, err error) {
	material, err = call(ctx, c, wait, "Decrypt", string(probe.Wrapped.KeyARN), func(ctx context.Context, within awskms.Call) (string, error) {
		return k.compare(ctx, within, probe)
	})
	if err != nil && cause.ClassOf(err) == cause.BadData {
		e := *cause.Of(err)
		e.Code = cause.RoundTripBroken
		return "", &e
	}
	return material, err
}

// compare opens a probe, and looks whether what was encrypted comes out.
func (k *Key) compare(ctx context.Context, within awskms.Call, probe Probe) (material string, err error) {
	blob, err := seal.Parse(probe.Wrapped.Ciphertext, false)
	if err != nil {
		return "", err
	}
	opened, err := k.config.KMS.Decrypt(ctx, within, string(probe.Wrapped.KeyARN), blob)
	if err != nil {
		return "", err
	}
	defer opened.Plaintext.Clear()
	if !bytes.Equal(opened.Plaintext, probe.want) {
		return "", &cause.Error{Code: cause.RoundTripBroken, Op: "Decrypt", Key: string(probe.Wrapped.KeyARN), RequestID: opened.RequestID}
	}
	if k.StandsFor(opened.KeyARN) { // else an alias is looked at that has moved, and the earlier key's proof stays
		k.questions.opened(blob, opened.KeyARN, time.Now())
	}
	return opened.Material, nil
}

// call makes one call of KMS within the limit of one.
func call[T any](ctx context.Context, c Caller, wait bounded.Wait, op, key string, do func(context.Context, awskms.Call) (T, error)) (T, error) {
	left := cause.InDoubt
	if wait == bounded.Call {
		left = cause.TimedOut
	}
	return within(ctx, c, wait, left, op, key, do)
}

// within makes one call of KMS, which is left behind where it ignores its time limit.
// left is the code for that.
func within[T any](ctx context.Context, c Caller, wait bounded.Wait, left cause.Code, op, key string,
	do func(context.Context, awskms.Call) (T, error),
) (T, error) {
	one := awskms.Within(c.Limit)
	if by := c.Call.By; !by.IsZero() && by.Before(one.By) {
		one.By = by
	}
	ctx, cancel := context.WithDeadline(ctx, one.By.Add(awskms.Reply)) // for what ignores the Call
	defer cancel()
	out, err := bounded.Do(ctx, c.Waits, wait, func(ctx context.Context) (T, error) { return do(ctx, one) })
	if _, ok := errors.AsType[*bounded.AbandonedError](err); ok {
		return out, &cause.Error{Code: left, Op: op, Key: key}
	}
	return out, err
}

// randomBytes are what KMS is asked to encrypt where nothing else is.
func randomBytes() secret.Bytes {
	b := make(secret.Bytes, 32)
	_, _ = rand.Read(b) // never fails, by its contract
	return b
}
