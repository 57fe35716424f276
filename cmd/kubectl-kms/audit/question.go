package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// A Question asks about a key. Its answer is yes, no or "not known".
type Question struct {
	Only bool // is everything under the key? Else: is nothing under it?
	Key  Key
}

// String returns the flag that asks it.
func (q Question) String() string {
	if q.Only {
		return "expect-only"
	}
	return "expect-unused"
}

// A Key is what people call what protects objects. The zero value is none; see
// [ParseKey].
type Key struct {
	text string
	kind keyKind
	ref  keyref.Ref // of a key ARN or a key id without parameters

	alias bool // which names some key, and nobody here knows which
}

type keyKind uint8

const (
	byKeyID keyKind = iota
	byHash
	byProvider
	asPlaintext
)

// ParseKey reads a key's name: an ARN, under which every key_id of the key counts; a
// key_id; its "sha256:" as metrics and logs of API servers have it; provider:NAME; or
// plaintext.
func ParseKey(text string) (Key, error) {
	name, isProvider := strings.CutPrefix(text, "provider:")
	hash, isHash := strings.CutPrefix(text, "sha256:")
	word, _, _ := strings.Cut(text, ":")
	switch {
	case text == "":
		return Key{}, errors.New("is empty: give a key's ARN, a key_id, its sha256:, provider:NAME or plaintext")
	case word != strings.ToLower(word) && slices.Contains([]string{"provider", "sha256", "plaintext", "arn"}, strings.ToLower(word)):
		return Key{}, errors.New("begins with capital letters: write " + strings.ToLower(word))
	case text == "plaintext":
		return Key{text: "plaintext", kind: asPlaintext}, nil
	case isProvider && name == "":
		return Key{}, errors.New("names no provider: want provider:NAME")
	case isProvider && name != strings.TrimSpace(name):
		return Key{}, errors.New("has a blank beside the provider's name: take it out, since a mistyped name would count as unused")
	case isProvider:
		return Key{text: text, kind: byProvider}, nil
	case isHash:
		if raw, err := hex.DecodeString(hash); err != nil || len(raw) != sha256.Size {
			return Key{}, errors.New("is no hash: want sha256: and 64 hex digits")
		}
		return Key{text: "sha256:" + strings.ToLower(hash), kind: byHash}, nil
	}
	if wrong := keyref.Slip(text); wrong != "" {
		return Key{}, errors.New(wrong)
	}
	k := Key{text: inKeyIDs(text)}
	ref, err := parseRef(k.text)
	if err != nil && strings.HasPrefix(text, "arn:") && !strings.Contains(text, "?") {
		return Key{}, fmt.Errorf("%w: a mistyped key would count as unused", err)
	}
	if err == nil {
		k.alias = ref.IsAlias()
	}
	if err == nil && !k.alias {
		k.ref = ref
	}
	return k, nil
}

// inKeyIDs is a name as key_ids have it: an id in small letters, and one with parameters
// without the Region of a multi-Region key.
func inKeyIDs(text string) string {
	ref, err := keyref.Parse(text)
	key, parameters, has := strings.Cut(text, "?")
	switch {
	case err == nil && ref.Key != "":
		ref.Key = strings.ToLower(ref.Key)
		return ref.String()
	case has:
		return string(keyref.ARN(key).ID()) + "?" + parameters
	}
	return text
}

// parseRef reads a key's name, and also that of a multi-Region key as key_ids have it:
// without a Region.
func parseRef(text string) (keyref.Ref, error) {
	return keyref.Parse(strings.Replace(text, ":kms::", ":kms:any-region:", 1))
}

// String returns the key as it was asked about.
func (k Key) String() string { return k.text }

// provider is the NAME of provider:NAME.
func (k Key) provider() string { return strings.TrimPrefix(k.text, "provider:") }

// A certainty is whether something holds, as far as bytes tell.
type certainty uint8

const (
	no certainty = iota
	yes
	notKnown
)

