package keyring

import (
	"context"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
)

const (
	// watchInterval is the time between looks at what the write key's name stands
	// for and which material it encrypts with. In an idle process a look comes
	// shortly before a check would be due, and takes its place.
	watchInterval = 59 * time.Second
	firstLook     = 45 * time.Second
	// newWatchInterval is that time while something new is being watched.
	newWatchInterval = 10 * time.Second
)

// Trouble is why an alias is not followed, although it names another key now.
type Trouble struct {
	KeyARN string // that it names; "": it names none
	Err    *cause.Error
	Since  time.Time
}

// watch looks at the write key until ctx ends.
func (p *Provider) watch(ctx context.Context) {
	for interval := firstLook; ; interval = watchInterval {
		if p.write.watched() { // at first: by the provider before
			interval = newWatchInterval
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
	t := p.trip(ctx, bounded.Look, k.config.Name)
	if t.err() != nil && ctx.Err() != nil {
		return // the process ends
	}
	own := t.of(k)
	if own { // else it says nothing about the key that writes
		t.outcomes(func(op evidence.Operation, err error) { p.tell(ctx, k, op, err) })
	}
	switch {
	case t.encryptErr != nil:
		p.follow(ctx, "", t.encryptErr)
	case t.decryptErr != nil && !own:
		p.follow(ctx, t.probe.sealed.KeyARN, t.decryptErr)
	case t.decryptErr == nil:
		p.follow(ctx, "", nil)
		p.see(ctx, t.sighting(), false)
	}
}

// see takes in a sighting, and says in the log what it changed.
func (p *Provider) see(ctx context.Context, s sighting, atOnce bool) {
	k := p.write
	if w := p.written(); s.material != "" || w == nil || w.arn != s.arn {
		s.material = p.history.onward(material{k.sightOf(s).state.Key, s.material})
	}
	watchedBefore := k.watched()
	before, after := k.see(s, atOnce, p.history.rest(k, s.arn))
	switch {
	case after == nil:
		if !watchedBefore && k.watched() {
			p.log.InfoContext(ctx, "KMS shows another key or key material: it counts once it was seen three times running",
				"key", k.config.Name, "key_arn", s.arn, "material", s.material)
		}
	case before == nil || !before.seen:
		p.log.InfoContext(ctx, "key resolved", "key", k.config.Name, "key_arn", after.arn, "material", after.state.Material)
		if !atOnce { // what is only verified is weighed once it runs
			p.weigh(ctx, false)
		}
	case before.arn != after.arn:
		said := "alias was moved: its earlier key reads; "
		if !atOnce { // else nothing writes yet, and Verify enters how the key does
			said = "alias was moved: its new key writes from now on, and its earlier key reads; "
			p.history.follow(p, after.arn)
			// What was known of the earlier key says nothing of this one, which has just worked.
			for _, op := range evidence.Operations() {
				p.tell(ctx, k, op, nil)
			}
		}
		p.log.WarnContext(ctx, said+adviceForEarlier,
			"key", k.config.Name, "key_arn", after.arn, "decrypt_key", before.arn)
	default:
		p.log.InfoContext(ctx, "key was rotated in KMS: its new key material writes from now on",
			"key", k.config.Name, "key_arn", after.arn, "material", after.state.Material, "was", before.state.Material)
	}
}

// follow notes whether what an alias names could be followed, and says it in the
// log when that changes. Keys that are no alias have a record for that.
func (p *Provider) follow(ctx context.Context, arn string, err error) {
	k := p.write
	if !k.ref.IsAlias() || ctx.Err() != nil {
		return
	}
	var now *Trouble
	if err != nil {
		now = &Trouble{KeyARN: arn, Err: cause.Of(err), Since: time.Now()}
	}
	if k.troubled(now) {
		p.log.WarnContext(ctx, "alias cannot be followed: the key that it named before goes on",
			"key", k.config.Name, "key_arn", k.address(), "named_now", arn, "code", now.Err.Code.String(), "error", p.named(now.Err).Error())
	}
}

// troubled notes trouble, nil for none, and says whether it is another than before.
func (k *Key) troubled(now *Trouble) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.trouble
	same := was != nil && now != nil && was.KeyARN == now.KeyARN && was.Err.Code == now.Err.Code
	if same {
		now.Since = was.Since
	}
	k.trouble = now
	return now != nil && !same
}
