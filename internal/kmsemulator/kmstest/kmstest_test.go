package kmstest_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

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

func TestOpenConnectionsAreCountedAndCanBeClosed(t *testing.T) {
	s := kmstest.Start(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func() {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	get()
	if s.Open() != 1 || s.Connections() != 1 {
		t.Fatalf("%d open of %d connections, want one", s.Open(), s.Connections())
	}
	s.Disconnect()
	for deadline := time.Now().Add(20 * time.Second); s.Open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d open after Disconnect", s.Open())
		}
	}
	get()
	if s.Open() != 1 || s.Connections() != 2 {
		t.Errorf("%d open of %d connections, want one of two", s.Open(), s.Connections())
	}
}

func TestReplacedCertificateIsOfAnotherCA(t *testing.T) {
	s := kmstest.StartTLS(t)
	shake := func(caPEM []byte) error {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(caPEM)
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
		conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(s.URL, "https://"))
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	if err := shake(s.CAPEM); err != nil {
		t.Fatal(err)
	}
	after := s.ReplaceCertificate(t)
	if err := shake(s.CAPEM); err == nil {
		t.Error("the CA of before is still good")
	}
	if err := shake(after); err != nil {
		t.Error(err)
	}
}
