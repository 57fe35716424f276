package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// slowCall leaves an API server's 3 s room for one repetition.
const slowCall = 500 * time.Millisecond

func (x *examination) permissions(ctx context.Context, g *Group) {
	for _, p := range x.keys {
		switch {
		case p.endsAt(atPermission) && !p.writes:
			g.failed(p.String()+": Decrypt fails, by DryRun", p.failure.err)
		case p.endsAt(atPermission):
			g.failed(p.String()+": Encrypt fails", p.failure.err)
		case !p.cameTo(atPermission):
			g.skipped(p.whyNot())
		case !p.writes:
			p.reads(g)
		default:
			x.asking(p)
			x.roundTrips(ctx, g, p)
		}
	}
}

// reads says what is known of a key that only reads, and what is not: nothing that it
// encrypted is at hand.
func (p *patient) reads(g *Group) {
	const by = "DryRun without a ciphertext (IGNORE_CIPHERTEXT)"
	switch {
	case p.unasked:
		g.skipped(fmt.Sprintf("%s: whether it may decrypt is not known, since this KMS does not take a %s", p, by))
	case p.enabled:
		g.ok(fmt.Sprintf("%s: Decrypt is authorised, by a %s, and DescribeKey says that the key is enabled", p, by))
	default:
		g.ok(fmt.Sprintf("%s: Decrypt is authorised; its state not proven: a %s looks at permissions alone", p, by))
	}
}

// roundTrips asks for both permissions, and then does both as the daemon does:
// the blob is opened with the key that KMS resolved.
func (x *examination) roundTrips(ctx context.Context, g *Group, p *patient) {
	for _, dry := range []func() error{
		func() error { return p.client.MayEncrypt(ctx, p.key.Key, seed()) },
		func() error { return p.client.MayDecrypt(ctx, string(p.sealed.KeyARN), p.sealed.Blob) },
	} {
		if err := dry(); err != nil {
			g.failed(fmt.Sprintf("%s: %s fails, by DryRun", p, cause.Of(err).Op), cause.Of(err))
			return
		}
	}
	g.ok(p.String() + ": Encrypt and Decrypt are allowed")
	x.latency(g, p, p.measure(ctx, x.Calls, x.Burst))
}

// latency tells how long the calls of a burst took.
func (x *examination) latency(g *Group, p *patient, b measured) {
	slices.Sort(b.took)
	ended := fmt.Sprintf("%d calls", len(b.took))
	if len(b.took) < x.Calls {
		ended = fmt.Sprintf("%d of %d calls", len(b.took), x.Calls)
	}
	if b.err != nil && (!b.cut || len(b.took) == 0) {
		g.failed(fmt.Sprintf("%s: %s fails, in a round trip; %s ended", p, cause.Of(b.err).Op, ended), cause.Of(b.err))
		return
	}
	median, slowest := b.took[len(b.took)/2], b.took[len(b.took)-1]
	x.slowest[p.provider.Listen] = max(slowest, b.last)
	text := fmt.Sprintf(" took %s each, the slowest %s", rounded(median), rounded(slowest))
	switch {
	case len(b.took) < x.Calls:
		g.found(SlowKMS, fmt.Sprintf("%s: slow: %s ended within %s, and%s", p, ended, x.Burst, text), "")
	case median > slowCall:
		g.found(SlowKMS, fmt.Sprintf("%s: %d slow calls%s", p, len(b.took), text), "")
	default:
		g.ok(fmt.Sprintf("%s: %s%s", p, ended, text))
	}
}

// measured is how a burst of calls went.
type measured struct {
	took []time.Duration // of each call that ended well
	last time.Duration   // how long the call took that did not; 0: there was none
	err  error           // of that call
	cut  bool            // it did not fail by itself: the time of the burst was over
}

// measure makes n calls, half of each kind. When limit is over, none begins and none
// goes on.
func (p *patient) measure(ctx context.Context, n int, limit time.Duration) (b measured) {
	deadline := time.Now().Add(limit)
	within := awskms.Call{By: deadline}
	for len(b.took) < n {
		plain := seed()
		var sealed awskms.Sealed
		var opened awskms.Opened
		encrypt := func() (err error) {
			sealed, err = p.client.Encrypt(ctx, within, p.key.Key, bytes.Clone(plain))
			return err
		}
		decrypt := func() (err error) {
			opened, err = p.client.Decrypt(ctx, within, string(sealed.KeyARN), sealed.Blob)
			return err
		}
		if !b.timed(encrypt, deadline) || !b.timed(decrypt, deadline) {
			return b
		}
		if !bytes.Equal(opened.Plaintext, plain) {
			b.err = &cause.Error{Code: cause.RoundTripBroken, Op: "Decrypt", Key: p.key.Key, Err: errors.New("another plaintext")}
			return b
		}
	}
	return b
}

// timed makes a call, and reports whether it ended well.
func (b *measured) timed(call func() error, deadline time.Time) bool {
	began := time.Now()
	err := call()
	took := time.Since(began)
	if err != nil {
		b.err, b.last, b.cut = err, took, !time.Now().Before(deadline)
		return false
	}
	b.took = append(b.took, took)
	return true
}
