// Package kmskey is one KMS key, with all that this process knows of it: what its name
// stands for, how it is doing, and when it is asked next.
//
// Every call of KMS that uses a key goes through its methods, which enter the outcome
// into the key's evidence ([evidence.Record]). So no caller can forget to. A key knows
// no other key, no provider and no ciphertext format but the one that it writes.
package kmskey

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// maxEarlier bounds the earlier keys of an alias that are remembered. More are
// read all the same, by an unpinned Decrypt each time.
const maxEarlier = 256

// A Config names a key and says how to reach it.
type Config struct {
	Name    string // as KMS takes it: ARN, key id, alias ARN or alias/name
	Context string // [keyref.ContextHash] of the encryption context that KMS is called with
	KMS     KMS
}

// A Key is one KMS key, with what this process knows of it: how it is doing,
// which ARN its name stands for, and which key material it encrypts with. It may
// pass from one provider to the next that replaces it, as writer or reader. It is
// safe for concurrent use.
type Key struct {
	config    Config
	ref       keyref.Ref
	record    evidence.Record
	questions questions

	resolution atomic.Pointer[Resolution] // nil until KMS resolved the name
	earlier    atomic.Pointer[[]*Key]     // keys that the alias named before, newest last; never nil

	unresolved atomic.Pointer[unresolved] // why KMS last refused to say what the alias names

	mu         sync.Mutex  // of what follows, and of changes of the resolution
	next       Observation // the last one, where that is not yet the resolution
	times      int         // how often in a row
	superseded map[Observation]bool
	trouble    *Trouble // why an alias is not followed
}

// A Resolution is what a key's name stands for.
type Resolution struct {
	ARN    keyref.ARN
	Region string       // "": KMS is not AWS's
	State  keyref.State // Format and Epoch are the provider's
	Seen   bool         // this process has encrypted and decrypted under it
}

// New returns a Key. It does no I/O.
func New(c Config) *Key {
	k := &Key{config: c, superseded: map[Observation]bool{}}
	k.ref, _ = keyref.Parse(c.Name) // the configuration has refused what is none
	k.earlier.Store(new([]*Key))
	if k.ref.IsARN() && !k.ref.IsAlias() {
		k.resolution.Store(k.resolutionOf(Observation{ARN: keyref.ARN(c.Name)}))
	}
	return k
}

func (k *Key) resolutionOf(o Observation) *Resolution {
	return &Resolution{
		ARN: o.ARN, Region: o.ARN.Region(),
		State: keyref.State{Key: o.ARN.ID(), Material: o.Material, Context: k.config.Context},
	}
}

// Name returns the key's name, as configured.
func (k *Key) Name() string { return k.config.Name }

// Alias returns the alias that the key's name is, as KMS takes it ("alias/..."), or "".
func (k *Key) Alias() string { return k.ref.Alias }

// IsAlias reports whether the key's name is an alias, which may move.
func (k *Key) IsAlias() bool { return k.ref.IsAlias() }

// Resolution returns what the key's name stands for, nil until KMS resolved it.
func (k *Key) Resolution() *Resolution { return k.resolution.Load() }

// Address is the name by which KMS is asked: the ARN once it is known, so that
// an alias that moves changes nothing by itself.
func (k *Key) Address() string {
	if r := k.resolution.Load(); r != nil {
		return string(r.ARN)
	}
	return k.config.Name
}

// StandsFor reports whether the key's name stands for an ARN, as far as is known.
func (k *Key) StandsFor(arn keyref.ARN) bool {
	r := k.resolution.Load()
	return r == nil || r.ARN == arn
}

// resolve notes what a key's name stands for, at the first answer of KMS.
func (k *Key) resolve(arn keyref.ARN) {
	if k.resolution.Load() == nil {
		k.resolution.CompareAndSwap(nil, k.resolutionOf(Observation{ARN: arn}))
	}
}

// A Fit is how well a key fits what names it in etcd.
type Fit int

// Fits, from none to the best.
const (
	OtherKey     Fit = iota
	OtherContext     // the same key, called with another encryption context
	SameKey
)

// Fits compares the key with a key_id out of etcd: one that this program ever
// answered, or the predecessor's, which is the value of its flag.
func (k *Key) Fits(keyID string, state keyref.State) Fit {
	switch {
	case state.Key == "" || !k.Is(string(state.Key)):
		return OtherKey
	case state.Context == k.config.Context || keyID == string(state.Key): // the predecessor's names no context
		return SameKey
	}
	return OtherContext
}

