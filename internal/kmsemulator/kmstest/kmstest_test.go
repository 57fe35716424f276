package kmstest_test

import (
	"net/http"
	"os"
	"os/exec"
	"slices"
	"testing"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDefaultChainFindsTheEmulator(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...kmsemulator.Options) *kmstest.Server{
		"over HTTP": kmstest.Start, "over TLS": kmstest.StartTLS,
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			arn, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s.SetEnv(t)
			client := awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) { t.Cleanup(tr.CloseIdleConnections) })
			cfg, err := config.LoadDefaultConfig(t.Context(), config.WithHTTPClient(client))
			if err != nil {
				t.Fatal(err)
			}
			out, err := kms.NewFromConfig(cfg).Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x")})
			if err != nil {
				t.Fatal(err)
			}
			if *out.KeyId != arn || s.Calls("Encrypt") != 1 {
				t.Errorf("encrypted under %s in %d calls", *out.KeyId, s.Calls("Encrypt"))
			}
			if tls := s.Handshakes() > 0; tls != (name == "over TLS") || s.Connections() == 0 {
				t.Errorf("%d connections, %d handshakes", s.Connections(), s.Handshakes())
			}
		})
	}
}

func TestEnvIsForChildProcesses(t *testing.T) {
	t.Setenv("AWS_PROFILE", "somebody's own")
	s := kmstest.Start(t)
	child := exec.CommandContext(t.Context(), "sh", "-c", `test "$AWS_ENDPOINT_URL_KMS" = "$1" && test -z "$AWS_PROFILE" && test ! -e "$AWS_CONFIG_FILE"`, "sh", s.URL)
	child.Env = append(os.Environ(), s.Env()...)
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if !slices.Contains(s.Env(), "AWS_EC2_METADATA_DISABLED=true") {
		t.Error("the instance's metadata would be asked")
	}
}

func TestGivenCredentialsAreKept(t *testing.T) {
	own := kmsemulator.Credential{AccessKeyID: "AKIAOWN", SecretAccessKey: "s"}
	if s := kmstest.Start(t, kmsemulator.Options{Credentials: []kmsemulator.Credential{own}}); s.Credential != own {
		t.Errorf("the server has %v", s.Credential)
	}
	if s := kmstest.Start(t); s.Credential != kmstest.Credential() {
		t.Errorf("the server has %v", s.Credential)
	}
}
