package awskms

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// What follows describes a key and the way to it, for a person who looks for a
// fault and for the health of keys that only read. No answer to a caller depends on
// these calls, and the serving path needs no right but kms:Decrypt.

// A KeyInfo is what DescribeKey tells.
type KeyInfo struct {
	ARN                        keyref.ARN
	Spec, Usage, State, Origin string
	MultiRegion                bool
	Deletion                   time.Time // zero: not scheduled
}

// DescribeKey asks KMS what a key is. Every error is a [cause.Error]. A denial is
// normal, since no more than the right to encrypt and decrypt is needed, so that it
// has nobody look for other credentials.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_DescribeKey.html
func (c *Client) DescribeKey(ctx context.Context, key string) (KeyInfo, error) {
	return call(context.WithValue(ctx, optionalKey{}, true), c, request[KeyInfo]{op: "DescribeKey", key: key, prepare: func(api *kms.Client) work[KeyInfo] {
		return func(ctx context.Context) (KeyInfo, error) {
			out, err := api.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
			switch {
			case err != nil:
				return KeyInfo{}, err
			case out.KeyMetadata == nil:
				return KeyInfo{}, wrongAnswer(ctx, out.ResultMetadata, "nothing about the key", "")
			}
			m, sent := out.KeyMetadata, transport.SentBy(ctx)
			return KeyInfo{
				ARN: keyref.ARN(sent.From(aws.ToString(m.Arn))), Spec: sent.From(string(m.KeySpec)), Usage: sent.From(string(m.KeyUsage)),
				State: sent.From(string(m.KeyState)), Origin: sent.From(string(m.Origin)),
				MultiRegion: aws.ToBool(m.MultiRegion), Deletion: aws.ToTime(m.DeletionDate),
			}, nil
		}
	}})
}

// optionalKey is the context key of a call whose denial is normal.
type optionalKey struct{}

func isOptional(ctx context.Context) bool { return ctx.Value(optionalKey{}) != nil }

// A Rotation is how KMS renews a key's material by itself.
type Rotation struct {
	Enabled bool
	Days    int       // between two; 0: not told
	Next    time.Time // zero: not told
}

// KeyRotation asks KMS how it rotates a key, named by its ARN or id: aliases are
// not taken here. Every error is a [cause.Error].
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_GetKeyRotationStatus.html
func (c *Client) KeyRotation(ctx context.Context, key string) (Rotation, error) {
	return call(ctx, c, request[Rotation]{op: "GetKeyRotationStatus", key: key, prepare: func(api *kms.Client) work[Rotation] {
		return func(ctx context.Context) (Rotation, error) {
			out, err := api.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &key})
			if err == nil {
				err = notOfKMS(ctx, out.ResultMetadata)
			}
			if err != nil {
				return Rotation{}, err
			}
			return Rotation{out.KeyRotationEnabled, int(aws.ToInt32(out.RotationPeriodInDays)), aws.ToTime(out.NextRotationDate)}, nil
		}
	}})
}

// MayEncrypt asks KMS whether a call of Encrypt would be allowed. Every error is
// a [cause.Error].
//
// https://docs.aws.amazon.com/kms/latest/developerguide/testing-permissions.html
func (c *Client) MayEncrypt(ctx context.Context, key string, plaintext secret.Bytes) error {
	_, err := call(ctx, c, request[struct{}]{op: "Encrypt", key: key, prepare: func(api *kms.Client) work[struct{}] {
		own := bytes.Clone(plaintext)
		return func(ctx context.Context) (struct{}, error) {
			defer clear(own)
			out, err := api.Encrypt(ctx, &kms.EncryptInput{
				KeyId: &key, Plaintext: own, EncryptionContext: c.opts.EncryptionContext, DryRun: aws.Bool(true),
			})
			if err == nil {
				return struct{}{}, notOfKMS(ctx, out.ResultMetadata)
			}
			return struct{}{}, dryRun(err)
		}
	}})
	return err
}

// MayDecrypt asks KMS whether a call of Decrypt would be allowed. Without a blob,
// KMS is asked to leave the ciphertext out: it then checks authorization, and
// whether it also looks at the key's state is not documented. Every error is a
// [cause.Error].
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html#KMS-Decrypt-request-DryRunModifiers
func (c *Client) MayDecrypt(ctx context.Context, key string, blob []byte) error {
	in := &kms.DecryptInput{KeyId: &key, CiphertextBlob: blob, EncryptionContext: c.opts.EncryptionContext, DryRun: aws.Bool(true)}
	if len(blob) == 0 {
		in.CiphertextBlob, in.DryRunModifiers = nil, []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext}
	}
	_, err := call(ctx, c, request[struct{}]{op: "Decrypt", key: key, prepare: func(api *kms.Client) work[struct{}] {
		return func(ctx context.Context) (struct{}, error) {
			out, err := api.Decrypt(ctx, in)
			if err == nil {
				return struct{}{}, notOfKMS(ctx, out.ResultMetadata)
			}
			return struct{}{}, dryRun(err)
		}
	}})
	return err
}

// dryRun knows the error that says yes.
func dryRun(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "DryRunOperationException" {
		return nil
	}
	return err
}
