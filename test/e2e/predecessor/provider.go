package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	v1 "k8s.io/kms/apis/v1beta1"
	v2 "k8s.io/kms/apis/v2"
)

// kmsClient is what the provider asks of AWS.
type kmsClient interface {
	Encrypt(context.Context, *kms.EncryptInput, ...func(*kms.Options)) (*kms.EncryptOutput, error)
	Decrypt(context.Context, *kms.DecryptInput, ...func(*kms.Options)) (*kms.DecryptOutput, error)
}

// mark begins every ciphertext but those of the first releases.
const mark = '1'

type provider struct {
	kms  kmsClient
	key  string
	bare bool // v1 writes no mark

	failed atomic.Bool // the last call to KMS failed
}

func (p *provider) encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	out, err := p.kms.Encrypt(ctx, &kms.EncryptInput{KeyId: &p.key, Plaintext: plaintext})
	if p.note(err); err != nil {
		return nil, err
	}
	return out.CiphertextBlob, nil
}

func (p *provider) decrypt(ctx context.Context, blob []byte) ([]byte, error) {
	out, err := p.kms.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob})
	if p.note(err); err != nil {
		return nil, err
	}
	return out.Plaintext, nil
}

func (p *provider) note(err error) {
	p.failed.Store(err != nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func marked(blob []byte) []byte { return append([]byte{mark}, blob...) }

// unmarked returns the blob of a ciphertext that begins with the mark.
func unmarked(ciphertext []byte) (blob []byte, ok bool) {
	if len(ciphertext) == 0 || ciphertext[0] != mark {
		return ciphertext, false
	}
	return ciphertext[1:], true
}

type v1Service struct {
	v1.UnimplementedKeyManagementServiceServer
	*provider
}

func (s v1Service) Version(context.Context, *v1.VersionRequest) (*v1.VersionResponse, error) {
	return &v1.VersionResponse{Version: "v1beta1", RuntimeName: "predecessor", RuntimeVersion: "0.0.1"}, nil
}

func (s v1Service) Encrypt(ctx context.Context, r *v1.EncryptRequest) (*v1.EncryptResponse, error) {
	blob, err := s.encrypt(ctx, r.Plain)
	if err != nil {
		return nil, err
	}
	if s.bare {
		return &v1.EncryptResponse{Cipher: blob}, nil
	}
	return &v1.EncryptResponse{Cipher: marked(blob)}, nil
}

func (s v1Service) Decrypt(ctx context.Context, r *v1.DecryptRequest) (*v1.DecryptResponse, error) {
	blob, _ := unmarked(r.Cipher)
	plain, err := s.decrypt(ctx, blob)
	if err != nil {
		return nil, err
	}
	return &v1.DecryptResponse{Plain: plain}, nil
}

type v2Service struct {
	v2.UnimplementedKeyManagementServiceServer
	*provider
}

func (s v2Service) Status(context.Context, *v2.StatusRequest) (*v2.StatusResponse, error) {
	healthz := "ok"
	if s.failed.Load() {
		healthz = "err"
	}
	return &v2.StatusResponse{Version: "v2beta1", Healthz: healthz, KeyId: s.key}, nil
}

func (s v2Service) Encrypt(ctx context.Context, r *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	blob, err := s.encrypt(ctx, r.Plaintext)
	if err != nil {
		return nil, err
	}
	return &v2.EncryptResponse{Ciphertext: marked(blob), KeyId: s.key}, nil
}

func (s v2Service) Decrypt(ctx context.Context, r *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	blob, ok := unmarked(r.Ciphertext)
	if !ok {
		return nil, errors.New("ciphertext of an unknown version")
	}
	plaintext, err := s.decrypt(ctx, blob)
	if err != nil {
		return nil, err
	}
	return &v2.DecryptResponse{Plaintext: plaintext}, nil
}
