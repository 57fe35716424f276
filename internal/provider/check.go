package provider

import (
	"context"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// The round trips that Verify makes at most, and the calls of KMS in each.
const (
	verifyTrips = 2
	tripCalls   = 2
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
	p.askKeys(ctx, &watching)
	p.keepChecking(ctx)
}

// askKeys asks, until ctx ends, how the keys are doing that only read, and when any of
// the configured keys is to be deleted.
func (p *Provider) askKeys(ctx context.Context, asking *sync.WaitGroup) {
	a := kmskey.Asking{Caller: p.caller, Every: p.timing.Questions, Asked: p.weighKey}
	for _, k := range p.keys {
		asking.Go(func() { k.KeepAsking(ctx, a, k == p.write) })
		if k.IsAlias() {
			asking.Go(func() { k.KeepAskingEarlier(ctx, a) })
		}
	}
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
	p.log.WarnContext(ctx, "health check failed", "key", p.write.Address(), "code", e.Code.String(), "class", e.Class(), "error", e.Error())
}

// waitForCheck returns when the next check is due, and false when ctx has ended. It
// looks at the evidence at least once each Recheck: a key that is carried over a reload
// also hears of calls of the provider before, which wakes only itself.
func (p *Provider) waitForCheck(ctx context.Context, started time.Time) bool {
	ended, jitter := time.Now(), mathrand.N(2*p.timing.Jitter) //nolint:gosec // jitter is no secret
	for {
		due := p.due(started, ended, jitter)
		timer := time.NewTimer(min(time.Until(due), p.timing.Recheck))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
			if time.Now().Before(due) {
				continue
			}
			if v := p.verdict(); v.Suspect || !v.Contacted || !time.Now().Before(p.write.FreshUntil(p.timing.Check, p.timing.Reopen)) {
				return true
			}
		case <-p.wake:
			timer.Stop()
		}
	}
}

// due is when the check is due that follows one.
func (p *Provider) due(started, ended time.Time, jitter time.Duration) time.Time {
	recheck := started.Add(p.timing.Recheck - p.timing.Jitter + jitter)
	switch v := p.verdict(); {
	case v.Confirm && v.RefusedAt.After(ended): // by traffic, since the last check
		return started.Add(p.timing.Pause)
	case v.Confirm && v.ConfirmAt.After(started): // the last check could not confirm it yet
		return v.ConfirmAt.Add(jitter / 2) //nolint:mnd // at most a second
	case v.Suspect, !v.Contacted:
		return recheck
	}
	if fresh := p.write.FreshUntil(p.timing.Check, p.timing.Reopen); fresh.After(started) {
		return fresh
	}
	return recheck // the last check told nothing
}

// check encrypts random bytes under the write key and decrypts them again. The
// first time, what that shows is the key_id's beginning.
func (p *Provider) check(ctx context.Context, began time.Time) {
	k := p.write
	t := k.Trip(ctx, p.caller, bounded.Check, k.Address())
	k.EnterTrip(ctx, p.caller, t, began)
	switch {
	case t.EncryptErr() == nil:
		p.lastProbe = &t.Probe
		if t.Err() == nil && p.written() == nil {
			p.observe(ctx, t.Observation(), false)
			if p.written() == nil && k.Address() != t.Asked && ctx.Err() == nil {
				p.check(ctx, began) // an alias showed a key that it has just left: the key that it went to is to be asked
			}
		}
	case p.lastProbe != nil && k.StandsFor(p.lastProbe.Wrapped.KeyARN) && p.verdict().Confirm:
		// Where Encrypt fails, a refused Decrypt is confirmed with what was encrypted before.
		_, err := k.Reopen(ctx, p.caller, bounded.Check, *p.lastProbe)
		k.EnterReopened(ctx, p.caller, err, began)
	}
	if p.written() == nil && k.Address() != k.Name() && p.verdict().State == evidence.Refused {
		p.look(ctx) // the key that the alias went to is refused: it may return to the one that it left
	}
}

// Verify tries a provider that is not in use yet. It returns nil once the provider's
// write key has encrypted and decrypted, now. What it shows counts at once, since
// no caller depends on what was known before; the log is told only what that is.
// It sets its own time limit, which covers every call that it may make. Errors are
// [cause.Error]s.
func (p *Provider) Verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTrips*tripCalls*p.opts.Timeout+p.timing.Verify)
	defer cancel()
	k := p.write
	began := time.Now()
	t := k.Trip(ctx, p.caller, bounded.Check, k.Name())
	if t.Err() == nil {
		p.observe(ctx, t.Observation(), true)
		if k.Address() != string(t.Probe.Wrapped.KeyARN) {
			t = p.verifyAtRest(ctx, t)
		}
	}
	if t.Of(k) && (t.Err() == nil || ctx.Err() == nil) {
		k.EnterTrip(ctx, kmskey.Caller{}, t, began) // nobody listens yet
	}
	if err := t.Err(); err != nil {
		return p.named(err)
	}
	p.follow(ctx, "", nil)
	return nil
}

