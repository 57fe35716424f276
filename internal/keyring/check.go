package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const (
	// checkInterval is how old evidence may get while all is well.
	checkInterval = 30 * time.Second
	// reopenInterval is how old the evidence may get that what was just sealed opens,
	// which traffic does not show: longer than between two looks, which do.
	reopenInterval = 75 * time.Second
	// recheckInterval is the time between checks while something is wrong.
	recheckInterval = 5 * time.Second
	recheckJitter   = time.Second
	// checkPause is the least time between checks that traffic asks for.
	checkPause = time.Second

	// verifyTrips are the round trips that Verify makes at most, and tripCalls the
	// calls of KMS in each.
	verifyTrips = 2
	tripCalls   = 2
	verifySlack = 2 * time.Second // for what it does beside them
)

// Run looks after the keys until ctx ends: it checks that the write key works,
// watches which key and key material its name stands for, and asks how those are
// doing that only read.
func (p *Provider) Run(ctx context.Context) {
	p.weigh(ctx, false) // what came before: of a provider that this one replaces, or of Verify
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { p.watch(ctx) })
	watching.Go(func() { p.keepKnown(ctx) })
	watching.Go(func() { p.askKeys(ctx) })
	p.keepChecking(ctx)
}

// keepChecking checks at once where nothing is known, then whenever there is no
// recent evidence from traffic, and right after a refusal.
func (p *Provider) keepChecking(ctx context.Context) {
	if p.verdict().Contacted && !p.waitForCheck(ctx, time.Now()) {
		return
	}
	for {
		started := time.Now()
		before := p.verdict()
		p.check(ctx, started)
		p.reportFirstFailure(ctx, before)
		p.conclude.Do(func() { close(p.concluded) })
		if !p.waitForCheck(ctx, started) {
			return
		}
	}
}

// reportFirstFailure writes a line when a check begins to fail, long before that
// amounts to a state: whoever starts the process for the first time looks there.
// Failures of traffic have lines of their own.
func (p *Provider) reportFirstFailure(ctx context.Context, before evidence.Verdict) {
	after := p.verdict()
	if before.Suspect || !after.Suspect || ctx.Err() != nil {
		return
	}
	e := cause.Of(p.named(after.Err))
	p.log.WarnContext(ctx, "health check failed", "key", p.write.address(), "code", e.Code.String(), "class", e.Class(), "error", e.Error())
}

