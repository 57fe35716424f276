package main

import (
	"context"
	"net"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"
)

// Bare is the role of a grpc-go server with default options, which answers every
// call at once with the same messages.
type Bare struct{}

// A Canned is what the bare server answers: messages of the plugin's, so that
// the sizes are the same. Only plain fields go over net/rpc.
type Canned struct {
	Socket      string
	Version     string
	Healthz     string
	KeyID       string
	Ciphertext  []byte
	Annotations map[string][]byte
	Plaintext   []byte
}

// Serve serves until the process ends.
func (*Bare) Serve(c Canned, _ *None) error {
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	v2.RegisterKeyManagementServiceServer(server, &bareServer{canned: c})
	go server.Serve(l) //nolint:errcheck // ends with the process
	return nil
}

type bareServer struct {
	v2.UnimplementedKeyManagementServiceServer
	canned Canned
}

// Status implements [v2.KeyManagementServiceServer].
func (s *bareServer) Status(context.Context, *v2.StatusRequest) (*v2.StatusResponse, error) {
	return &v2.StatusResponse{Version: s.canned.Version, Healthz: s.canned.Healthz, KeyId: s.canned.KeyID}, nil
}

// Encrypt implements [v2.KeyManagementServiceServer].
func (s *bareServer) Encrypt(context.Context, *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	return &v2.EncryptResponse{Ciphertext: s.canned.Ciphertext, KeyId: s.canned.KeyID, Annotations: s.canned.Annotations}, nil
}

// Decrypt implements [v2.KeyManagementServiceServer].
func (s *bareServer) Decrypt(context.Context, *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	return &v2.DecryptResponse{Plaintext: s.canned.Plaintext}, nil
}

// startBare starts the bare server with the answers that a plugin gives.
func startBare(ctx context.Context, p *plugin, socket string) (*child, error) {
	canned, err := p.sample(ctx)
	if err != nil {
		return nil, err
	}
	canned.Socket = socket
	c, err := start(ctx, "bare")
	if err != nil {
		return nil, err
	}
	if err := c.call("Serve", canned, &None{}); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// SDK is the role of the AWS SDK's client with default options, in a loop.
type SDK struct{ client *awskms.Client }

// A Loop is what the SDK is to do: Encrypt, Decrypt what came, and so on.
type Loop struct {
	URL, Key string
	Callers  int
	For      time.Duration
}

// Run makes calls and tells how they went.
func (s *SDK) Run(l Loop, r *Result) error {
	if s.client == nil {
		cfg, err := config.LoadDefaultConfig(context.Background())
		if err != nil {
			return err
		}
		s.client = awskms.NewFromConfig(cfg, func(o *awskms.Options) { o.BaseEndpoint = aws.String(l.URL) })
	}
	*r = drive(l.Callers, l.For, 0, func() func(context.Context) error { return s.caller(l.Key) })
	return nil
}

func (s *SDK) caller(key string) func(context.Context) error {
	var blob []byte
	return func(ctx context.Context) error {
		if blob == nil {
			out, err := s.client.Encrypt(ctx, &awskms.EncryptInput{KeyId: &key, Plaintext: seed()})
			if err == nil {
				blob = out.CiphertextBlob
			}
			return err
		}
		_, err := s.client.Decrypt(ctx, &awskms.DecryptInput{KeyId: &key, CiphertextBlob: blob})
		blob = nil
		return err
	}
}