// verifyAtRest makes a second trip where an alias showed a key that it has just
// left: the key that it went to writes, unless that is refused.
func (p *Provider) verifyAtRest(ctx context.Context, shown kmskey.Trip) kmskey.Trip {
	k := p.write
	address := k.Address()
	t := k.Trip(ctx, p.caller, bounded.Check, address)
	switch err := t.Err(); {
	case err == nil:
		p.history.worked(address)
		p.observe(ctx, t.Observation(), true)
		p.log.InfoContext(ctx, "alias shows a key that it left less than five minutes ago: the key that it went to goes on",
			"key", k.Name(), "key_arn", address, "shown", shown.Probe.Wrapped.KeyARN)
	case cause.ClassOf(err) == cause.Refused && p.history.refusedAgain(address):
		p.history.endRest(k, shown.Probe.Wrapped.KeyARN)
		p.observe(ctx, shown.Observation(), true)
		return shown
	}
	return t
}

// watch looks at the write key until ctx ends.
func (p *Provider) watch(ctx context.Context) {
	for interval := p.timing.FirstLook; ; interval = p.timing.Look {
		if p.write.Watched() { // at first: by the provider before
			interval = p.timing.NewLook
		}
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			p.look(ctx)
		}
	}
}

// look encrypts by the configured name, which an alias may have moved, and
// decrypts with the key that answered: a key is followed only if both work.
func (p *Provider) look(ctx context.Context) {
	k := p.write
	t := k.Trip(ctx, p.caller, bounded.Look, k.Name())
	if t.Err() != nil && ctx.Err() != nil {
		return // the process ends
	}
	own := t.Of(k)
	if own { // else it says nothing about the key that writes
		k.EnterTrip(ctx, p.caller, t, time.Time{})
	}
	switch {
	case t.EncryptErr() != nil:
		p.follow(ctx, "", t.EncryptErr())
	case t.Err() != nil && !own:
		p.follow(ctx, t.Probe.Wrapped.KeyARN, t.Err())
	case t.Err() == nil:
		p.follow(ctx, "", nil)
		p.observe(ctx, t.Observation(), false)
	}
}

// observe takes in an observation of the write key, and says in the log what it changed.
func (p *Provider) observe(ctx context.Context, o kmskey.Observation, atOnce bool) {
	k := p.write
	if w := p.written(); o.Material != "" || w == nil || w.ARN != o.ARN {
		o.Material = p.history.onward(material{o.ARN.ID(), o.Material})
	}
	watchedBefore := k.Watched()
	before, after := k.Observe(o, atOnce, p.history.rest(k, o.ARN))
	switch {
	case after == nil:
		if !watchedBefore && k.Watched() {
			p.log.InfoContext(ctx, "KMS shows another key or key material: it counts once it was seen three times running",
				"key", k.Name(), "key_arn", o.ARN, "material", o.Material)
		}
	case before == nil || !before.Seen:
		p.log.InfoContext(ctx, "key resolved", "key", k.Name(), "key_arn", after.ARN, "material", after.State.Material)
		switch {
		case atOnce: // what is only verified is weighed once it runs
		case before != nil && before.ARN != after.ARN: // a Decrypt had shown another key, which the evidence is about
			k.EnterWorks(ctx, p.caller)
		default:
			p.weigh(ctx, false)
		}
	case before.ARN != after.ARN:
		said := "alias was moved: its earlier key reads; "
		if !atOnce { // else nothing writes yet, and Verify enters how the key does
			said = "alias was moved: its new key writes from now on, and its earlier key reads; "
			p.history.follow(p, after.ARN)
			// What was known of the earlier key says nothing of this one, which has just worked.
			k.EnterWorks(ctx, p.caller)
		}
		p.log.WarnContext(ctx, said+keyring.AdviceForEarlier,
			"key", k.Name(), "key_arn", after.ARN, "decrypt_key", before.ARN)
	default:
		p.log.InfoContext(ctx, "key was rotated in KMS: its new key material writes from now on",
			"key", k.Name(), "key_arn", after.ARN, "material", after.State.Material, "was", before.State.Material)
	}
}

// follow notes whether what an alias names could be followed, and says it in the
// log when that changes. Keys that are no alias have a record for that.
func (p *Provider) follow(ctx context.Context, arn keyref.ARN, err error) {
	k := p.write
	if !k.IsAlias() || ctx.Err() != nil {
		return
	}
	var now *kmskey.Trouble
	if err != nil {
		now = &kmskey.Trouble{KeyARN: arn, Err: cause.Of(err), Since: time.Now()}
	}
	if k.Troubled(now) {
		p.log.WarnContext(ctx, "alias cannot be followed: the key that it named before goes on",
			"key", k.Name(), "key_arn", k.Address(), "named_now", arn, "code", now.Err.Code.String(), "error", p.named(now.Err).Error())
	}
}
