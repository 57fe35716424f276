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
	"strconv"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
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

// CheckPlaintext returns an error where KMS takes no plaintext of this size: 1 to 4,096
// bytes. It is a [cause.Error].
func CheckPlaintext(size int) error {
	if size == 0 || size > MaxPlaintext {
		return &cause.Error{Code: cause.PlaintextSize, Op: "Encrypt", Said: strconv.Itoa(size) + " bytes"}
	}
	return nil
}

// Append appends to dst the ciphertext whose blob KMS returned, in the direct format.
func Append(dst, blob []byte) []byte { return append(append(dst, direct), blob...) }

// Parse returns the KMS blob within a ciphertext, as a part of it. With bare, the
// predecessor's first form is read too. Errors are [cause.Error]s of class bad
// data, and cost no call of KMS.
func Parse(ciphertext []byte, bare bool) ([]byte, error) {
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
