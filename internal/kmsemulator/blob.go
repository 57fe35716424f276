package kmsemulator

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// A CiphertextBlob has the outline of KMS's own, and 152 bytes more than its
// plaintext for short ones:
//
//	01 02 02 00 78            version
//	32 bytes                  handle of the key material
//	01, 32 bytes              random
//	00 00 00, DER             a CMS EncryptedData (RFC 5652) of AES-256-GCM:
//	                          nonce, size of the tag, ciphertext and tag
//
// Everything before the ciphertext is authenticated along with the encryption
// context, and a parsed blob must encode to the same bytes, so that no bit of
// it can change unnoticed.

const (
	handleAt = 5
	randomAt = handleAt + 32 + 1
	cmsAt    = randomAt + 32 + 3
	nonceLen = 12
	tagLen   = 16

	checkLen = 4 // at the end of a handle, the start of the rest's SHA-256
)

var errBlob = errors.New("not a ciphertext blob")

// newHandle returns a random handle. Its last bytes are a checksum, so that a
// damaged handle is told from one of a key that this KMS does not have.
func newHandle() (h handle) {
	_, _ = rand.Read(h[:len(h)-checkLen])
	sum := sha256.Sum256(h[:len(h)-checkLen])
	copy(h[len(h)-checkLen:], sum[:])
	return h
}

func (h handle) intact() bool {
	sum := sha256.Sum256(h[:len(h)-checkLen])
	return string(h[len(h)-checkLen:]) == string(sum[:checkLen])
}

// A blob is a parsed CiphertextBlob. It shares its bytes.
type blob struct {
	handle handle
	header []byte // all before the ciphertext
	nonce  []byte
	sealed []byte // ciphertext and tag
}

// The fixed parts of the CMS structure.
const (
	encryptedOID = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06"                 // id-encryptedData
	dataOID      = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"                 // id-data
	gcmOID       = "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2e\x30\x11\x04\x0c" // id-aes256-GCM, nonce follows
	gcmTag       = "\x02\x01\x10"                                                 // size of the tag

	algorithmLen = len(gcmOID) + nonceLen + len(gcmTag)
)

// derLens are the lengths in the CMS structure around n bytes of ciphertext.
type derLens struct{ content, body, explicit, outer int }

func lensFor(n int) (l derLens) {
	l.content = len(dataOID) + 2 + algorithmLen + derSize(n)
	l.body = 3 + derSize(l.content)
	l.explicit = derSize(l.body)
	l.outer = len(encryptedOID) + derSize(l.explicit)
	return l
}

// blobHeader returns all of a blob but the ciphertext of n bytes (tag included),
// with room for that, and where in it the nonce begins.
func blobHeader(h handle, random [32]byte, nonce [nonceLen]byte, n int) (header []byte, nonceAt int) {
	l := lensFor(n)
	out := make([]byte, 0, cmsAt+derSize(l.outer))
	out = append(out, 0x01, 0x02, 0x02, 0x00, 0x78)
	out = append(out, h[:]...)
	out = append(out, 0x01)
	out = append(out, random[:]...)
	out = append(out, 0, 0, 0)
	out = appendDER(out, 0x30, l.outer)
	out = append(out, encryptedOID...)
	out = appendDER(out, 0xa0, l.explicit)
	out = appendDER(out, 0x30, l.body)
	out = append(out, 0x02, 0x01, 0x00)
	out = appendDER(out, 0x30, l.content)
	out = append(out, dataOID...)
	out = appendDER(out, 0x30, algorithmLen)
	out = append(out, gcmOID...)
	nonceAt = len(out)
	out = append(out, nonce[:]...)
	out = append(out, gcmTag...)
	return appendDER(out, 0x80, n), nonceAt
}

// derSize is the size of a DER value of n bytes with its tag and length.
func derSize(n int) int {
	switch {
	case n < 0x80:
		return 2 + n
	case n < 0x100:
		return 3 + n
	default:
		return 4 + n
	}
}

// appendDER appends a tag and a length below 65,536.
func appendDER(b []byte, tag byte, n int) []byte {
	switch {
	case n < 0x80:
		return append(b, tag, byte(n)) //nolint:gosec // below 128
	case n < 0x100:
		return append(b, tag, 0x81, byte(n))
	default:
		return append(b, tag, 0x82, byte(n>>8), byte(n)) //nolint:gosec // both are meant to be cut
	}
}

// parseBlob takes a CiphertextBlob apart. It accepts only what blobHeader makes.
func parseBlob(b []byte) (blob, error) {
	if len(b) < cmsAt+tagLen {
		return blob{}, errBlob
	}
	var h handle
	var random [32]byte
	copy(h[:], b[handleAt:])
	copy(random[:], b[randomAt:])
	n, ok := sealedLen(len(b))
	if !ok {
		return blob{}, errBlob
	}
	// The lengths inside follow from the length of the whole, so the header is
	// known but for the nonce.
	_, nonceAt := blobHeader(h, random, [nonceLen]byte{}, n)
	var nonce [nonceLen]byte
	copy(nonce[:], b[nonceAt:])
	header, _ := blobHeader(h, random, nonce, n)
	if string(header) != string(b[:len(header)]) || !h.intact() {
		return blob{}, errBlob
	}
	return blob{handle: h, header: header, nonce: b[nonceAt : nonceAt+nonceLen], sealed: b[len(header):]}, nil
}

// sealedLen finds the length of the ciphertext in a blob of a length: what
// remains beside a header, whose own size depends on it a little.
func sealedLen(total int) (int, bool) {
	const leastHeader, mostHeader = 120, 160
	for n := max(total-mostHeader, tagLen+1); n <= total-leastHeader; n++ {
		if cmsAt+derSize(lensFor(n).outer) == total {
			return n, true
		}
	}
	return 0, false
}

// seal encrypts a plaintext of 1 to 4,096 bytes.
func (m *material) seal(plaintext []byte, context map[string]string) []byte {
	var random [32]byte
	var nonce [nonceLen]byte
	_, _ = rand.Read(random[:])
	_, _ = rand.Read(nonce[:])
	header, _ := blobHeader(m.handle, random, nonce, len(plaintext)+tagLen)
	return m.aead.Seal(header, nonce[:], plaintext, authenticated(header, context))
}

// open decrypts a blob that m has sealed under the same context.
func (m *material) open(b blob, context map[string]string) ([]byte, error) {
	return m.aead.Open(nil, b.nonce, b.sealed, authenticated(b.header, context))
}

// authenticated is the data that a blob's tag covers beside the plaintext: the
// header, and the context's pairs in order of their keys, each string behind
// its length so that no two contexts look the same.
func authenticated(header []byte, context map[string]string) []byte {
	out := append([]byte(nil), header...)
	for _, k := range slices.Sorted(maps.Keys(context)) {
		for _, s := range []string{k, context[k]} {
			out = binary.BigEndian.AppendUint32(out, uint32(len(s))) //nolint:gosec // bounded by the body
			out = append(out, s...)
		}
	}
	return out
}