// Is reports whether a name without parameters means this key.
func (k *Key) Is(name string) bool {
	r := k.resolution.Load()
	if name == k.config.Name || r != nil && (name == string(r.ARN) || name == string(r.State.Key)) {
		return true
	}
	if r == nil || !strings.Contains(name, ":key/mrk-") {
		return false
	}
	return keyref.ARN(name).ID() == r.State.Key // of another Region, perhaps
}

// Earlier returns the keys that an alias named before the one that it names now.
func (k *Key) Earlier() []*Key {
	earlier := *k.earlier.Load()
	if len(earlier) == 0 {
		return nil
	}
	now := k.Address()
	return slices.DeleteFunc(slices.Clone(earlier), func(e *Key) bool { return e.config.Name == now })
}

// Learn makes a key that the alias named before a read key for the life of the
// process. It returns nil where there are too many, and reports whether it is new.
func (k *Key) Learn(arn keyref.ARN) (earlier *Key, isNew bool) {
	for {
		old := k.earlier.Load()
		if i := slices.IndexFunc(*old, func(e *Key) bool { return e.config.Name == string(arn) }); i >= 0 {
			return (*old)[i], false
		}
		if len(*old) == maxEarlier {
			return nil, false
		}
		e := New(Config{Name: string(arn), Context: k.config.Context, KMS: k.config.KMS})
		if with := k.questions.withProof(); with != nil && with.arn == arn {
			e.questions.proof = with
		}
		next := append(slices.Clone(*old), e)
		if k.earlier.CompareAndSwap(old, &next) {
			return e, true
		}
	}
}

// Names reports whether a key is this one, or one that this alias named before.
func (k *Key) Names(other *Key) bool {
	return k == other || slices.Contains(*k.earlier.Load(), other)
}

// observations is how often in a row something new has to be observed until it counts: KMS
// is eventually consistent, and may answer old and new in turn for minutes.
const observations = 3

// An Observation is what one round trip showed: the key that answered, and the
// material that it encrypts with, "" where KMS names none.
type Observation struct {
	ARN      keyref.ARN
	Material string
}

// Observe takes in an observation. The first of a process counts at once. A change
// counts when it was observed three times in a row, or at once where nothing depends on
// the old one. Material goes forward only. rest is the key that an alias goes on with
// although another one was observed, "" for none.
//
// It returns the resolutions before and after where this changed them, else nil.
func (k *Key) Observe(o Observation, atOnce bool, rest keyref.ARN) (before, after *Resolution) {
	k.mu.Lock()
	defer k.mu.Unlock()
	current := k.resolution.Load()
	rests := rest != "" && (current == nil || current.ARN != rest || k.record.Verdict().State != evidence.Refused)
	if current == nil || !current.Seen {
		if rests {
			k.goOn(rest, o.ARN)
			return nil, nil
		}
		return current, k.settle(current, o)
	}
	known := Observation{current.ARN, current.State.Material}
	absent := o != known && o.ARN == known.ARN && o.Material == ""
	switch {
	case o.ARN == known.ARN && rests && atOnce: // another Key of the same alias was followed meanwhile
		k.goOn(rest, o.ARN)
		return nil, nil
	case absent && k.next.ARN == known.ARN: // it says nothing of that key's material
		return nil, nil
	case o == known, absent, k.superseded[o], o.ARN != known.ARN && rests:
		k.next, k.times = Observation{}, 0
		return nil, nil
	case o == k.next:
		k.times++
	default:
		k.next, k.times = o, 1
	}
	if k.times < observations && !atOnce {
		return nil, nil
	}
	return current, k.settle(current, o)
}

// goOn makes the key that the alias was followed to before the one that is asked
// next, and the one that was seen instead a key that reads. It becomes the one that
// writes when it has encrypted and decrypted.
func (k *Key) goOn(arn, seen keyref.ARN) {
	k.Learn(seen)
	if current := k.resolution.Load(); current == nil || current.ARN != arn {
		k.resolution.Store(k.resolutionOf(Observation{ARN: arn}))
		k.record.Forget()
	}
}

// settle makes an observation the resolution. What was before it is left behind: material
// for good, and a key of an alias becomes one that reads.
func (k *Key) settle(current *Resolution, o Observation) *Resolution {
	if current != nil && current.ARN != o.ARN {
		k.Learn(current.ARN)
	}
	if current != nil && current.ARN == o.ARN && current.State.Material != "" && current.State.Material != o.Material {
		k.superseded[Observation{current.ARN, current.State.Material}] = true
	}
	next := k.resolutionOf(o)
	next.Seen = true
	k.resolution.Store(next)
	k.next, k.times = Observation{}, 0
	return next
}

// Watched reports whether something new was observed that does not count yet.
func (k *Key) Watched() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.times > 0
}
