// Package verifytest seals objects as kube-apiserver stores them, written from
// docs/format.md and not with the code that opens them.
//
// Only tests import it.
package verifytest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/nacl/secretbox"
	"google.golang.org/protobuf/encoding/protowire"
)

// Planted is in every object, and so in no output.
const Planted = "PLANTED-77c1"

// Object is one as kube-apiserver encodes it, with [Planted] in it.
func Object() []byte { return []byte("k8s\x00 " + Planted + " " + Planted) }

// Random returns n bytes.
func Random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, by its contract
	return b
}

// AESGCM is a value under a local key.
func AESGCM(path, name string, key []byte) []byte {
	return append([]byte("k8s:enc:aesgcm:v1:"+name+":"), gcm(key, Object(), path)...)
}

// AESCBC is a value under a local key.
func AESCBC(name string, key []byte) []byte {
	return append([]byte("k8s:enc:aescbc:v1:"+name+":"), cbc(key, Object())...)
}

// Secretbox is a value under a local key of 32 bytes.
func Secretbox(name string, key []byte) []byte {
	nonce := [24]byte(Random(24))
	return secretbox.Seal(append([]byte("k8s:enc:secretbox:v1:"+name+":"), nonce[:]...), Object(), &nonce, (*[32]byte)(key))
}

// V1 is a value of KMS v1, in AES-GCM.
func V1(path, provider string, wrapped, dek []byte) []byte {
	return append(v1(provider, wrapped), gcm(dek, Object(), path)...)
}

// V1InCBC is a value of KMS v1 as Kubernetes before 1.25 wrote it.
func V1InCBC(provider string, wrapped, dek []byte) []byte {
	return append(v1(provider, wrapped), cbc(dek, Object())...)
}

func v1(provider string, wrapped []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte("k8s:enc:kms:v1:"+provider+":"), uint16(len(wrapped))) //nolint:gosec // a few hundred
	return append(b, wrapped...)
}

// V2 is a value of KMS v2 under a seed.
func V2(path, provider, keyID string, wrapped, seed []byte, annotations map[string][]byte) []byte {
	info := Random(32)
	mac := hmac.New(sha256.New, seed) // HKDF-Expand of one block
	mac.Write(info)
	mac.Write([]byte{1})
	return v2(provider, keyID, wrapped, append(info, gcm(mac.Sum(nil), Object(), path)...), annotations, 1)
}

// V2DEK is a value of KMS v2 as Kubernetes before 1.29 wrote it.
func V2DEK(path, provider, keyID string, wrapped, dek []byte) []byte {
	return v2(provider, keyID, wrapped, gcm(dek, Object(), path), nil, 0)
}

func v2(provider, keyID string, wrapped, data []byte, annotations map[string][]byte, source uint64) []byte {
	b := []byte("k8s:enc:kms:v2:" + provider + ":")
	field := func(b []byte, n protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
	}
	b = field(field(field(b, 1, data), 2, []byte(keyID)), 3, wrapped)
	for name, value := range annotations {
		b = field(b, 4, field(field(nil, 1, []byte(name)), 2, value))
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), source)
}

func gcm(key, object []byte, path string) []byte {
	aead, err := cipher.NewGCM(block(key))
	if err != nil {
		panic(err)
	}
	nonce := Random(12)
	return aead.Seal(nonce, nonce, object, []byte(path))
}

func cbc(key, object []byte) []byte {
	padding := aes.BlockSize - len(object)%aes.BlockSize
	object = append(bytes.Clone(object), bytes.Repeat([]byte{byte(padding)}, padding)...)
	out := append(Random(aes.BlockSize), object...)
	cipher.NewCBCEncrypter(block(key), out[:aes.BlockSize]).CryptBlocks(out[aes.BlockSize:], object)
	return out
}

func block(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return b
}
