// Package seal knows the bytes that kube-apiserver stores for a wrapped DEK, and
// every form that a release ever wrote.
//
// The direct format asks KMS for every seal and open:
//
//	0x31 ('1')  CiphertextBlob of KMS, 1 to 6,144 bytes
//
// It is what the predecessor writes. Its first releases wrote the blob bare;
// only KMS v1 ever stored that, so only KMS v1 reads it. The first byte names
// the format: 0x30 to 0x3F are reserved for formats of this program and refused
// when unknown, and a KMS blob starts with none of them.
//
// # Compatibility
//
// Whatever a release wrote, every later one opens. testdata holds a vector of
// every format; vectors are added and never changed.
package seal

import (
	"context"
	"strconv"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Limits of KMS, in bytes.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
const (
	MaxPlaintext = 4096
	MaxBlob      = 6144
)

const (
	direct        = '1'
	firstReserved = 0x30
	lastReserved  = 0x3F
)

// KMS wraps and unwraps under a named key; see [awskms.Client].
type KMS interface {
	Encrypt(ctx context.Context, key string, plaintext secret.Bytes) (awskms.Sealed, error)
	Decrypt(ctx context.Context, key string, blob []byte) (awskms.Opened, error)
}

// A Sealed ciphertext, and what people and tools want to know about it.
type Sealed struct {
	Ciphertext []byte
	KeyARN     string
	RequestID  string
}

// Direct seals plaintext of 1 to 4,096 bytes under the named key, by one call of
// KMS. Errors are [cause.Error]s.
func Direct(ctx context.Context, kms KMS, key string, plaintext secret.Bytes) (Sealed, error) {
	if len(plaintext) == 0 || len(plaintext) > MaxPlaintext {
		return Sealed{}, &cause.Error{Code: cause.PlaintextSize, Op: "Encrypt", Said: strconv.Itoa(len(plaintext)) + " bytes"}
	}
	s, err := kms.Encrypt(ctx, key, plaintext)
	if err != nil {
		return Sealed{}, err
	}
	ciphertext := make([]byte, 0, 1+len(s.Blob))
	ciphertext = append(append(ciphertext, direct), s.Blob...)
	return Sealed{Ciphertext: ciphertext, KeyARN: s.KeyARN, RequestID: s.RequestID}, nil
}

// Blob returns the KMS blob within a ciphertext, as a part of it. With bare, the
// predecessor's first form is read too. Errors are [cause.Error]s of class bad
// data, and cost no call of KMS.
func Blob(ciphertext []byte, bare bool) ([]byte, error) {
	if len(ciphertext) == 0 {
		return nil, refuse(cause.EmptyCiphertext, "")
	}
	blob := ciphertext
	switch first := ciphertext[0]; {
	case first == direct:
		blob = ciphertext[1:]
	case first >= firstReserved && first <= lastReserved, !bare:
		return nil, refuse(cause.UnknownFormat, "first byte 0x"+strconv.FormatUint(uint64(first), 16))
	}
	if len(blob) == 0 {
		return nil, refuse(cause.EmptyCiphertext, "nothing after the format byte")
	}
	if len(blob) > MaxBlob {
		return nil, refuse(cause.CiphertextTooLong, strconv.Itoa(len(blob))+" bytes")
	}
	return blob, nil
}

func refuse(code cause.Code, said string) error {
	return &cause.Error{Code: code, Op: "Decrypt", Said: said}
}
