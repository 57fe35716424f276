package keyring

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// A KeyConfig names a key and says how to reach it.
type KeyConfig struct {
	Name    string // as KMS takes it: ARN, key id, alias ARN or alias/name
	Context string // [keyref.ContextHash] of the encryption context that KMS is called with
	KMS     KMS
}

// A Key is one KMS key, with what this process knows of it: how it is doing,
// which ARN its name stands for, and which key material it encrypts with. It may
// pass from one Provider to the next that replaces it, as writer or reader. It is
// safe for concurrent use.
type Key struct {
	config    KeyConfig
	ref       keyref.Ref
	record    evidence.Record
	questions questions

	sight   atomic.Pointer[sight]  // nil until KMS resolved the name
	earlier atomic.Pointer[[]*Key] // keys that the alias named before, newest last; never nil

	unresolved atomic.Pointer[badEntry] // why KMS last refused to say what the alias names

	mu         sync.Mutex // of what follows, and of changes of sight
	next       sighting   // what was seen last, where that is not yet the sight
	times      int        // how often running
	superseded map[sighting]bool
	trouble    *Trouble // why an alias is not followed
}

// A sight is what a key's name stands for.
type sight struct {
	arn    string
	region string
	state  keyref.State // Format and Epoch are the provider's
	seen   bool         // this process has encrypted and decrypted under it
}

// NewKey returns a Key. It does no I/O.
func NewKey(c KeyConfig) *Key {
	k := &Key{config: c, superseded: map[sighting]bool{}}
	k.ref, _ = keyref.Parse(c.Name) // the configuration has refused what is none
	k.earlier.Store(new([]*Key))
	if k.ref.IsARN() && !k.ref.IsAlias() {
		k.sight.Store(k.sightOf(sighting{arn: c.Name}))
	}
	return k
}

func (k *Key) sightOf(s sighting) *sight {
	out := &sight{arn: s.arn, state: keyref.State{Key: s.arn, Material: s.material, Context: k.config.Context}}
	if ref, err := keyref.Parse(s.arn); err == nil { // else KMS is not AWS's: whatever it calls its key names it
		out.state.Key, out.region = ref.KeyID(), ref.Region
	}
	return out
}

// address is the name by which KMS is asked: the ARN once it is known, so that
// an alias that moves changes nothing by itself.
func (k *Key) address() string {
	if s := k.sight.Load(); s != nil {
		return s.arn
	}
	return k.config.Name
}

// standsFor says whether the key's name stands for an ARN, as far as is known.
func (k *Key) standsFor(arn string) bool {
	s := k.sight.Load()
	return s == nil || s.arn == arn
}

// resolve notes what a key's name stands for, at the first answer of KMS.
func (k *Key) resolve(arn string) {
	if k.sight.Load() == nil {
		k.sight.CompareAndSwap(nil, k.sightOf(sighting{arn: arn}))
	}
}

// How well a key fits what names it in etcd.
const (
	otherKey     = iota
	otherContext // the same key, called with another encryption context
	sameKey
)

// fits compares the key with a key_id out of etcd: one that this program ever
// answered, or the predecessor's, which is the value of its flag.
func (k *Key) fits(keyID string, state keyref.State) int {
	switch {
	case state.Key == "" || !k.is(state.Key):
		return otherKey
	case state.Context == k.config.Context || keyID == state.Key: // the predecessor's names no context
		return sameKey
	}
	return otherContext
}

// is says whether a name without parameters means this key.
func (k *Key) is(name string) bool {
	s := k.sight.Load()
	if name == k.config.Name || s != nil && (name == s.arn || name == s.state.Key) {
		return true
	}
	if s == nil || !strings.Contains(name, ":key/mrk-") {
		return false
	}
	ref, err := keyref.Parse(name) // of another Region, perhaps
	return err == nil && ref.KeyID() == s.state.Key
}

// before returns the keys that an alias named before the one that it names now.
func (k *Key) before() []*Key {
	earlier := *k.earlier.Load()
	if len(earlier) == 0 {
		return nil
	}
	now := k.address()
	return slices.DeleteFunc(slices.Clone(earlier), func(e *Key) bool { return e.config.Name == now })
}

// learn makes a key that the alias named before a read key for the life of the
// process. It returns nil where there are too many, and says whether it is new.
func (k *Key) learn(arn string) (earlier *Key, isNew bool) {
	for {
		old := k.earlier.Load()
		if i := slices.IndexFunc(*old, func(e *Key) bool { return e.config.Name == arn }); i >= 0 {
			return (*old)[i], false
		}
		if len(*old) == maxEarlier {
			return nil, false
		}
		e := NewKey(KeyConfig{Name: arn, Context: k.config.Context, KMS: k.config.KMS})
		if with := k.questions.withProof(); with != nil && with.arn == arn {
			e.questions.proof = with
		}
		next := append(slices.Clone(*old), e)
		if k.earlier.CompareAndSwap(old, &next) {
			return e, true
		}
	}
}
