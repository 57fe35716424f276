package kmskey

import (
	"context"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// KMS encrypts and decrypts under a named key; see [awskms.Client].
//
// A call ends within its [awskms.Call]. Errors are [cause.Error]s. Decrypt of what the key did not make is
// [cause.NoKeyMadeIt]. Decrypt without a key lets KMS choose it. Neither keeps or
// changes what it is given. It is safe for concurrent use.
type KMS interface {
	Encrypt(ctx context.Context, within awskms.Call, key string, plaintext secret.Bytes) (awskms.Sealed, error)
	Decrypt(ctx context.Context, within awskms.Call, key string, blob []byte) (awskms.Opened, error)
}

// A Wrapped DEK, and what people and tools want to know about it.
type Wrapped struct {
	Ciphertext []byte
	KeyARN     keyref.ARN
	RequestID  string
}

// direct encrypts 1 to 4,096 bytes under the named key, by one call of KMS, into the
// format of that name.
func direct(ctx context.Context, kms KMS, within awskms.Call, key string, plaintext secret.Bytes) (Wrapped, error) {
	if err := seal.CheckPlaintext(len(plaintext)); err != nil {
		return Wrapped{}, err
	}
	s, err := kms.Encrypt(ctx, within, key, plaintext)
	if err != nil {
		return Wrapped{}, err
	}
	return Wrapped{Ciphertext: seal.Append(make([]byte, 0, 1+len(s.Blob)), s.Blob), KeyARN: s.KeyARN, RequestID: s.RequestID}, nil
}
