package kmsserver

import (
	"context"

	"k8s.io/kms/apis/v1beta1"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const (
	v1Version   = "v1beta1"
	runtimeName = "AWSKMS"
)

// v1Server speaks KMS v1beta1: one call for each stored object, and nothing but
// the ciphertext to remember anything by.
type v1Server struct {
	v1beta1.UnimplementedKeyManagementServiceServer

	server  *Server
	version string
}

// Version implements [v1beta1.KeyManagementServiceServer].
func (s *v1Server) Version(context.Context, *v1beta1.VersionRequest) (*v1beta1.VersionResponse, error) {
	return &v1beta1.VersionResponse{Version: v1Version, RuntimeName: runtimeName, RuntimeVersion: s.version}, nil
}

// Encrypt implements [v1beta1.KeyManagementServiceServer].
func (s *v1Server) Encrypt(ctx context.Context, req *v1beta1.EncryptRequest) (*v1beta1.EncryptResponse, error) {
	defer secret.Bytes(req.Plain).Clear()
	var resp *v1beta1.EncryptResponse
	err := s.server.do(ctx, v1Encrypt, "", func(ctx context.Context, t *Target) error {
		if err := t.checkVersion(req.Version); err != nil {
			return err
		}
		e, err := t.provider.Encrypt(ctx, req.Plain)
		resp = &v1beta1.EncryptResponse{Cipher: e.Ciphertext}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Decrypt implements [v1beta1.KeyManagementServiceServer].
func (s *v1Server) Decrypt(ctx context.Context, req *v1beta1.DecryptRequest) (*v1beta1.DecryptResponse, error) {
	var resp *v1beta1.DecryptResponse
	err := s.server.do(ctx, v1Decrypt, "", func(ctx context.Context, t *Target) error {
		if err := t.checkVersion(req.Version); err != nil {
			return err
		}
		plain, err := t.provider.Decrypt(ctx, keyring.Stored{Ciphertext: req.Cipher, Bare: true})
		resp = &v1beta1.DecryptResponse{Plain: plain}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (t *Target) checkVersion(version string) error {
	if version != v1Version {
		return &cause.Error{Code: cause.WrongVersion, Provider: t.name, Said: version}
	}
	return nil
}