// protects reports whether the key protects what is stored so. A key is compared as a
// whole, or by the parts of its ARN: never by a part of a text, since annotations and
// key_ids of others may contain an ARN.
func (k Key) protects(u under) certainty {
	switch k.kind {
	case asPlaintext:
		return certain(u.format == stored.Plaintext)
	case byProvider:
		return certain(u.format != stored.Plaintext && u.provider == k.provider())
	case byHash, byKeyID:
	}
	switch {
	case u.format == stored.KMSv1 && u.key == "":
		return notKnown // its bytes name no key
	case u.format == stored.KMSv1:
		return k.opens(u.key)
	case u.format != stored.KMSv2:
		return no
	case k.kind == byHash:
		return certain(hashOf(u.keyID) == k.text)
	case u.keyID == k.text && k.ref.Key == "":
		return yes
	case k.alias:
		return k.mayName(string(keyref.ParseState(u.keyID).Key))
	case k.ref.Key == "":
		return no
	case u.key != "": // whatever its key_id says
		return k.names(string(u.key))
	case u.keyID == k.text:
		return yes
	}
	return k.names(string(keyref.ParseState(u.keyID).Key))
}

// OfKMS reports whether it is a key of KMS, by whatever it is named, and no provider's name
// and no plaintext.
func (k Key) OfKMS() bool { return k.kind == byHash || k.kind == byKeyID }

// Covers reports whether what API servers write is under the key. keyID is "" where only
// its hash is known, and known false where that does not tell.
func (k Key) Covers(w WrittenUnder, keyID string) (covers, known bool) {
	u := under{format: stored.Format(w.Format), provider: w.Provider, keyID: keyID}
	switch same := w.KeyIDHash == k.hash() || k.ref.Key != "" && w.KeyIDHash == hashOf(string(k.ref.ID())); {
	case u.format != stored.KMSv2 || !k.OfKMS() || keyID != "":
		answer := k.protects(u)
		return answer == yes, answer != notKnown
	case w.KeyIDHash == "":
		return false, false
	case same:
		return true, true
	}
	return false, k.kind == byHash || k.ref.Key == "" && !k.alias // else another key_id of the key, perhaps
}

// opens compares the key with the one that KMS says made a value of v1. A key_id tells
// more than that: nothing tells which of a key's key_ids the value would have.
func (k Key) opens(arn keyref.ARN) certainty {
	switch {
	case k.kind == byHash:
		return notKnown
	case k.ref.Key != "":
		return k.names(string(arn))
	}
	state := keyref.ParseState(k.text)
	ref, err := parseRef(string(state.Key))
	if err != nil || ref.IsAlias() {
		return notKnown
	}
	if (Key{ref: ref}).names(string(arn)) == no {
		return no
	}
	return notKnown
}

// names compares the key with the one that a key_id is of. A replica of a multi-Region
// key is the same key. The predecessor's key_ids are whatever its --key was: an
// alias may stand for any key.
func (k Key) names(key string) certainty {
	if key == string(k.ref.ID()) {
		return yes
	}
	ref, err := parseRef(key)
	switch {
	case err != nil:
		return no
	case ref.IsAlias():
		return notKnown
	case ref.IsARN() && k.ref.IsARN():
		return certain(ref.ID() == k.ref.ID())
	}
	return certain(ref.Key == k.ref.Key)
}

// mayName reports whether an alias may stand for what a key_id is of: for any key of AWS, in
// the alias's own account and Region where both are known.
func (k Key) mayName(key string) certainty {
	alias, _ := parseRef(k.text)
	ref, err := parseRef(key)
	if err != nil || alias.IsARN() && ref.IsARN() && (alias.Account != ref.Account || alias.Partition != ref.Partition) {
		return no
	}
	return notKnown
}

func certain(ok bool) certainty {
	if ok {
		return yes
	}
	return no
}

// hashOf is what API servers call a key_id in metrics and logs.
func hashOf(keyID string) string {
	sum := sha256.Sum256([]byte(keyID))
	return "sha256:" + hex.EncodeToString(sum[:])
}
