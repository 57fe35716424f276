// Package stored reads what kube-apiserver keeps in etcd: which format a value has,
// which provider and key wrote it, and, given the key, the object itself.
//
// [Parse] is where to begin. It needs no key, no network and no configuration:
//
//	value   = plaintext | prefix body
//	prefix  = "k8s:enc:" FORMAT ":" VERSION ":" NAME ":"
//
//	aescbc v1     IV (16), ciphertext in AES-CBC with PKCS#7 padding; nothing authenticates it
//	aesgcm v1     nonce (12), ciphertext, tag (16)
//	secretbox v1  nonce (24), tag (16), ciphertext; not bound to its path
//	kms v1        length (2, big endian), wrapped DEK, then as aesgcm; before Kubernetes 1.25 as aescbc
//	kms v2        protobuf EncryptedObject: encryptedData, keyID, encryptedDEKSource, annotations, type
//
// What the EncryptedObject's encryptedData holds depends on its type: sealed by a
// DEK as in aesgcm, or, by a DEK seed, info (32) and then as aesgcm under the key
// that HKDF expands the seed and the info to.
//
// AES-GCM binds a value to the key under which etcd has it, the prefix of the API
// server included. A value that was moved does not open.
//
// The source is k8s.io/apiserver, pkg/storage/value/encrypt, of 1.37.
//
// # Compatibility
//
// Every value that a Kubernetes release since 1.13 wrote parses. testdata/vectors
// holds one of each kind; vectors are added and never changed.
package stored

import (
	"bytes"
	"fmt"
	"strings"
)

// A Format is how a value is stored. Its text is part of what commands print.
type Format string

// The formats that kube-apiserver has.
const (
	Plaintext Format = "plaintext"
	AESCBC    Format = "aescbc"
	AESGCM    Format = "aesgcm"
	Secretbox Format = "secretbox"
	KMSv1     Format = "kms v1"
	KMSv2     Format = "kms v2"
)

// prefixOfAll begins every value that is encrypted. The identity provider refuses to
// read one that does.
const prefixOfAll = "k8s:enc:"

// cutFormat parts FORMAT and VERSION from what follows prefixOfAll.
func cutFormat(rest []byte) (format Format, body []byte) {
	for _, known := range []struct {
		prefix string
		format Format
	}{
		{"kms:v2:", KMSv2},
		{"kms:v1:", KMSv1},
		{"aescbc:v1:", AESCBC},
		{"aesgcm:v1:", AESGCM},
		{"secretbox:v1:", Secretbox},
	} {
		if body, ok := bytes.CutPrefix(rest, []byte(known.prefix)); ok {
			return known.format, body
		}
	}
	return "", nil
}

// A Record is a value of etcd, taken apart. Its slices are parts of the value, which
// must not change while the Record is used.
type Record struct {
	Format Format

	// Provider is the NAME in the prefix: of the kms entry, or of the local key. It is
	// empty in plaintext.
	Provider string

	// Sealed is the object as the format seals it, nonce or IV included. In plaintext
	// it is the object.
	Sealed []byte

	// Wrapped is the DEK or the DEK seed as the KMS plugin encrypted it: what its
	// Decrypt is asked with. It is nil for formats with local keys.
	Wrapped []byte

	// The rest is KMS v2's alone.

	KeyID       string
	Annotations map[string][]byte
	Source      Source
}

// A ParseError says which part of a value is wrong. It holds nothing of the object.
type ParseError struct {
	Format Format // empty where the prefix itself is not known
	Reason string
}

// Error implements error.
func (e *ParseError) Error() string {
	return strings.TrimPrefix(string(e.Format)+": "+e.Reason, ": ")
}

// Parse takes a value apart. names are those of the EncryptionConfiguration, of all
// providers: a name may hold colons, and only the list tells where one ends. Of a
// name that is not among them, the part up to the first colon counts. Errors are
// [ParseError]s.
//
// An empty value is plaintext: kube-apiserver stores none.
func Parse(value []byte, names []string) (Record, error) {
	rest, encrypted := bytes.CutPrefix(value, []byte(prefixOfAll))
	if !encrypted {
		return Record{Format: Plaintext, Sealed: value}, nil
	}
	format, body := cutFormat(rest)
	if format == "" {
		return Record{}, &ParseError{Reason: fmt.Sprintf("the prefix %q is of no known provider", firstFields(value))}
	}
	name, sealed, ok := cutName(body, names)
	if !ok {
		return Record{}, &ParseError{format, "the prefix ends before the provider's name does"}
	}
	r := Record{Format: format, Provider: name, Sealed: sealed}
	if err := r.unpack(); err != nil {
		return Record{}, err
	}
	return r, nil
}

// cutName parts the provider's name, the longest that fits, from what follows it.
func cutName(body []byte, names []string) (name string, rest []byte, found bool) {
	for _, n := range names {
		if after, ok := bytes.CutPrefix(body, []byte(n+":")); ok && (!found || len(n) > len(name)) {
			name, rest, found = n, after, true
		}
	}
	if found {
		return name, rest, true
	}
	before, rest, found := bytes.Cut(body, []byte(":"))
	return string(before), rest, found
}

// firstFields is what identifies an unknown prefix: no more than its first four
// fields, and no more than a few letters of each.
func firstFields(value []byte) string {
	const most = 48
	fields := bytes.SplitN(value[:min(len(value), most)], []byte(":"), 5)
	return string(bytes.Join(fields[:min(len(fields), 4)], []byte(":")))
}

func (r *Record) unpack() error {
	switch r.Format {
	case KMSv1:
		return r.unpackV1()
	case KMSv2:
		return r.unpackV2()
	case AESCBC, AESGCM, Secretbox, Plaintext:
	}
	if least := r.least(); len(r.Sealed) < least {
		return r.wrong("%d bytes follow the prefix, and %d are the least", len(r.Sealed), least)
	}
	return nil
}

func (r *Record) wrong(format string, args ...any) error {
	return &ParseError{r.Format, fmt.Sprintf(format, args...)}
}
