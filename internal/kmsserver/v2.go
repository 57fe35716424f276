package kmsserver

import (
	"context"

	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// v2Version is what the predecessor answers. A change of it makes a running API
// server call the provider unhealthy, so it stays; every release since 1.27
// takes it.
const v2Version = "v2beta1"

// v2Server speaks KMS v2: one call for each DEK seed.
type v2Server struct {
	v2.UnimplementedKeyManagementServiceServer

	server *Server
}

// Status implements [v2.KeyManagementServiceServer].
func (s *v2Server) Status(ctx context.Context, _ *v2.StatusRequest) (*v2.StatusResponse, error) {
	var resp *v2.StatusResponse
	err := s.server.do(ctx, v2Status, "", func(ctx context.Context, t *Target) error {
		st, err := t.provider.Status(ctx)
		resp = &v2.StatusResponse{Version: v2Version, Healthz: st.Healthz, KeyId: st.KeyID}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Encrypt implements [v2.KeyManagementServiceServer].
func (s *v2Server) Encrypt(ctx context.Context, req *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	defer secret.Bytes(req.Plaintext).Clear()
	var resp *v2.EncryptResponse
	err := s.server.do(ctx, v2Encrypt, req.Uid, func(ctx context.Context, t *Target) error {
		e, err := t.provider.Encrypt(ctx, req.Plaintext)
		resp = &v2.EncryptResponse{Ciphertext: e.Ciphertext, KeyId: e.KeyID, Annotations: e.Annotations}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Decrypt implements [v2.KeyManagementServiceServer].
func (s *v2Server) Decrypt(ctx context.Context, req *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	var resp *v2.DecryptResponse
	err := s.server.do(ctx, v2Decrypt, req.Uid, func(ctx context.Context, t *Target) error {
		plaintext, err := t.provider.Decrypt(ctx, keyring.Stored{
			Ciphertext: req.Ciphertext, KeyID: req.KeyId, Annotations: req.Annotations,
		})
		resp = &v2.DecryptResponse{Plaintext: plaintext}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
