package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
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

// Run checks the write key until ctx ends: at once, then whenever there is no
// recent evidence from traffic, and right after a refusal.
func (p *Provider) Run(ctx context.Context) {
	for {
		started := time.Now()
		before := p.write.record.verdict()
		p.check(ctx)
		p.reportFirstFailure(ctx, before)
		if p.write.record.verdict().confirm {
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
	after := p.write.record.verdict()
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
		switch v := p.write.record.verdict(); {
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
			if v := p.write.record.verdict(); v.suspect || !v.contacted || !time.Now().Before(p.write.record.freshUntil(checkInterval)) {
				return true
			}
		case <-p.wake:
			timer.Stop()
		}
	}
}

// check encrypts random bytes under the write key and decrypts them again.
func (p *Provider) check(ctx context.Context) {
	probe := make(secret.Bytes, 32)
	_, _ = rand.Read(probe) // never fails, by its contract
	limited, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	sealed, err := p.encrypt(limited, probe, true)
	switch {
	case err == nil:
		p.lastProbe = &sealedProbe{sealed, probe}
	case p.lastProbe == nil || !p.write.record.verdict().confirm:
		return
	}
	// Where Encrypt fails, a refused Decrypt is confirmed with what was sealed before.
	limited, cancel = awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	p.tell(ctx, p.write, decrypt, p.reopen(limited, p.lastProbe.sealed, p.lastProbe.want), true)
}

// A sealedProbe is what a check has encrypted: random bytes, of no other use.
type sealedProbe struct {
	sealed seal.Sealed
	want   secret.Bytes
}

// reopen decrypts what was just encrypted. That it cannot be opened is no bad
// data: these bytes are our own.
func (p *Provider) reopen(ctx context.Context, sealed seal.Sealed, want secret.Bytes) error {
	blob, err := seal.Blob(sealed.Ciphertext, false)
	if err != nil {
		return err
	}
	opened, err := p.write.kms.Decrypt(ctx, sealed.KeyARN, blob)
	switch {
	case err != nil && cause.ClassOf(err) == cause.BadData:
		e := *cause.Of(err)
		e.Code = cause.RoundTripBroken
		return &e
	case err != nil:
		return err
	}
	defer opened.Plaintext.Clear()
	if !bytes.Equal(opened.Plaintext, want) {
		return &cause.Error{Code: cause.RoundTripBroken, Op: "Decrypt", Key: sealed.KeyARN, RequestID: opened.RequestID}
	}
	return nil
}
