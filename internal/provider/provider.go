// Package provider is one provider of kube-apiserver, as its calls see it: Encrypt,
// Decrypt, Status, and the key_id.
//
// The key_id is a state: the write key's ARN, its current key material, context,
// format and epoch ([keyref.State]). What the first two are is seen in round trips
// of this process's own, on a timer of their own, and never in stored data.
//
// Health is evidence: every KMS call tells the record of its key how it went,
// and a background check runs where there was no recent evidence. Status and
// Health read the record and never wait for the network; only a Status before
// the first contact with KMS waits for that, up to six seconds.
//
// What kube-apiserver demands of key_id, Status and annotations:
// https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/3299-kms-v2-improvements
package provider

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Options configure a Provider. All fields are required but Epoch, Called, Waits,
// Pauses, Timing, Memory, Known, Before and History.
type Options struct {
	Name        string
	Keys        []*kmskey.Key // the first writes, all read, in the order in which they are tried
	Epoch       uint32        // the operator's part of the key_id; 0: none
	Timeout     time.Duration // limit of one call over all keys that it tries
	OutageGrace time.Duration // how long Status stays ok in an outage, since the last success
	Called      cause.Names   // what the operator calls settings, for instructions; nil: by their names alone
	Log         *slog.Logger
	Waits       *bounded.Observer // told of checks that are left behind; nil: nobody is
	Memory      Memory            // keeps what is known over a restart of the process; nil: nothing does
	Known       *Known            // what the process before knew; nil: nothing that counts, or what Before has of it
	Pauses      *bounded.Pauses   // of the process, after which checks are counted again; nil: none
	Timing      Timing            // zero: the usual one
	Before      *Provider         // which this one replaces, under the same name; nil: none
	History     *History          // what callers were told by a provider of the same name that is gone; nil: Before's, or none
}

// A Provider serves one provider entry of an EncryptionConfiguration. It is safe
// for concurrent use; Run has to run beside it.
type Provider struct {
	opts   Options
	log    *slog.Logger
	write  *kmskey.Key   // the first of keys
	keys   []*kmskey.Key // of the configuration; those that an alias named before come with it
	timing Timing

	ring   *keyring.Ring
	caller kmskey.Caller

	current    atomic.Pointer[written] // of the write key's present resolution
	answered   atomic.Pointer[written] // what the last caller was told
	history    *History
	keeper     *keeper
	generation int // higher than that of any provider before

	lastProbe *kmskey.Probe // of Run's own goroutine
	wake      chan struct{} // evidence came that the checks should know of
	concluded chan struct{} // closed when the first check has ended, either way
	conclude  sync.Once

	healthy atomic.Bool // state is Healthy: a success changes nothing
	stateMu sync.Mutex
	state   evidence.State // as last logged
	inDoubt bool           // as last logged
}

// New returns a Provider. It does no I/O.
func New(o Options) *Provider {
	p := &Provider{
		opts: o, log: o.Log.With("provider", o.Name), write: o.Keys[0], keys: o.Keys, timing: o.Timing.orUsual(),
		wake: make(chan struct{}, 1), concluded: make(chan struct{}), state: evidence.Unknown,
		history: o.History, keeper: newKeeper(o),
	}
	p.caller = kmskey.Caller{Limit: o.Timeout, Confirm: p.timing.Questions.Confirm, Waits: o.Waits, Listener: listener{p}}
	p.ring = keyring.New(keyring.Options{Keys: o.Keys, Caller: p.caller, Log: p.log, Timing: p.timing.Ring})
	p.opts.Known = nil
	if b := o.Before; b != nil {
		p.state, p.history = b.loggedState(), b.history
		p.opts.Before = nil // else every generation would keep all before it
	}
	if p.history == nil {
		p.history = newHistory(p.timing)
	}
	p.generation = p.history.begin()
	if o.Known != nil {
		p.history.seed(p.write, o.Known)
	}
	if p.verdict().Contacted {
		p.conclude.Do(func() { close(p.concluded) })
	}
	return p
}

// History returns what callers were told so far.
func (p *Provider) History() *History { return p.history }

// Name returns the provider's name.
func (p *Provider) Name() string { return p.opts.Name }

// An Encrypted DEK, as KMS v2 stores it. KMS v1 stores the Ciphertext only.
type Encrypted struct {
	Ciphertext  []byte
	KeyID       string
	Annotations map[string][]byte
}

// Encrypt wraps 1 to 4,096 bytes under the write key. While it is known that they
// could not be read again, it asks KMS for nothing and refuses. Errors are
// [cause.Error]s.
func (p *Provider) Encrypt(ctx context.Context, plaintext secret.Bytes) (Encrypted, error) {
	if e := p.write.Unreadable(); e != nil {
		return Encrypted{}, p.named(p.advised(e.Noted("nothing is encrypted that could not be read again")))
	}
	wrapped, w, err := p.encrypt(ctx, p.caller.Begun(), plaintext)
	if err != nil {
		return Encrypted{}, p.named(p.advised(err))
	}
	p.answer(ctx, w)
	e := Encrypted{Ciphertext: wrapped.Ciphertext, KeyID: w.keyID, Annotations: map[string][]byte{keyring.AnnotationKeyARN: []byte(w.ARN)}}
	if w.Region != "" {
		e.Annotations[keyring.AnnotationRegion] = []byte(w.Region)
	}
	if wrapped.RequestID != "" {
		e.Annotations[keyring.AnnotationRequestID] = []byte(wrapped.RequestID)
	}
	return e, nil
}

