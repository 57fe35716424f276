// Package keyring is the keys of one provider that may open what is stored: which of
// them is tried for a ciphertext, in which order, and what it means that none opens it.
//
// Reads are pinned: a Decrypt names a configured key, since ciphertext, key_id and
// annotations come out of etcd, and whoever can write there must not choose a key of
// their own. They select among the configured keys and never name another.
package keyring

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Annotations that a write adds for people and tools. Reading never needs them.
const (
	AnnotationKeyARN    = "key-arn.aws-encryption-provider.sigs.k8s.io"
	AnnotationRegion    = "region.aws-encryption-provider.sigs.k8s.io"
	AnnotationRequestID = "request-id.aws-encryption-provider.sigs.k8s.io"
)

// Options configure a Ring. All fields but Timing are required.
type Options struct {
	Keys   []*kmskey.Key // in the order in which they are tried; what an alias named before comes with it
	Caller kmskey.Caller // Limit is that of one read, over all keys that it tries
	Log    *slog.Logger
	Timing Timing // zero: the usual one
}

// A Ring opens what is stored. It is safe for concurrent use.
type Ring struct {
	opts Options

	reads      atomic.Uint64 // that began: each has its turn
	lastWorked worked
	bad        *badMemory
	missing    *missingKeys
}

// New returns a Ring. It does no I/O.
func New(o Options) *Ring {
	o.Timing = o.Timing.orUsual()
	return &Ring{opts: o, bad: newBadMemory(), missing: newMissingKeys(o.Timing.Missing)}
}

// Missing returns the keys that stored data needed and nobody configured, newest first.
func (r *Ring) Missing() []MissingKey { return r.missing.list() }

// A Stored DEK is what kube-apiserver read out of etcd. All of it may be chosen
// by whoever can write there.
type Stored struct {
	Ciphertext  []byte
	KeyID       string // "" with KMS v1
	Annotations map[string][]byte
	Bare        bool // the predecessor's bare blobs count: KMS v1
}

// Unwrap opens a stored DEK with the configured key that made it. Errors are
// [cause.Error]s. Bad data is said only when every key that may read answered so,
// and is then remembered for a minute.
func (r *Ring) Unwrap(ctx context.Context, s Stored) (secret.Bytes, error) {
	blob, err := seal.Parse(s.Ciphertext, s.Bare)
	if err != nil {
		return nil, err
	}
	if known := r.bad.recall(blob, whole); known != nil {
		return nil, forObject(known, s)
	}
	plaintext, refusals := r.open(ctx, read{r.opts.Caller.Begun(), r.reads.Add(1), blob}, s)
	if plaintext != nil {
		return plaintext, nil
	}
	told := r.summary(refusals)
	r.noteBad(blob, told, refusals)
	if madeElsewhere(told, refusals) {
		r.reportMissing(ctx, s, told)
	}
	return nil, forObject(told, s)
}

// A read is one ciphertext that is to be opened, and for whom.
type read struct {
	caller kmskey.Caller // with the time that all the keys have together
	turn   uint64
	blob   []byte
}

// A refusal is one answer to a read that did not open it.
type refusal struct {
	key      *kmskey.Key // that was asked; or the alias, where KMS was asked without a key
	err      *cause.Error
	unpinned bool // KMS was asked without a key, or was to be
	recalled bool // that was seconds ago
}

func errorsOf(refusals []refusal) []*cause.Error {
	errs := make([]*cause.Error, len(refusals))
	for i, f := range refusals {
		errs[i] = f.err
	}
	return errs
}

