// Package keyring is one provider of kube-apiserver: the key that writes, the
// keys that may read, how each is doing, and the key_id.
//
// Reads are pinned: a Decrypt names a configured key, since ciphertext, key_id
// and annotations come out of etcd, and whoever can write there must not choose
// a key of their own. They select among the configured keys and never name
// another.
//
// Health is evidence: every KMS call tells the record of its key how it went,
// and a background check runs where there was no recent evidence. Status and
// Health read the record and never wait for the network; only a Status before
// the first contact with KMS waits for that, up to two seconds.
//
// What kube-apiserver demands of key_id, Status and annotations:
// https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/3299-kms-v2-improvements
package keyring

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Annotations that Encrypt adds for people and tools. Reading never needs them.
const (
	AnnotationKeyARN    = "key-arn.aws-encryption-provider.sigs.k8s.io"
	AnnotationRegion    = "region.aws-encryption-provider.sigs.k8s.io"
	AnnotationRequestID = "request-id.aws-encryption-provider.sigs.k8s.io"
)

// A KeyConfig names a key and says how to reach it.
type KeyConfig struct {
	Name string // as KMS takes it: ARN, key id, alias ARN or alias/name
	KMS  seal.KMS
}

// Options configure a Provider. All fields are required but Read.
type Options struct {
	Name        string
	Write       KeyConfig
	Read        []KeyConfig   // further keys that may decrypt, in the order in which they are tried
	Timeout     time.Duration // limit of one call over all keys that it tries
	OutageGrace time.Duration // how long Status stays ok in an outage, since the last success
	Log         *slog.Logger
}

// A Provider serves one provider entry of an EncryptionConfiguration. It is safe
// for concurrent use; Run has to run beside it.
type Provider struct {
	opts  Options
	log   *slog.Logger
	write *key
	read  []*key

	learned    atomic.Pointer[[]*key] // earlier keys of the alias, newest last; never nil
	lastWorked atomic.Pointer[key]
	bad        *badMemory

	lastProbe *sealedProbe  // of Run's own goroutine
	wake      chan struct{} // evidence came that the checks should know of
	concluded chan struct{} // closed when the first check has ended, either way
	conclude  sync.Once

	healthy atomic.Bool // state is Healthy: a success changes nothing
	stateMu sync.Mutex
	state   State // as last logged
}

// New returns a Provider. It does no I/O.
func New(o Options) *Provider {
	p := &Provider{
		opts: o, log: o.Log.With("provider", o.Name), write: newKey(o.Write), bad: newBadMemory(),
		wake: make(chan struct{}, 1), concluded: make(chan struct{}), state: Unknown,
	}
	for _, r := range o.Read {
		p.read = append(p.read, newKey(r))
	}
	p.learned.Store(new([]*key))
	return p
}

// Name returns the provider's name.
func (p *Provider) Name() string { return p.opts.Name }

// A key is one KMS key of the provider.
type key struct {
	name     string
	ref      keyref.Ref
	kms      seal.KMS
	resolved atomic.Pointer[identity] // nil until KMS resolved the name
	record   record
}

// An identity is what a key's name resolved to.
type identity struct {
	arn    string
	keyID  string // the ARN, without the Region of a multi-Region key
	region string
}

func identify(arn string) *identity {
	ref, err := keyref.Parse(arn)
	if err != nil { // KMS is not AWS's: whatever it calls its key names it
		return &identity{arn: arn, keyID: arn}
	}
	return &identity{arn: arn, keyID: ref.KeyID(), region: ref.Region}
}

func newKey(c KeyConfig) *key {
	k := &key{name: c.Name, kms: c.KMS}
	k.ref, _ = keyref.Parse(c.Name) // the configuration has refused what is none
	if k.ref.IsARN() && !k.ref.IsAlias() {
		k.resolved.Store(identify(k.name))
	}
	return k
}

// address is the name by which KMS is asked: the ARN once it is known, so that
// a moved alias changes nothing under a running process.
func (k *key) address() string {
	if id := k.resolved.Load(); id != nil {
		return id.arn
	}
	return k.name
}

// keyID is the key's part of a provider's key_id, "" while it is unresolved.
func (k *key) keyID() string {
	if id := k.resolved.Load(); id != nil {
		return id.keyID
	}
	return ""
}

// is says whether a name out of etcd means this key.
func (k *key) is(name string) bool {
	if name == "" {
		return false
	}
	return name == k.name || name == k.address() || name == k.keyID()
}

// An Encrypted DEK, as KMS v2 stores it. KMS v1 stores the Ciphertext only.
type Encrypted struct {
	Ciphertext  []byte
	KeyID       string
	Annotations map[string][]byte
}

// Encrypt wraps 1 to 4,096 bytes under the write key. Errors are
// [cause.Error]s.
func (p *Provider) Encrypt(ctx context.Context, plaintext secret.Bytes) (Encrypted, error) {
	ctx, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	sealed, err := p.encrypt(ctx, plaintext, false)
	if err != nil {
		return Encrypted{}, p.named(err)
	}
	id := p.write.resolved.Load()
	e := Encrypted{Ciphertext: sealed.Ciphertext, KeyID: id.keyID, Annotations: map[string][]byte{AnnotationKeyARN: []byte(id.arn)}}
	if id.region != "" {
		e.Annotations[AnnotationRegion] = []byte(id.region)
	}
	if sealed.RequestID != "" {
		e.Annotations[AnnotationRequestID] = []byte(sealed.RequestID)
	}
	return e, nil
}

// encrypt seals under the write key, and resolves it at the first time. Of two
// first calls that met an alias on the move, one wins: the other encrypts anew,
// so that no ciphertext leaves under a key that key_id does not name.
func (p *Provider) encrypt(ctx context.Context, plaintext secret.Bytes, check bool) (seal.Sealed, error) {
	k := p.write
	for range 2 {
		sealed, err := seal.Direct(ctx, k.kms, k.address(), plaintext)
		p.tell(ctx, k, encrypt, err, check)
		if err != nil {
			return seal.Sealed{}, err
		}
		p.resolve(ctx, k, sealed.KeyARN)
		if k.address() == sealed.KeyARN {
			return sealed, nil
		}
	}
	return seal.Sealed{}, &cause.Error{Code: cause.WrongAnswer, Op: "Encrypt", Key: k.name, Said: "the ARN of the key changes from call to call"}
}

// resolve notes what a key's name stands for, at the first answer of KMS.
func (p *Provider) resolve(ctx context.Context, k *key, arn string) {
	if k.resolved.Load() == nil && k.resolved.CompareAndSwap(nil, identify(arn)) {
		p.log.InfoContext(ctx, "key resolved", "key", k.name, "key_arn", arn, "key_id", k.keyID())
	}
}

// tell enters a call's outcome into the key's record, and looks at what changed
// where the key decides the provider's health.
func (p *Provider) tell(ctx context.Context, k *key, op operation, err error, check bool) {
	now := time.Now()
	if err == nil {
		k.record.succeeded(op, now)
	} else {
		k.record.failed(op, now, cause.Of(err), check)
	}
	if k == p.write {
		p.weigh(ctx, err != nil)
	}
}

// named adds the provider's name to an error that leaves it.
func (p *Provider) named(err error) error {
	e := *cause.Of(err)
	e.Provider = p.opts.Name
	return &e
}
