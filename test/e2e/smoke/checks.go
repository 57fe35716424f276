package smoke

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	v2 "k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// wrapped is what an API server would store, and what it must get back.
type wrapped struct {
	seed []byte
	*v2.EncryptResponse
}

func (w wrapped) request() *v2.DecryptRequest {
	return &v2.DecryptRequest{Ciphertext: w.Ciphertext, KeyId: w.KeyId, Annotations: w.Annotations, Uid: "smoke"}
}

var (
	errNothing = errors.New("nothing was wrapped, see above") // for checks after one that failed
	errOther   = errors.New("what was decrypted is not what was encrypted")
)

func (r *run) roundTripV2(ctx context.Context) (string, error) {
	var err error
	if r.main, err = r.start("main", r.Key); err != nil {
		return "", err
	}
	told, err := r.main.healthy(ctx)
	if err != nil {
		return "", err
	}
	seed := random()
	answer, err := r.main.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed, Uid: "smoke"})
	if err != nil {
		return "", err
	}
	if answer.KeyId != told.KeyId || len(answer.Ciphertext) > 1024 {
		return "", fmt.Errorf("key_id %q and %d bytes come from Encrypt; Status said %q, and an API server takes 1,024 bytes", answer.KeyId, len(answer.Ciphertext), told.KeyId)
	}
	w := wrapped{seed, answer}
	opened, err := r.main.v2.Decrypt(ctx, w.request())
	if err != nil {
		return "", err
	}
	if !bytes.Equal(opened.Plaintext, seed) {
		return "", errOther
	}
	r.wrapped = w
	return fmt.Sprintf("%d bytes, key_id %s", len(answer.Ciphertext), told.KeyId), nil
}

func (r *run) roundTripV1(ctx context.Context) (string, error) {
	if r.main == nil {
		return "", errNothing
	}
	if _, err := r.main.v1.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"}); err != nil {
		return "", err
	}
	seed := random()
	answer, err := r.main.v1.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: seed})
	if err != nil {
		return "", err
	}
	opened, err := r.main.v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: answer.Cipher})
	if err != nil {
		return "", err
	}
	if !bytes.Equal(opened.Plain, seed) {
		return "", errOther
	}
	return fmt.Sprintf("%d bytes", len(answer.Cipher)), nil
}

// material compares the key_id with what KMS itself says. Keys of custom key stores and
// replicas of older Regions may show no material; then the key_id must have none.
func (r *run) material(ctx context.Context) (string, error) {
	if r.wrapped.EncryptResponse == nil {
		return "", errNothing
	}
	blob, err := r.kms.Encrypt(ctx, &kms.EncryptInput{KeyId: &r.Key, Plaintext: random()})
	if err != nil {
		return "", err
	}
	opened, err := r.kms.Decrypt(ctx, &kms.DecryptInput{KeyId: &r.Key, CiphertextBlob: blob.CiphertextBlob})
	if err != nil {
		return "", err
	}
	shown := ""
	if opened.KeyMaterialId != nil {
		shown = *opened.KeyMaterialId
	}
	state := keyref.ParseState(r.wrapped.KeyId)
	if state.Material != shown {
		return "", fmt.Errorf("KMS shows the material %q and the key_id has %q; if the key was rotated within minutes, try again", shown, state.Material)
	}
	if shown == "" {
		return "KMS shows none, and the key_id has none", nil
	}
	return shown, nil
}

// wrongContext decrypts by a program that is like the first but for the context.
func (r *run) wrongContext(ctx context.Context) (_ string, err error) {
	if r.wrapped.EncryptResponse == nil {
		return "", errNothing
	}
	other, err := r.start("context", r.Key, "--encryption-context=smoke=another")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, other.stop()) }()
	if _, err := other.healthy(ctx); err != nil {
		return "", err
	}
	_, err = other.v2.Decrypt(ctx, r.wrapped.request())
	return badData(err)
}

func (r *run) changedCiphertext(ctx context.Context) (string, error) {
	if r.wrapped.EncryptResponse == nil {
		return "", errNothing
	}
	request := r.wrapped.request()
	request.Ciphertext = bytes.Clone(request.Ciphertext)
	request.Ciphertext[len(request.Ciphertext)-1] ^= 1
	_, err := r.main.v2.Decrypt(ctx, request)
	if saw, err := badData(err); err != nil {
		return saw, err
	}
	told, err := r.main.v2.Status(ctx, &v2.StatusRequest{})
	if err != nil || told.Healthz != "ok" {
		return "", fmt.Errorf("the key is taken for unhealthy after that: %v, %w", told, err)
	}
	return "bad data, and the key stays healthy", nil
}

// badData demands the class of an error that a Decrypt ended with.
func badData(err error) (string, error) {
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "KMS04") && !strings.Contains(err.Error(), "KMS03") {
		return "", fmt.Errorf("the end of Decrypt is %w, want bad data (InvalidArgument and its code)", err)
	}
	return "bad data", nil
}

// pinned asks KMS itself: a Decrypt that names its key must not open another's blob.
func (r *run) pinned(ctx context.Context) (string, error) {
	blob, err := r.kms.Encrypt(ctx, &kms.EncryptInput{KeyId: &r.Key, Plaintext: random()})
	if err != nil {
		return "", err
	}
	absent := r.absent()
	_, err = r.kms.Decrypt(ctx, &kms.DecryptInput{KeyId: &absent, CiphertextBlob: blob.CiphertextBlob})
	return refusedAs(err, "IncorrectKeyException", "NotFoundException", "AccessDeniedException")
}

// dryRun asks for both permissions as doctor and the checks of keys that only read do.
func (r *run) dryRun(ctx context.Context) (string, error) {
	_, err := r.kms.Encrypt(ctx, &kms.EncryptInput{KeyId: &r.Key, Plaintext: random(), DryRun: yes()})
	if saw, err := refusedAs(err, "DryRunOperationException"); err != nil {
		return saw, fmt.Errorf("by Encrypt: %w", err)
	}
	_, err = r.kms.Decrypt(ctx, &kms.DecryptInput{
		KeyId: &r.Key, DryRun: yes(), DryRunModifiers: []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	})
	if saw, err := refusedAs(err, "DryRunOperationException"); err != nil {
		return saw, fmt.Errorf("by Decrypt without a ciphertext: %w", err)
	}
	return "both are allowed", nil
}

// refusedAs demands one of KMS' own error codes.
func refusedAs(err error, want ...string) (string, error) {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return "", fmt.Errorf("KMS answers %w, want %s", err, strings.Join(want, " or "))
	}
	for _, code := range want {
		if api.ErrorCode() == code {
			return code, nil
		}
	}
	return "", fmt.Errorf("KMS answers %w, want %s", err, strings.Join(want, " or "))
}

// refusedKey starts the program with a key that is not there, and waits until Status
// says so by an error: at that an API server stops writing.
func (r *run) refusedKey(ctx context.Context) (_ string, err error) {
	p, err := r.start("absent", r.absent())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	return p.refused(ctx)
}

func random() []byte {
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // it never fails, see crypto/rand
	return seed
}