// open tries the keys that may have made a ciphertext. It returns the plaintext, or
// at least one refusal.
func (r *Ring) open(ctx context.Context, in read, s Stored) (secret.Bytes, []refusal) {
	chosen, others := r.candidates(s)
	plaintext, refusals := r.openWithAny(ctx, in, chosen)
	if plaintext != nil {
		return plaintext, nil
	}
	// A key that is named and cannot be asked leaves nothing for the others to find.
	if worst := cause.Worst(errorsOf(refusals)); worst == nil || worst.Class() == cause.BadData {
		plaintext, more := r.openWithAny(ctx, in, others)
		if plaintext != nil {
			return plaintext, nil
		}
		refusals = append(refusals, more...)
	}
	for _, k := range r.movedAliases(refusals) {
		if known := r.bad.recall(in.blob, r.place(k)); known != nil {
			refusals = append(refusals, refusal{key: k, err: known, unpinned: true, recalled: true})
			continue
		}
		plaintext, err := r.openMoved(ctx, in, k)
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
func (r *Ring) openWithAny(ctx context.Context, in read, keys []*kmskey.Key) (secret.Bytes, []refusal) {
	var refusals []refusal
	for i, k := range keys {
		plaintext, err := k.Decrypt(ctx, in.caller.Sharing(min(2, len(keys)-i)), in.blob)
		if err == nil {
			r.lastWorked.note(k, in.turn)
			return plaintext, nil
		}
		refusals = append(refusals, refusal{key: k, err: cause.Of(err)})
		r.lastFirst(keys[i+1:])
	}
	return nil, refusals
}

// lastFirst moves the key that has worked for another read meanwhile to the front:
// of many reads that meet other data at once, the first finds the key for all.
func (r *Ring) lastFirst(rest []*kmskey.Key) {
	k := r.lastWorked.last()
	if i := slices.Index(rest, k); i > 0 && !k.Fails(evidence.Decrypt) {
		copy(rest[1:], rest[:i])
		rest[0] = k
	}
}

// worked is the key that opened data for the read that began last of those that
// have ended. Where data lies together by key, the next read tries it first. The
// zero value is ready, and safe for concurrent use.
type worked struct {
	mu   sync.Mutex
	key  *kmskey.Key
	turn uint64
}

// note makes k the key that is tried first. A straggling read of older data does
// not displace the key that newer reads use, so each success raises the turn, also
// one with the same key.
func (w *worked) note(k *kmskey.Key, turn uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if turn > w.turn {
		w.key, w.turn = k, turn
	}
}

// last returns that key, nil before there is one.
func (w *worked) last() *kmskey.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.key
}

// candidates returns the keys that key_id and annotations choose, and the
// others, each in the order in which they are tried: what last worked first,
// what fails at the moment last. Of an alias's earlier keys only those count
// that are chosen or worked last: an unpinned Decrypt finds the others sooner.
func (r *Ring) candidates(s Stored) (chosen, others []*kmskey.Key) {
	var earlier []*kmskey.Key
	for _, k := range r.opts.Keys {
		earlier = append(earlier, k.Earlier()...)
	}
	if len(r.opts.Keys)+len(earlier) == 1 {
		return nil, r.opts.Keys
	}
	c := choice{
		last: r.lastWorked.last(), keyID: s.KeyID, state: keyref.ParseState(s.KeyID),
		noted: string(s.Annotations[AnnotationKeyARN]),
	}
	for _, k := range r.opts.Keys {
		c.consider(k, true)
	}
	for _, k := range earlier {
		c.consider(k, false)
	}
	return c.ordered()
}

// summary is the one error of a read that no key could serve. It holds nothing of
// the object that was read, neither its words nor the order in which they made keys
// be tried: the same bytes may lie in another object, and the answer is remembered.
func (r *Ring) summary(refusals []refusal) *cause.Error {
	if worst := cause.Worst(errorsOf(refusals)); worst.Class() != cause.BadData {
		return worst
	}
	inOrder := slices.Clone(refusals)
	slices.SortStableFunc(inOrder, func(a, b refusal) int { return r.place(a.key) - r.place(b.key) })
	var none *cause.Error
	for _, f := range inOrder {
		// A key that made the ciphertext and cannot open it knows more than those that did not make it.
		if f.err.Code != cause.NoKeyMadeIt {
			return f.err
		}
		switch {
		case none == nil:
			first := *f.err
			none = &first
		case !f.unpinned && r.place(f.key) < len(r.opts.Keys): // the object's key_id alone made others be tried
			none.AlsoTried = append(none.AlsoTried, f.err.Key)
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