// Decrypt unwraps a stored DEK with the configured key that made it. Errors are
// [cause.Error]s; see [keyring.Ring.Unwrap].
func (p *Provider) Decrypt(ctx context.Context, s keyring.Stored) (secret.Bytes, error) {
	plaintext, err := p.ring.Unwrap(ctx, s)
	if err != nil {
		return nil, p.named(err)
	}
	return plaintext, nil
}

// ForgetBad forgets which ciphertexts nobody opened, for a configuration under which
// they may be good.
func (p *Provider) ForgetBad() { p.ring.ForgetBad() }

// encrypt wraps under the write key, and returns the key_id of that. The key_id is fixed
// before the call; a rotation during it affects only later calls. The first ciphertext
// is decrypted at once to learn the ARN and key material. Of two first calls that met an
// alias on the move, one wins: the other encrypts again, so that no ciphertext leaves
// under a key that key_id does not name.
func (p *Provider) encrypt(ctx context.Context, caller kmskey.Caller, plaintext secret.Bytes) (kmskey.Wrapped, *written, error) {
	k := p.write
	for range 2 {
		w, address := p.written(), k.Address()
		if w != nil {
			address = string(w.ARN)
		}
		wrapped, err := k.Encrypt(ctx, caller, address, plaintext)
		if err != nil {
			return kmskey.Wrapped{}, nil, err
		}
		if w == nil {
			if err := p.resolveFirst(ctx, caller, wrapped, plaintext); err != nil {
				return kmskey.Wrapped{}, nil, err
			}
			w = p.written()
		}
		if w != nil && w.ARN == wrapped.KeyARN { // else an alias showed a key that it has just left
			return wrapped, w, nil
		}
	}
	return kmskey.Wrapped{}, nil, &cause.Error{Code: cause.WrongAnswer, Op: "Encrypt", Key: k.Name(), Said: "the ARN of the key changes from call to call"}
}

// resolveFirst opens what was just encrypted, and takes what that shows for the
// key_id's beginning.
func (p *Provider) resolveFirst(ctx context.Context, caller kmskey.Caller, wrapped kmskey.Wrapped, plaintext secret.Bytes) error {
	material, err := p.write.Reopen(ctx, caller, bounded.Call, kmskey.NewProbe(wrapped, plaintext))
	p.write.EnterReopened(ctx, caller, err, time.Time{})
	if err == nil {
		p.observe(ctx, kmskey.Observation{ARN: wrapped.KeyARN, Material: material}, false)
	}
	return err
}

// named adds the provider's name to an error that leaves it.
func (p *Provider) named(err error) error {
	e := *cause.Of(err)
	e.Provider, e.Called = p.opts.Name, p.opts.Called
	return &e
}

// written is what the write key writes: its resolution, with the key_id of it.
type written struct {
	*kmskey.Resolution

	keyID string
}

// written returns nil as long as this process has not encrypted and decrypted
// under the write key: there is no key_id before.
func (p *Provider) written() *written {
	r := p.write.Resolution()
	if r == nil || !r.Seen {
		return nil
	}
	if w := p.current.Load(); w != nil && w.Resolution == r {
		return w
	}
	state := r.State
	state.Epoch = p.opts.Epoch
	w := &written{Resolution: r, keyID: state.String()}
	p.current.Store(w)
	return w
}

// keyID returns the key_id, "" before there is one.
func (p *Provider) keyID() string {
	if w := p.written(); w != nil {
		return w.keyID
	}
	return ""
}

// answer notes that a caller is told a key_id, and says in the log when it is
// another one than before.
func (p *Provider) answer(ctx context.Context, w *written) {
	if p.answered.Load() == w {
		return
	}
	p.keeper.answering.Lock()
	defer p.keeper.answering.Unlock()
	was, again := p.history.note(p, w)
	if was != w.keyID && p.keeper.memory != nil { // before any caller knows: the process may be killed at once
		p.keep(ctx, w, p.verdict().LastOK)
	}
	p.answered.Store(w)
	switch {
	case was == w.keyID:
	case was == "":
		p.log.InfoContext(ctx, "key_id is known", "key", p.write.Name(), "key_arn", w.ARN, "key_id", w.keyID)
	case again:
		p.log.WarnContext(ctx, "key_id is one that was left before: API servers take what they wrote under it for fresh; another epoch of the provider makes them write all of it again",
			"key_id", w.keyID, "was", was)
	default:
		p.log.WarnContext(ctx, "key_id changed: API servers take a new DEK seed, and what they stored before is to be rewritten", "key_id", w.keyID, "was", was)
	}
}
