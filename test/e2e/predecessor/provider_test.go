package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	v1 "k8s.io/kms/apis/v1beta1"
	v2 "k8s.io/kms/apis/v2"
)

// oneBlobKMS knows one pair of plaintext and blob and refuses a caller that
// names a key for Decrypt.
type oneBlobKMS struct{ plaintext, blob []byte }

func (k oneBlobKMS) Encrypt(_ context.Context, in *kms.EncryptInput, _ ...func(*kms.Options)) (*kms.EncryptOutput, error) {
	if !bytes.Equal(in.Plaintext, k.plaintext) {
		return nil, errors.New("not the vector's plaintext")
	}
	return &kms.EncryptOutput{CiphertextBlob: k.blob}, nil
}

func (k oneBlobKMS) Decrypt(_ context.Context, in *kms.DecryptInput, _ ...func(*kms.Options)) (*kms.DecryptOutput, error) {
	if in.KeyId != nil {
		return nil, errors.New("the predecessor names no key")
	}
	if !bytes.Equal(in.CiphertextBlob, k.blob) {
		return nil, errors.New("not the vector's blob")
	}
	return &kms.DecryptOutput{Plaintext: k.plaintext}, nil
}

// A vector is one ciphertext that releases of the predecessor wrote.
type vector struct {
	Name       string
	API        string // "v1" or "v2"
	Bare       bool   // written by a first release
	Plaintext  []byte
	Blob       []byte // KMS's
	Ciphertext []byte // the provider's
	Refused    bool   // the API's Decrypt refuses it, and its Encrypt never writes it
}

// TestVectors has each vector written and read by the API that it is of.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			p := &provider{kms: oneBlobKMS{v.Plaintext, v.Blob}, key: "k", bare: v.Bare}
			var ciphertext, plaintext []byte
			var decryptErr error
			switch v.API {
			case "v1":
				written, err := v1Service{provider: p}.Encrypt(t.Context(), &v1.EncryptRequest{Plain: v.Plaintext})
				if err != nil {
					t.Fatal(err)
				}
				ciphertext = written.Cipher
				var read *v1.DecryptResponse
				read, decryptErr = v1Service{provider: p}.Decrypt(t.Context(), &v1.DecryptRequest{Cipher: v.Ciphertext})
				plaintext = read.GetPlain()
			case "v2":
				written, err := v2Service{provider: p}.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: v.Plaintext})
				if err != nil {
					t.Fatal(err)
				}
				if written.KeyId != "k" || len(written.Annotations) != 0 {
					t.Errorf("key_id %q, annotations %v; want the flag's value and none", written.KeyId, written.Annotations)
				}
				ciphertext = written.Ciphertext
				var read *v2.DecryptResponse
				read, decryptErr = v2Service{provider: p}.Decrypt(t.Context(), &v2.DecryptRequest{Ciphertext: v.Ciphertext, KeyId: "any"})
				plaintext = read.GetPlaintext()
			default:
				t.Fatalf("unknown API %q", v.API)
			}
			if got := bytes.Equal(ciphertext, v.Ciphertext); got == v.Refused {
				t.Errorf("Encrypt returned %q; equal to the vector: %t", ciphertext, got)
			}
			if v.Refused {
				if decryptErr == nil {
					t.Errorf("Decrypt took %q", v.Ciphertext)
				}
				return
			}
			if decryptErr != nil || !bytes.Equal(plaintext, v.Plaintext) {
				t.Errorf("Decrypt returned %q, %v; want %q", plaintext, decryptErr, v.Plaintext)
			}
		})
	}
}

// TestStatus: key_id is the flag's value, a failed call shows as "err" only.
func TestStatus(t *testing.T) {
	p := &provider{kms: oneBlobKMS{plaintext: []byte("p"), blob: []byte("b")}, key: "alias/x"}
	status := func() *v2.StatusResponse {
		t.Helper()
		got, err := v2Service{provider: p}.Status(t.Context(), &v2.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := status(); got.Version != "v2beta1" || got.Healthz != "ok" || got.KeyId != "alias/x" {
		t.Errorf("Status before any call: %v", got)
	}
	if _, err := p.decrypt(t.Context(), []byte("other")); err == nil {
		t.Fatal("Decrypt of a foreign blob succeeded")
	}
	if got := status(); got.Healthz != "err" || got.KeyId != "alias/x" {
		t.Errorf("Status after a failure: %v", got)
	}
}
