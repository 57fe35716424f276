// Package keyring is one provider of kube-apiserver: the key that writes, the
// keys that may read, how each is doing, and the key_id.
//
// Reads are pinned: a Decrypt names a configured key, since ciphertext, key_id
// and annotations come out of etcd, and whoever can write there must not choose
// a key of their own. They select among the configured keys and never name
// another.
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
package keyring

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Annotations that Encrypt adds for people and tools. Reading never needs them.
const (
	AnnotationKeyARN    = "key-arn.aws-encryption-provider.sigs.k8s.io"
	AnnotationRegion    = "region.aws-encryption-provider.sigs.k8s.io"
	AnnotationRequestID = "request-id.aws-encryption-provider.sigs.k8s.io"
)

// Options configure a Provider. All fields are required but Epoch, Waits, Pauses,
// Intervals, Memory, Known, Before and History.
type Options struct {
	Name        string
	Keys        []*Key        // the first writes, all read, in the order in which they are tried
	Epoch       uint32        // the operator's part of the key_id; 0: none
	Timeout     time.Duration // limit of one call over all keys that it tries
	OutageGrace time.Duration // how long Status stays ok in an outage, since the last success
	Log         *slog.Logger
	Waits       *bounded.Observer // told of checks that are left behind; nil: nobody is
	Memory      Memory            // keeps what is known over a restart of the process; nil: nothing does
	Known       *Known            // what the process before knew; nil: nothing that counts, or what Before has of it
	Pauses      *bounded.Pauses   // of the process, after which checks are counted again; nil: none
	Intervals   Intervals         // between questions about keys that only read
	Before      *Provider         // which this one replaces, under the same name; nil: none
	History     *History          // what callers were told by a provider of the same name that is gone; nil: Before's, or none
}

// A Provider serves one provider entry of an EncryptionConfiguration. It is safe
// for concurrent use; Run has to run beside it.
type Provider struct {
	opts  Options
	log   *slog.Logger
	write *Key   // the first of keys
	keys  []*Key // of the configuration; those that an alias named before come with it
	every Intervals

	reads      atomic.Uint64 // that began: each has its turn
	lastWorked worked
	bad        *badMemory
	missing    *missingKeys

	current    atomic.Pointer[written] // of the write key's present sight
	answered   atomic.Pointer[written] // what the last caller was told
	history    *History
	keeper     *keeper
	generation int // higher than that of any provider before

	lastProbe *sealedProbe  // of Run's own goroutine
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
		opts: o, log: o.Log.With("provider", o.Name), write: o.Keys[0], keys: o.Keys, every: o.Intervals.orUsual(),
		bad: newBadMemory(), missing: newMissingKeys(),
		wake: make(chan struct{}, 1), concluded: make(chan struct{}), state: evidence.Unknown,
		history: o.History, keeper: newKeeper(o),
	}
	p.opts.Known = nil
	if b := o.Before; b != nil {
		p.state, p.history = b.loggedState(), b.history
		p.opts.Before = nil // else every generation would keep all before it
	}
	if p.history == nil {
		p.history = NewHistory()
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
	if e := p.write.record.Unreadable(); e != nil {
		return Encrypted{}, p.named(p.advised(e.Noted("nothing is encrypted that could not be read again")))
	}
	ctx, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	sealed, w, err := p.encrypt(ctx, plaintext)
	if err != nil {
		return Encrypted{}, p.named(p.advised(err))
	}
	p.answer(ctx, w)
	e := Encrypted{Ciphertext: sealed.Ciphertext, KeyID: w.keyID, Annotations: map[string][]byte{AnnotationKeyARN: []byte(w.arn)}}
	if w.region != "" {
		e.Annotations[AnnotationRegion] = []byte(w.region)
	}
	if sealed.RequestID != "" {
		e.Annotations[AnnotationRequestID] = []byte(sealed.RequestID)
	}
	return e, nil
}

// encrypt seals under the write key, and says what that key_id is. What it is, is
// known before the call: a change in between belongs to later calls. At the first
// time the result is opened at once, to see. Of two first calls that met an alias
// on the move, one wins: the other encrypts anew, so that no ciphertext leaves
// under a key that key_id does not name.
func (p *Provider) encrypt(ctx context.Context, plaintext secret.Bytes) (wrapped, *written, error) {
	k := p.write
	for range 2 {
		w, address := p.written(), k.address()
		if w != nil {
			address = w.arn
		}
		sealed, err := direct(ctx, k.config.KMS, address, plaintext)
		p.tell(ctx, k, evidence.Encrypt, err)
		if err != nil {
			return wrapped{}, nil, err
		}
		if w == nil {
			if err := p.firstSight(ctx, sealed, plaintext); err != nil {
				return wrapped{}, nil, err
			}
			w = p.written()
		}
		if w != nil && w.arn == sealed.KeyARN { // else an alias showed a key that it has just left
			return sealed, w, nil
		}
	}
	return wrapped{}, nil, &cause.Error{Code: cause.WrongAnswer, Op: "Encrypt", Key: k.config.Name, Said: "the ARN of the key changes from call to call"}
}

// firstSight opens what was just sealed, and takes what that shows for the
// key_id's beginning.
func (p *Provider) firstSight(ctx context.Context, sealed wrapped, plaintext secret.Bytes) error {
	material, err := p.reopen(ctx, bounded.Call, sealedProbe{sealed, bytes.Clone(plaintext)})
	opened(err, func(op evidence.Operation, err error) { p.tell(ctx, p.write, op, err) })
	if err == nil {
		p.see(ctx, sighting{sealed.KeyARN, material}, false)
	}
	return err
}

// tell enters the outcome of a call that is none of a due check's.
func (p *Provider) tell(ctx context.Context, k *Key, op evidence.Operation, err error) {
	p.enter(ctx, k, op, err, time.Time{})
}

// enter enters a call's outcome into the key's record, and looks at what changed
// where the key decides the provider's health. began is when the due check began
// that made the call; zero for every other call.
func (p *Provider) enter(ctx context.Context, k *Key, op evidence.Operation, err error, began time.Time) {
	if err != nil && k == p.write {
		k.record.Resume(p.opts.Pauses.Last())
		if cause.ClassOf(err).TellsHealth() {
			p.keeper.before.last.Store(&failure{cause.Of(err), time.Now()})
		}
	}
	k.record.Enter(op, time.Now(), err, began)
	if k == p.write {
		if err != nil && cause.ClassOf(err) == cause.Refused {
			p.keeper.refused()
		}
		p.weigh(ctx, err != nil)
	}
}

// named adds the provider's name to an error that leaves it.
func (p *Provider) named(err error) error {
	e := *cause.Of(err)
	e.Provider = p.opts.Name
	return &e
}
