package keyring

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
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
// [cause.Error]s. Bad data is said only when every key that may read answered so,
// and is then remembered for a minute.
func (p *Provider) Decrypt(ctx context.Context, s Stored) (secret.Bytes, error) {
	blob, err := seal.Parse(s.Ciphertext, s.Bare)
	if err != nil {
		return nil, p.named(err)
	}
	if known := p.bad.recall(blob, whole); known != nil {
		return nil, p.named(forObject(known, s))
	}
	ctx, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	plaintext, refusals := p.open(ctx, p.reads.Add(1), blob, s)
	if plaintext != nil {
		return plaintext, nil
	}
	told := p.summary(refusals)
	p.noteBad(blob, told, refusals)
	if madeElsewhere(told, refusals) {
		p.reportMissing(ctx, s, told)
	}
	return nil, p.named(forObject(told, s))
}

// A refusal is one answer to a read that did not open it.
type refusal struct {
	key      *Key // that was asked; or the alias, where KMS was asked without a key
	err      *cause.Error
	unpinned bool // KMS was asked without a key, or was to be
	recalled bool // that was seconds ago
}

func errorsOf(refusals []refusal) []*cause.Error {
	errs := make([]*cause.Error, len(refusals))
	for i, r := range refusals {
		errs[i] = r.err
	}
	return errs
}

// open tries the keys that may have made a ciphertext. It returns the plaintext, or
// at least one refusal.
func (p *Provider) open(ctx context.Context, turn uint64, blob []byte, s Stored) (secret.Bytes, []refusal) {
	chosen, others := p.candidates(s)
	plaintext, refusals := p.openWithAny(ctx, turn, chosen, blob)
	if plaintext != nil {
		return plaintext, nil
	}
	// A key that is named and cannot be asked leaves nothing for the others to find.
	if worst := cause.Worst(errorsOf(refusals)); worst == nil || worst.Class() == cause.BadData {
		plaintext, more := p.openWithAny(ctx, turn, others, blob)
		if plaintext != nil {
			return plaintext, nil
		}
		refusals = append(refusals, more...)
	}
	for _, k := range p.movedAliases(refusals) {
		if known := p.bad.recall(blob, p.place(k)); known != nil {
			refusals = append(refusals, refusal{key: k, err: known, unpinned: true, recalled: true})
			continue
		}
		plaintext, err := p.openMoved(ctx, turn, k, blob)
		if err == nil {
			return plaintext, nil
		}
		refusals = append(refusals, refusal{key: k, err: err, unpinned: true})
	}
	return nil, refusals
}

// openWithAny tries keys in turn. Each but the last has half of the time that is
// left: one that hangs must not use up the time of one that works, and an n-th
// part would be too short for a KMS that is far away.
func (p *Provider) openWithAny(ctx context.Context, turn uint64, keys []*Key, blob []byte) (secret.Bytes, []refusal) {
	var refusals []refusal
	for i, k := range keys {
		opened, err := k.config.KMS.Decrypt(awskms.Share(ctx, min(2, len(keys)-i)), k.address(), blob)
		p.tell(ctx, k, evidence.Decrypt, err)
		p.heard(ctx, k, blob, opened.KeyARN, err)
		if err == nil {
			k.resolve(opened.KeyARN)
			p.lastWorked.note(k, turn)
			return opened.Plaintext, nil
		}
		refusals = append(refusals, refusal{key: k, err: cause.Of(err)})
		p.lastFirst(keys[i+1:])
	}
	return nil, refusals
}

// lastFirst moves the key that has worked for another read meanwhile to the front:
// of many reads that meet other data at once, the first finds the key for all.
func (p *Provider) lastFirst(rest []*Key) {
	k := p.lastWorked.last()
	if i := slices.Index(rest, k); i > 0 && !k.record.Fails(evidence.Decrypt) {
		copy(rest[1:], rest[:i])
		rest[0] = k
	}
}

// worked is the key that opened data for the read that began last of those that
// have ended. Where data lies together by key, the next read tries it first. The
// zero value is ready, and safe for concurrent use.
type worked struct {
	mu   sync.Mutex
	key  *Key
	turn uint64
}

// note makes k the key that is tried first. A straggling read of older data does
// not displace the key that newer reads use, so each success raises the turn, also
// one with the same key.
func (w *worked) note(k *Key, turn uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if turn > w.turn {
		w.key, w.turn = k, turn
	}
}

// last returns that key, nil before there is one.
func (w *worked) last() *Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.key
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
	c := choice{
		last: p.lastWorked.last(), keyID: s.KeyID, state: keyref.ParseState(s.KeyID),
		noted: string(s.Annotations[AnnotationKeyARN]),
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
	case k.record.Fails(evidence.Decrypt):
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

// summary is the one error of a read that no key could serve. It holds nothing of
// the object that was read, neither its words nor the order in which they made keys
// be tried: the same bytes may lie in another object, and the answer is remembered.
func (p *Provider) summary(refusals []refusal) *cause.Error {
	if worst := cause.Worst(errorsOf(refusals)); worst.Class() != cause.BadData {
		return worst
	}
	inOrder := slices.Clone(refusals)
	slices.SortStableFunc(inOrder, func(a, b refusal) int { return p.place(a.key) - p.place(b.key) })
	var none *cause.Error
	for _, r := range inOrder {
		// A key that made the ciphertext and cannot open it knows more than those that did not make it.
		if r.err.Code != cause.NoKeyMadeIt {
			return r.err
		}
		switch {
		case none == nil:
			first := *r.err
			none = &first
		case !r.unpinned && p.place(r.key) < len(p.keys): // the object's key_id alone made others be tried
			none.AlsoTried = append(none.AlsoTried, r.err.Key)
		}
	}
	return none
}

// madeElsewhere says that no configured key made what was read, as far as is known.
func madeElsewhere(told *cause.Error, refusals []refusal) bool {
	if told.Code == cause.NoKeyMadeIt || told.Code == cause.ForeignKey {
		return true
	}
	last := refusals[len(refusals)-1]
	return last.unpinned && last.err.Class() == cause.Refused && last.err.Op == "Decrypt" &&
		!slices.ContainsFunc(refusals, func(r refusal) bool { return !r.unpinned && r.err.Code != cause.NoKeyMadeIt })
}

// forObject adds to what a read came to what the object's own annotations say of
// the key that made it.
func forObject(e *cause.Error, s Stored) *cause.Error {
	noted := s.Annotations[AnnotationKeyARN]
	unknown := e.Code == cause.NoKeyMadeIt || e.Op == "Decrypt" && e.Key == "" && e.Class() == cause.Refused
	if len(noted) == 0 || !unknown {
		return e
	}
	told := *e
	told.Note = strings.TrimSuffix("its annotations name "+cause.Quote(string(noted))+"; "+e.Note, "; ")
	return &told
}
