package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const (
	// checkInterval is how old evidence may get while all is well.
	checkInterval = 30 * time.Second
	// recheckInterval is the time between checks while something is wrong.
	recheckInterval = 5 * time.Second
	recheckJitter   = time.Second
	// checkPause is the least time between checks that traffic asks for.
	checkPause = time.Second
)

// Run looks after the keys until ctx ends: it checks that the write key works,
// watches which key and key material its name stands for, and asks how those are
// doing that only read.
func (p *Provider) Run(ctx context.Context) {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { p.watch(ctx) })
	watching.Go(func() { p.askKeys(ctx) })
	p.keepChecking(ctx)
}

// keepChecking checks at once where nothing is known, then whenever there is no
// recent evidence from traffic, and right after a refusal.
func (p *Provider) keepChecking(ctx context.Context) {
	if p.verdict().contacted && !p.waitForCheck(ctx, time.Now()) {
		return
	}
	for {
		started := time.Now()
		before := p.verdict()
		p.check(ctx)
		p.reportFirstFailure(ctx, before)
		if p.verdict().confirm {
			p.check(ctx)
		}
		p.conclude.Do(func() { close(p.concluded) })
		if !p.waitForCheck(ctx, started) {
			return
		}
	}
}

// reportFirstFailure writes a line when a check begins to fail, long before that
// amounts to a state: whoever starts the process for the first time looks there.
// Failures of traffic have lines of their own.
func (p *Provider) reportFirstFailure(ctx context.Context, before verdict) {
	after := p.verdict()
	if before.suspect || !after.suspect || ctx.Err() != nil {
		return
	}
	e := cause.Of(p.named(after.err))
	p.log.WarnContext(ctx, "health check failed", "key", p.write.address(), "code", e.Code.String(), "class", e.Class(), "error", e.Error())
}

// waitForCheck returns when the next check is due, and false when ctx has ended.
func (p *Provider) waitForCheck(ctx context.Context, started time.Time) bool {
	recheck := started.Add(recheckInterval - recheckJitter + mathrand.N(2*recheckJitter)) //nolint:gosec // jitter is no secret
	for {
		due := p.write.record.freshUntil(checkInterval)
		switch v := p.verdict(); {
		case v.confirm && v.refusedAt.After(started): // by traffic, since the last check
			due = started.Add(checkPause)
		case v.suspect, !v.contacted, !due.After(started): // the last: a check that told nothing
			due = recheck
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
			if v := p.verdict(); v.suspect || !v.contacted || !time.Now().Before(p.write.record.freshUntil(checkInterval)) {
				return true
			}
		case <-p.wake:
			timer.Stop()
		}
	}
}

// check encrypts random bytes under the write key and decrypts them again. The
// first time, what that shows is the key_id's beginning.
func (p *Provider) check(ctx context.Context) {
	t := p.trip(ctx, p.write.address())
	t.outcomes(func(op operation, err error) { p.tell(ctx, p.write, op, err, true) })
	switch {
	case t.encryptErr == nil:
		p.lastProbe = &t.probe
		if t.decryptErr == nil && p.written() == nil {
			p.see(ctx, t.sighting(), false)
		}
	case p.lastProbe != nil && p.write.standsFor(p.lastProbe.sealed.KeyARN) && p.verdict().confirm:
		// Where Encrypt fails, a refused Decrypt is confirmed with what was sealed before.
		limited, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
		defer cancel()
		_, err := p.reopen(limited, *p.lastProbe)
		p.tell(ctx, p.write, decrypt, err, true)
	}
}

// Verify says whether a provider that is not in use yet could be: nil once its
// write key has encrypted and decrypted, now. What it shows counts at once, since
// no caller depends on what was known before; the log is told only what that is.
// Errors are [cause.Error]s.
func (p *Provider) Verify(ctx context.Context) error {
	k := p.write
	t := p.trip(ctx, k.config.Name)
	if t.err() == nil {
		p.see(ctx, t.sighting(), true)
		if k.address() != t.probe.sealed.KeyARN { // an alias that seems to be back at a key which it has just left
			t = p.trip(ctx, k.address())
		}
	}
	if t.of(k) {
		t.outcomes(func(op operation, err error) { k.record.enter(op, time.Now(), err, true) })
	}
	if err := t.err(); err != nil {
		return p.named(err)
	}
	p.follow(ctx, "", nil)
	return nil
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
func (t trip) outcomes(tell func(op operation, err error)) {
	tell(encrypt, t.encryptErr)
	if t.encryptErr == nil {
		tell(decrypt, t.decryptErr)
	}
}

// of says whether the trip tells how a key does, and not another one which its
// alias names now.
func (t trip) of(k *Key) bool {
	return !k.ref.IsAlias() || t.asked == k.address() || t.encryptErr == nil && t.probe.sealed.KeyARN == k.address()
}

func (t trip) sighting() sighting { return sighting{t.probe.sealed.KeyARN, t.material} }

// trip makes a round trip. Either call has the time of a call of its own.
func (p *Provider) trip(ctx context.Context, name string) trip {
	t := trip{asked: name, probe: sealedProbe{want: randomBytes()}}
	limited, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	if t.probe.sealed, t.encryptErr = seal.Direct(limited, p.write.config.KMS, name, t.probe.want); t.encryptErr != nil {
		return t
	}
	limited, cancel = awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	t.material, t.decryptErr = p.reopen(limited, t.probe)
	return t
}

// randomBytes are what KMS is asked to encrypt where nothing else is.
func randomBytes() secret.Bytes {
	b := make(secret.Bytes, 32)
	_, _ = rand.Read(b) // never fails, by its contract
	return b
}

// A sealedProbe is what was encrypted, and what has to come out of it.
type sealedProbe struct {
	sealed seal.Sealed
	want   secret.Bytes
}

// reopen decrypts what was just encrypted, and returns the key material that it
// is under. That it cannot be opened is no bad data: these bytes are our own.
func (p *Provider) reopen(ctx context.Context, probe sealedProbe) (material string, err error) {
	blob, err := seal.Blob(probe.sealed.Ciphertext, false)
	if err != nil {
		return "", err
	}
	opened, err := p.write.config.KMS.Decrypt(ctx, probe.sealed.KeyARN, blob)
	switch {
	case err != nil && cause.ClassOf(err) == cause.BadData:
		e := *cause.Of(err)
		e.Code = cause.RoundTripBroken
		return "", &e
	case err != nil:
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