// waitForCheck returns when the next check is due, and false when ctx has ended.
func (p *Provider) waitForCheck(ctx context.Context, started time.Time) bool {
	ended, jitter := time.Now(), mathrand.N(2*recheckJitter) //nolint:gosec // jitter is no secret
	for {
		timer := time.NewTimer(time.Until(p.due(started, ended, jitter)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
			if v := p.verdict(); v.Suspect || !v.Contacted || !time.Now().Before(p.write.record.FreshUntil(checkInterval, reopenInterval)) {
				return true
			}
		case <-p.wake:
			timer.Stop()
		}
	}
}

// due is when the check is due that follows one.
func (p *Provider) due(started, ended time.Time, jitter time.Duration) time.Time {
	recheck := started.Add(recheckInterval - recheckJitter + jitter)
	switch v := p.verdict(); {
	case v.Confirm && v.RefusedAt.After(ended): // by traffic, since the last check
		return started.Add(checkPause)
	case v.Confirm && v.ConfirmAt.After(started): // the last check could not confirm it yet
		return v.ConfirmAt.Add(jitter / 2) //nolint:mnd // at most a second
	case v.Suspect, !v.Contacted:
		return recheck
	}
	if fresh := p.write.record.FreshUntil(checkInterval, reopenInterval); fresh.After(started) {
		return fresh
	}
	return recheck // the last check told nothing
}

// check encrypts random bytes under the write key and decrypts them again. The
// first time, what that shows is the key_id's beginning.
func (p *Provider) check(ctx context.Context, began time.Time) {
	t := p.trip(ctx, bounded.Check, p.write.address())
	t.outcomes(func(op evidence.Operation, err error) { p.checked(ctx, op, err, began) })
	switch {
	case t.encryptErr == nil:
		p.lastProbe = &t.probe
		if t.decryptErr == nil && p.written() == nil {
			p.see(ctx, t.sighting(), false)
			if address := p.write.address(); p.written() == nil && address != t.asked && ctx.Err() == nil {
				p.check(ctx, began) // an alias showed a key that it has just left: the key that it went to is to be asked
			}
		}
	case p.lastProbe != nil && p.write.standsFor(p.lastProbe.sealed.KeyARN) && p.verdict().Confirm:
		// Where Encrypt fails, a refused Decrypt is confirmed with what was sealed before.
		_, err := p.reopen(ctx, bounded.Check, *p.lastProbe)
		opened(err, func(op evidence.Operation, err error) { p.checked(ctx, op, err, began) })
	}
	if k := p.write; p.written() == nil && k.address() != k.config.Name && p.verdict().State == evidence.Refused {
		p.look(ctx) // the key that the alias went to is refused: it may return to the one that it left
	}
}

// checked enters what a due check told. A check that ends with the process tells
// nothing of what it did not come to.
func (p *Provider) checked(ctx context.Context, op evidence.Operation, err error, began time.Time) {
	if err != nil && ctx.Err() != nil {
		return
	}
	p.enter(ctx, p.write, op, err, began)
}

// Verify says whether a provider that is not in use yet could be: nil once its
// write key has encrypted and decrypted, now. What it shows counts at once, since
// no caller depends on what was known before; the log is told only what that is.
// It sets its own time limit, which covers every call that it may make. Errors are
// [cause.Error]s.
func (p *Provider) Verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTrips*tripCalls*p.opts.Timeout+verifySlack)
	defer cancel()
	k := p.write
	began := time.Now()
	t := p.trip(ctx, bounded.Check, k.config.Name)
	if t.err() == nil {
		p.see(ctx, t.sighting(), true)
		if k.address() != t.probe.sealed.KeyARN {
			t = p.verifyAtRest(ctx, t)
		}
	}
	if t.of(k) && (t.err() == nil || ctx.Err() == nil) {
		t.outcomes(func(op evidence.Operation, err error) { k.record.Enter(op, time.Now(), err, began) })
	}
	if err := t.err(); err != nil {
		return p.named(err)
	}
	p.follow(ctx, "", nil)
	return nil
}

// verifyAtRest makes a second trip where an alias showed a key that it has just
// left: the key that it went to writes, unless that is refused.
func (p *Provider) verifyAtRest(ctx context.Context, shown trip) trip {
	k := p.write
	arn := k.address()
	t := p.trip(ctx, bounded.Check, arn)
	switch err := t.err(); {
	case err == nil:
		p.history.worked(arn)
		p.see(ctx, t.sighting(), true)
		p.log.InfoContext(ctx, "alias shows a key that it left less than five minutes ago: the key that it went to goes on",
			"key", k.config.Name, "key_arn", arn, "shown", shown.probe.sealed.KeyARN)
	case cause.ClassOf(err) == cause.Refused && p.history.refusedAgain(arn):
		p.history.endRest(k, shown.probe.sealed.KeyARN)
		p.see(ctx, shown.sighting(), true)
		return shown
	}
	return t
}

// A trip is what encrypting random bytes under the write key and decrypting them
// again came to.
type trip struct {
	asked                  string // the name
	probe                  sealedProbe
	material               string
	encryptErr, decryptErr error // the second is of use where the first is nil
}

// err is how the trip failed.
func (t trip) err() error {
	if t.encryptErr != nil {
		return t.encryptErr
	}
	return t.decryptErr
}

// outcomes tells how each call that was made ended.
func (t trip) outcomes(tell func(op evidence.Operation, err error)) {
	tell(evidence.Encrypt, t.encryptErr)
	if t.encryptErr == nil {
		opened(t.decryptErr, tell)
	}
}

