package keyring

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A Stored DEK is what kube-apiserver read out of etcd. All of it may be chosen
// by whoever can write there.
type Stored struct {
	Ciphertext  []byte
	KeyID       string // "" with KMS v1
	Annotations map[string][]byte
	Bare        bool // the predecessor's bare blobs count: KMS v1
}

// Decrypt unwraps a stored DEK with the configured key that made it. Errors are
// [cause.Error]s; bad data is said only when every key that may read answered
// so, and is then remembered for a minute.
func (p *Provider) Decrypt(ctx context.Context, s Stored) (secret.Bytes, error) {
	blob, err := seal.Blob(s.Ciphertext, s.Bare)
	if err != nil {
		return nil, p.named(err)
	}
	if known := p.bad.recall(blob); known != nil {
		return nil, known
	}
	ctx, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	plaintext, refusal := p.open(ctx, p.reads.Add(1), blob, s)
	if refusal == nil {
		return plaintext, nil
	}
	err = p.named(refusal)
	if refusal.Class() == cause.BadData {
		p.bad.remember(blob, cause.Of(err))
	}
	if refusal.Code == cause.NoKeyMadeIt || refusal.Code == cause.ForeignKey {
		p.reportMissing(ctx, s, refusal)
	}
	return nil, err
}

func (p *Provider) open(ctx context.Context, turn uint64, blob []byte, s Stored) (secret.Bytes, *cause.Error) {
	chosen, others := p.candidates(s)
	plaintext, refusals := p.openWithAny(ctx, turn, chosen, blob)
	if plaintext != nil {
		return plaintext, nil
	}
	// A key that is named and cannot be asked leaves nothing for the others to find.
	if worst := cause.Worst(refusals); worst == nil || worst.Class() == cause.BadData {
		plaintext, more := p.openWithAny(ctx, turn, others, blob)
		if plaintext != nil {
			return plaintext, nil
		}
		refusals = append(refusals, more...)
	}
	for _, k := range p.movedAliases(refusals) {
		plaintext, refusal := p.openMoved(ctx, turn, k, blob)
		if refusal == nil {
			return plaintext, nil
		}
		refusals = append(refusals, refusal)
	}
	return nil, summary(refusals, s)
}

// openWithAny tries keys in turn. Each but the last has half of the time that is
// left: one that hangs must not use up the time of one that works, and an n-th
// part would be too short for a KMS that is far away.
func (p *Provider) openWithAny(ctx context.Context, turn uint64, keys []*Key, blob []byte) (secret.Bytes, []*cause.Error) {
	var refusals []*cause.Error
	for i, k := range keys {
		opened, err := k.config.KMS.Decrypt(awskms.Share(ctx, min(2, len(keys)-i)), k.address(), blob)
		p.tell(ctx, k, decrypt, err, false)
		p.heard(ctx, k, blob, opened.KeyARN, err)
		if err == nil {
			k.resolve(opened.KeyARN)
			p.remember(k, turn)
			return opened.Plaintext, nil
		}
		refusals = append(refusals, cause.Of(err))
	}
	return nil, refusals
}

// worked is the key that worked last, for the read that began last: where data
// lies together by key, a read of what came before must not undo what is known of
// what comes now.
type worked struct {
	key  *Key
	turn uint64
}

// remember makes k the key that is tried first.
func (p *Provider) remember(k *Key, turn uint64) {
	for {
		old := p.lastWorked.Load()
		if old != nil && (old.key == k || old.turn > turn) {
			return
		}
		if p.lastWorked.CompareAndSwap(old, &worked{k, turn}) {
			return
		}
	}
}

// A candidate is a key that may have made a ciphertext.
type candidate struct {
	key  *Key
	fits int // how well it is what key_id names
	last int // the higher, the later it is tried
}

// candidates returns the keys that key_id and annotations choose, and the
// others, each in the order in which they are tried: what last worked first,
// what fails at the moment last. Of an alias's earlier keys only those count
// that are chosen or worked last: an unpinned Decrypt finds the others sooner.
func (p *Provider) candidates(s Stored) (chosen, others []*Key) {
	var earlier []*Key
	for _, k := range p.keys {
		earlier = append(earlier, k.before()...)
	}
	if len(p.keys)+len(earlier) == 1 {
		return nil, p.keys
	}
	c := choice{keyID: s.KeyID, state: keyref.ParseState(s.KeyID), noted: string(s.Annotations[AnnotationKeyARN])}
	if w := p.lastWorked.Load(); w != nil {
		c.last = w.key
	}
	for _, k := range p.keys {
		c.consider(k, true)
	}
	for _, k := range earlier {
		c.consider(k, false)
	}
	return c.ordered()
}

// A choice among the keys for one ciphertext.
type choice struct {
	last  *Key // that worked last
	keyID string
	state keyref.State
	noted string // ARN in the annotations

	chosen, others []candidate
}

func (c *choice) consider(k *Key, configured bool) {
	fits := k.fits(c.keyID, c.state)
	if fits == otherKey && c.noted != "" && k.is(c.noted) {
		fits = otherContext // no annotation tells the context
	}
	one := candidate{k, fits, c.preference(k)}
	switch {
	case fits != otherKey:
		c.chosen = append(c.chosen, one)
	case configured || k == c.last:
		c.others = append(c.others, one)
	}
}

func (c *choice) preference(k *Key) int {
	switch {
	case k.record.fails(decrypt):
		return 2
	case k == c.last:
		return 0
	}
	return 1
}

func (c *choice) ordered() (chosen, others []*Key) {
	order := func(list []candidate) []*Key {
		slices.SortStableFunc(list, func(a, b candidate) int {
			return cmp.Or(b.fits-a.fits, a.last-b.last)
		})
		keys := make([]*Key, len(list))
		for i, one := range list {
			keys[i] = one.key
		}
		return keys
	}
	return order(c.chosen), order(c.others)
}

// summary is the one error of a read that no key could serve.
func summary(refusals []*cause.Error, s Stored) *cause.Error {
	worst := cause.Worst(refusals)
	if worst.Class() != cause.BadData {
		return worst
	}
	none := *worst
	none.Key = ""
	for _, e := range refusals {
		if e.Note != "" {
			none.Note = e.Note
		}
		// A key that made the ciphertext and cannot open it knows more than those that did not make it.
		if e.Code != cause.NoKeyMadeIt {
			return e
		}
		switch {
		case none.Key == "":
			none.Key = e.Key
		case e.Key != "":
			none.AlsoTried = append(none.AlsoTried, e.Key)
		}
	}
	if noted := s.Annotations[AnnotationKeyARN]; len(noted) > 0 {
		none.Note = strings.TrimSuffix("its annotations name "+cause.Quote(string(noted))+"; "+none.Note, "; ")
	}
	return &none
}
