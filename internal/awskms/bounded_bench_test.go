package awskms_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// inMemory is an HTTP client that answers each request at once, without a network.
type inMemory struct{}

func (inMemory) Do(req *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{}, Request: req,
		Body: io.NopCloser(strings.NewReader(`{"CiphertextBlob":"AQID","KeyId":"k"}`)),
	}, nil
}

// BenchmarkSDKCall shows what it costs that each call of KMS has a goroutine of
// its own: the SDK's stack is deep, and a new goroutine grows its own.
func BenchmarkSDKCall(b *testing.B) {
	api := kms.New(kms.Options{
		Region: "us-west-2", HTTPClient: inMemory{}, BaseEndpoint: aws.String("http://kms.test"),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
	})
	call := func(ctx context.Context) (*kms.EncryptOutput, error) {
		return api.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("k"), Plaintext: make([]byte, 32)})
	}
	var workers bounded.Workers
	defer workers.Close()
	ways := map[string]func(context.Context) (*kms.EncryptOutput, error){
		"direct": call,
		"bounded": func(ctx context.Context) (*kms.EncryptOutput, error) {
			return bounded.Do(ctx, nil, bounded.Call, call)
		},
		"on workers": func(ctx context.Context) (*kms.EncryptOutput, error) {
			return bounded.DoOn(ctx, &workers, nil, bounded.Call, call, func(*kms.EncryptOutput) {})
		},
	}
	for _, name := range []string{"direct", "bounded", "on workers"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
				if _, err := ways[name](ctx); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
		})
	}
}
