package stored

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// What the formats add to an object, in bytes.
const (
	gcmNonce          = 12
	gcmTag            = 16
	gcmOverhead       = gcmNonce + gcmTag
	seedInfo          = 32
	secretboxNonce    = 24
	secretboxOverhead = secretboxNonce + 16
	cbcLeast          = 2 * aes.BlockSize // the IV, and the padding of an empty object
)

// least is how many bytes of an object that is sealed there are at least.
func (r *Record) least() int {
	switch r.Format {
	case AESCBC:
		return cbcLeast
	case Secretbox:
		return secretboxOverhead
	case AESGCM, KMSv1:
		return gcmOverhead
	case KMSv2:
		if r.Source == DEKSeed {
			return seedInfo + gcmOverhead
		}
		return gcmOverhead
	case Plaintext:
	}
	return 0
}

// A Cipher is what seals an object.
type Cipher string

// The ciphers, as commands print them. Which of two it is, only a key tells.
const (
	NoCipher    Cipher = ""
	CBC         Cipher = "cbc"
	GCM         Cipher = "gcm"
	GCMOrCBC    Cipher = "gcm or cbc"
	SeededGCM   Cipher = "hkdf gcm"
	XSalsa20Box Cipher = "xsalsa20-poly1305"
)

// Cipher returns what sealed the object. KMS v1 has used two, and its values do not
// say which: where the length fits CBC's blocks it may be either.
func (r Record) Cipher() Cipher {
	switch r.Format {
	case AESCBC:
		return CBC
	case AESGCM:
		return GCM
	case Secretbox:
		return XSalsa20Box
	case KMSv1:
		if r.fitsCBC() {
			return GCMOrCBC
		}
		return GCM
	case KMSv2:
		if r.Source == DEKSeed {
			return SeededGCM
		}
		return GCM
	case Plaintext:
	}
	return NoCipher
}

func (r Record) fitsCBC() bool {
	return len(r.Sealed) >= cbcLeast && len(r.Sealed)%aes.BlockSize == 0
}

// PlainSize returns between how many bytes the object has: exactly as many where
// least equals most, and within one block where padding hides the rest.
func (r Record) PlainSize() (least, most int) {
	n := len(r.Sealed)
	switch r.Cipher() {
	case CBC:
		return n - cbcLeast, n - aes.BlockSize - 1
	case GCMOrCBC:
		return n - cbcLeast, n - aes.BlockSize - 1 // GCM's overhead of 28 lies within
	case GCM:
		n -= gcmOverhead
	case SeededGCM:
		n -= seedInfo + gcmOverhead
	case XSalsa20Box:
		n -= secretboxOverhead
	case NoCipher:
	}
	return n, n
}

// Errors of [Record.Open].
var (
	// ErrKey is a key that does not open the object, or an object that was changed or
	// moved to another path: AES-GCM does not tell these apart.
	ErrKey = errors.New("the key does not open this value at this path")
	// ErrSecretbox is secretbox, which package stored leaves to its caller: see
	// [Record.Box].
	ErrSecretbox = errors.New("secretbox values are opened by their box")
)

// An Opened object, and what proves that it is the one that was stored.
type Opened struct {
	Object secret.Bytes
	Cipher Cipher
	// Authenticated is false for AES-CBC, where any key opens some values to noise:
	// Object then looks like one of kube-apiserver's, and that is all.
	Authenticated bool
}

// Open returns the object. key is the local key of 16, 24 or 32 bytes, or, for KMS,
// the unwrapped DEK or DEK seed; path is the key under which etcd has the value, whole.
// It returns [ErrKey] where these do not fit, and [ErrSecretbox] for that format.
//
// Plaintext needs no key and is always authentic to etcd alone.
func (r Record) Open(key secret.Bytes, path string) (Opened, error) {
	switch r.Cipher() {
	case NoCipher:
		return Opened{Object: bytes.Clone(r.Sealed)}, nil
	case XSalsa20Box:
		return Opened{}, ErrSecretbox
	case GCM:
		return openGCM(key, r.Sealed, path, GCM)
	case SeededGCM:
		return r.openSeeded(key, path)
	case CBC:
		return openCBC(key, r.Sealed)
	case GCMOrCBC:
		if o, err := openGCM(key, r.Sealed, path, GCM); err == nil || !errors.Is(err, ErrKey) {
			return o, err
		}
		return openCBC(key, r.Sealed)
	}
	return Opened{}, fmt.Errorf("no way to open the format %q", r.Format)
}

// Box returns nonce and box of a secretbox value, for golang.org/x/crypto/nacl/secretbox.
// ok is false for every other format.
func (r Record) Box() (nonce [secretboxNonce]byte, box []byte, ok bool) {
	if r.Format != Secretbox {
		return nonce, nil, false
	}
	copy(nonce[:], r.Sealed)
	return nonce, r.Sealed[secretboxNonce:], true
}

// openSeeded derives the object's key: HKDF's second step alone, since a seed is
// uniformly random already.
func (r Record) openSeeded(seed secret.Bytes, path string) (Opened, error) {
	const size = 32
	if len(seed) < size {
		return Opened{}, fmt.Errorf("%w: a DEK seed has %d bytes, and this %d", ErrKey, size, len(seed))
	}
	info := r.Sealed[:seedInfo]
	key, err := hkdf.Expand(sha256.New, seed, string(info), size)
	if err != nil {
		return Opened{}, fmt.Errorf("deriving a DEK: %w", err)
	}
	defer clear(key)
	return openGCM(key, r.Sealed[seedInfo:], path, SeededGCM)
}

func openGCM(key secret.Bytes, sealed []byte, path string, as Cipher) (Opened, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return Opened{}, fmt.Errorf("%w: AES has no key of %d bytes", ErrKey, len(key))
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return Opened{}, err
	}
	object, err := aead.Open(nil, sealed[:gcmNonce], sealed[gcmNonce:], []byte(path))
	if err != nil {
		return Opened{}, ErrKey
	}
	return Opened{Object: object, Cipher: as, Authenticated: true}, nil
}

// openCBC refuses what does not look like an object of kube-apiserver: one wrong key
// of 256 leaves a padding that is none.
func openCBC(key secret.Bytes, sealed []byte) (Opened, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return Opened{}, fmt.Errorf("%w: AES has no key of %d bytes", ErrKey, len(key))
	}
	if len(sealed) < cbcLeast || len(sealed)%aes.BlockSize != 0 {
		return Opened{}, fmt.Errorf("%w: its length is no multiple of AES's block", ErrKey)
	}
	object := make([]byte, len(sealed)-aes.BlockSize)
	cipher.NewCBCDecrypter(block, sealed[:aes.BlockSize]).CryptBlocks(object, sealed[aes.BlockSize:])
	padding := int(object[len(object)-1])
	if padding == 0 || padding > aes.BlockSize {
		return Opened{}, ErrKey
	}
	end := len(object) - padding
	if !bytes.Equal(object[end:], bytes.Repeat([]byte{byte(padding)}, padding)) || !Encoded(object[:end]) {
		return Opened{}, ErrKey
	}
	return Opened{Object: object[:end:end], Cipher: CBC}, nil
}

// Encoded reports whether bytes begin as kube-apiserver encodes objects: protobuf
// behind "k8s" and a zero, JSON, or CBOR behind its self-description (RFC 8949, 3.4.6).
func Encoded(object []byte) bool {
	for _, start := range []string{"k8s\x00", "{", "\xd9\xd9\xf7"} {
		if bytes.HasPrefix(object, []byte(start)) {
			return true
		}
	}
	return false
}
