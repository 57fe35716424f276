package kmsemulator_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// sdkClient returns the Go SDK's client for one Region, without retries. Its
// connections end with the test.
func sdkClient(t testing.TB, s *kmstest.Server, region string) *kms.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	if s.CAPEM != nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.CAPEM)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	t.Cleanup(transport.CloseIdleConnections)
	c := s.Credential
	return kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String(s.URL), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
		Retryer:     aws.NopRetryer{},
	})
}

func mustCreate(t testing.TB, s *kmstest.Server, o kmsemulator.KeyOptions) string {
	t.Helper()
	arn, err := s.CreateKey(kmstest.Region, o)
	if err != nil {
		t.Fatal(err)
	}
	return arn
}

func TestGoSDKEncryptsAndDecrypts(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...kmsemulator.Options) *kmstest.Server{
		"over HTTP": kmstest.Start, "over TLS": kmstest.StartTLS,
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			client := sdkClient(t, s, kmstest.Region)
			arn := mustCreate(t, s, kmsemulator.KeyOptions{})
			ctx := context.Background()
			plain := bytes.Repeat([]byte{7}, 32)
			sealed, err := client.Encrypt(ctx, &kms.EncryptInput{KeyId: &arn, Plaintext: plain, EncryptionContext: map[string]string{"a": "b"}})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(sealed.CiphertextBlob); n < 150 || n > 200 || sealed.CiphertextBlob[0] == '1' {
				t.Errorf("a blob of %d bytes that begins with %#x", n, sealed.CiphertextBlob[0])
			}
			opened, err := client.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: map[string]string{"a": "b"}})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(opened.Plaintext, plain) || *opened.KeyId != arn {
				t.Errorf("Decrypt returned %x under %s, want %x under %s", opened.Plaintext, *opened.KeyId, plain, arn)
			}
			if s.Calls("Encrypt") != 1 || s.Calls("*") != 2 {
				t.Errorf("counted %d Encrypt of %d calls, want 1 of 2", s.Calls("Encrypt"), s.Calls("*"))
			}
			if n := s.Connections(); n < 1 || (name == "over TLS") != (s.Handshakes() == n) {
				t.Errorf("%d connections, %d handshakes", n, s.Handshakes())
			}
		})
	}
}
