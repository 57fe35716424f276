package kmsemulator

import (
	"bytes"
	"encoding/asn1"
	"testing"
)

func TestBlobEndsInProperDER(t *testing.T) {
	m := newMaterial("k")
	for _, n := range []int{1, 32, 60, 61, 100, 111, 112, 127, 128, 200, 255, 256, 4096} {
		b := m.seal(make([]byte, n), nil)
		var cms asn1.RawValue
		if rest, err := asn1.Unmarshal(b[cmsAt:], &cms); err != nil || len(rest) > 0 {
			t.Errorf("%d bytes: %d bytes after the structure, %v", n, len(rest), err)
		}
	}
}

// FuzzParseBlob checks that whatever is read as a blob is written as the same
// bytes again, so that nothing in a blob is malleable.
func FuzzParseBlob(f *testing.F) {
	m := newMaterial("k")
	f.Add(m.seal([]byte("x"), nil))
	f.Add(m.seal(make([]byte, 32), map[string]string{"a": "b"}))
	f.Add(m.seal(make([]byte, 4096), nil))
	f.Add([]byte("1"))
	f.Add(make([]byte, 6144))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parseBlob(raw)
		if err != nil {
			return
		}
		var random [32]byte
		copy(random[:], raw[randomAt:])
		header, _ := blobHeader(b.handle, random, [nonceLen]byte(b.nonce), len(b.sealed))
		if !bytes.Equal(append(header, b.sealed...), raw) {
			t.Errorf("%x is read, and written otherwise", raw)
		}
		if !b.handle.intact() {
			t.Error("a damaged handle is accepted")
		}
		if plain, err := m.open(b, nil); err == nil && len(plain) == 0 {
			t.Error("opened to nothing")
		}
	})
}

func TestSealedLenIsUnambiguous(t *testing.T) {
	seen := map[int]int{}
	for n := tagLen + 1; n <= maxPlaintext+tagLen; n++ {
		total := cmsAt + derSize(lensFor(n).outer)
		if other, ok := seen[total]; ok {
			t.Fatalf("%d and %d bytes both make blobs of %d", other, n, total)
		}
		seen[total] = n
		if got, ok := sealedLen(total); !ok || got != n {
			t.Fatalf("a blob of %d bytes holds %d, %t, want %d", total, got, ok, n)
		}
	}
}

func BenchmarkSealOpen(b *testing.B) {
	m := newMaterial("k")
	plain := make([]byte, 32)
	for b.Loop() {
		bl, err := parseBlob(m.seal(plain, nil))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.open(bl, nil); err != nil {
			b.Fatal(err)
		}
	}
}
