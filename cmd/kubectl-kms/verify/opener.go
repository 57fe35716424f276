package verify

import (
	"context"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A Wrapped DEK or DEK seed, as etcd has it. Whoever can write to etcd chooses all of it.
type Wrapped struct {
	Version     string // of KMS: v1 or v2
	Provider    string // the NAME of the kms entry
	Ciphertext  []byte
	KeyID       string            // v2's alone
	Annotations map[string][]byte // v2's alone
}

// Unwrapped is what was in it.
type Unwrapped struct {
	Secret secret.Bytes
	Key    keyref.ARN // that opened it; "": who was asked does not tell
}

// An Opener unwraps as the plugin of an API server does. It is safe for concurrent use.
type Opener interface {
	// Open unwraps one. The error is a [Refusal], or that of ctx. A v1 DEK may come with
	// any key; a v2 one names its key, and is never opened by a key that was not given.
	Open(ctx context.Context, w Wrapped) (Unwrapped, error)

	// Keys describes the keys that the Opener was given, after it has been asked. There
	// are none where a plugin is asked, which keeps them to itself.
	Keys(ctx context.Context) ([]Key, error)

	// String says who is asked.
	String() string
}

// A State is what is known of a key. Its text is part of what verify prints.
type State string

// The states of a key. Those up to Unavailable are KMS's own, which DescribeKey tells;
// a Decrypt that is refused tells some of them too.
const (
	Enabled         State = "enabled"
	Disabled        State = "disabled"
	PendingDeletion State = "pending deletion"
	PendingImport   State = "pending import"
	Unavailable     State = "unavailable"

	Denied      State = "denied"      // to whoever asks
	NotFound    State = "not found"   // deleted, or of another account or Region
	NotListed   State = "not listed"  // among the keys that were given
	Foreign     State = "foreign"     // of an account that none of the keys that were given is of
	Unreachable State = "unreachable" // KMS, the plugin or credentials
	Damaged     State = "damaged"     // the bytes, or their encryption context; of no key
	Unknown     State = "not known"
)

// Refuses reports whether nothing that is under a key in this state can be read.
func (s State) Refuses() bool {
	switch s {
	case Disabled, PendingDeletion, PendingImport, Denied, NotFound, NotListed, Foreign, Damaged:
		return true
	case Enabled, Unavailable, Unreachable, Unknown:
	}
	return false
}

// A Key is one that an [Opener] was given.
type Key struct {
	Name     string     // as it was given
	ARN      keyref.ARN // "": KMS did not tell
	State    State
	Deletion time.Time // zero: none is scheduled
	Note     string    // why the state is not known; may be empty
}

// A Refusal is a DEK or a seed that was not unwrapped. All of it is safe to print.
type Refusal struct { //nolint:errname // an answer, and called what it is
	State State      // of the key; what does not refuse may pass by itself
	Keys  []string   // that may have made it: all that were asked and did not rule themselves out
	Made  keyref.ARN // the key that made it, where KMS says so
	Code  string     // such as KMS0101; "": none
	Text  string     // why, and what to do
	Again bool       // the same may work in a moment
}

// Error returns the text.
func (r *Refusal) Error() string { return r.Text }