// opened tells how the Decrypt of what was just sealed ended. Where KMS takes that
// for bad data, this says nothing of older data, which may open all the same.
func opened(err error, tell func(op evidence.Operation, err error)) {
	broken := err != nil && cause.Of(err).Code == cause.RoundTripBroken
	if !broken {
		tell(evidence.Decrypt, err)
	}
	if broken || err == nil {
		tell(evidence.Reopen, err)
	}
}

// of says whether the trip tells how a key does, and not another one which its
// alias names now.
func (t trip) of(k *Key) bool {
	return !k.ref.IsAlias() || t.asked == k.address() || t.encryptErr == nil && t.probe.sealed.KeyARN == k.address()
}

func (t trip) sighting() sighting { return sighting{t.probe.sealed.KeyARN, t.material} }

// trip makes a round trip. Either call has the time of a call of its own, and is
// left behind where it does not keep to it: what it comes to later is dropped.
func (p *Provider) trip(ctx context.Context, wait bounded.Wait, name string) trip {
	t := trip{asked: name, probe: sealedProbe{want: randomBytes()}}
	plaintext := bytes.Clone(t.probe.want) // of a call that may go on
	t.probe.sealed, t.encryptErr = call(ctx, p, wait, "Encrypt", name, func(ctx context.Context) (wrapped, error) {
		return direct(ctx, p.write.config.KMS, name, plaintext)
	})
	if t.encryptErr == nil {
		t.material, t.decryptErr = p.reopen(ctx, wait, t.probe)
	}
	return t
}

// call makes one call of KMS within the limit of one.
func call[T any](ctx context.Context, p *Provider, wait bounded.Wait, op, key string, do func(context.Context) (T, error)) (T, error) {
	left := cause.InDoubt
	if wait == bounded.Call {
		left = cause.TimedOut
	}
	return within(ctx, p, wait, left, op, key, do)
}

// within makes one call of KMS, which is left behind where it ignores its time limit.
// left is the code for that.
func within[T any](ctx context.Context, p *Provider, wait bounded.Wait, left cause.Code, op, key string,
	do func(context.Context) (T, error),
) (T, error) {
	ctx, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	out, err := bounded.Do(ctx, p.opts.Waits, wait, do)
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

// A sealedProbe is what was encrypted, and what has to come out of it.
type sealedProbe struct {
	sealed wrapped
	want   secret.Bytes
}

// reopen decrypts what was just encrypted, and returns the key material that it
// is under. That it cannot be opened is no bad data: these bytes are our own.
func (p *Provider) reopen(ctx context.Context, wait bounded.Wait, probe sealedProbe) (material string, err error) {
	material, err = call(ctx, p, wait, "Decrypt", probe.sealed.KeyARN, func(ctx context.Context) (string, error) {
		return p.compare(ctx, probe)
	})
	if err != nil && cause.ClassOf(err) == cause.BadData {
		e := *cause.Of(err)
		e.Code = cause.RoundTripBroken
		return "", &e
	}
	return material, err
}

// compare opens a probe, and looks whether what was sealed comes out.
func (p *Provider) compare(ctx context.Context, probe sealedProbe) (material string, err error) {
	blob, err := seal.Parse(probe.sealed.Ciphertext, false)
	if err != nil {
		return "", err
	}
	opened, err := p.write.config.KMS.Decrypt(ctx, probe.sealed.KeyARN, blob)
	if err != nil {
		return "", err
	}
	defer opened.Plaintext.Clear()
	if !bytes.Equal(opened.Plaintext, probe.want) {
		return "", &cause.Error{Code: cause.RoundTripBroken, Op: "Decrypt", Key: probe.sealed.KeyARN, RequestID: opened.RequestID}
	}
	if p.write.standsFor(opened.KeyARN) { // else an alias is looked at that has moved, and the earlier key's proof stays
		p.write.questions.opened(blob, opened.KeyARN, time.Now())
	}
	return opened.Material, nil
}
