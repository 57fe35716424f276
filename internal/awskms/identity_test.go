package awskms_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

func TestCredentialsThatComeLateAreFound(t *testing.T) {
	s, key := start(t)
	file := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	c := newClient(t, awskms.Options{})
	wantEventually(t, c, key, cause.NoCredentials)
	write := func(id, key string) {
		text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", id, key)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("AKIAUNKNOWN", "wrong")
	wantEventually(t, c, key, cause.CredentialsRefused)
	write(s.Credential.AccessKeyID, "wrong")
	wantEventually(t, c, key, cause.SignatureRefused)
	write(s.Credential.AccessKeyID, s.Credential.SecretAccessKey)
	wantEventually(t, c, key, works)
}

// works is the code of a call that does.
const works cause.Code = 255

// wantEventually calls until the outcome is what is wanted. What failed is
// remembered for seconds, so that callers cannot storm whoever gives credentials.
func wantEventually(t *testing.T, c *awskms.Client, key string, want cause.Code) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		if err == nil && want == works || err != nil && cause.Of(err).Code == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v, want %s", err, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestCredentialProcessNeverShowsWhatItPrinted(t *testing.T) {
	_, key := start(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	script := filepath.Join(dir, "creds.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho '{\"Version\": 1, \"SecretAccessKey\": \"leak-me\" broken'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("[default]\ncredential_process = "+script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_CONFIG_FILE", file)
	_, err := newClient(t, awskms.Options{}).Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
	if cause.Of(err).Code != cause.NoCredentials || strings.Contains(err.Error(), "leak-me") || !strings.Contains(err.Error(), "credential_process") {
		t.Errorf("got %v", err)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if _, ours := e.(*cause.Error); ours && strings.Contains(e.Error(), "leak-me") { //nolint:errorlint // each layer is looked at
			t.Errorf("a layer shows the secret: %v", e)
		}
	}
}

func TestBrokenSettingsAreNamedAndReadAgain(t *testing.T) {
	_, key := start(t)
	t.Setenv("AWS_PROFILE", "nobody")
	c := newClient(t, awskms.Options{})
	_, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
	if cause.Of(err).Code != cause.SettingsUnreadable || cause.ClassOf(err) != cause.Credentials {
		t.Fatalf("got %v, want %s", err, cause.SettingsUnreadable)
	}
	t.Setenv("AWS_PROFILE", "")
	wantEventually(t, c, key, works)
}

func TestRoleIsAssumedWithItsExternalID(t *testing.T) {
	role := kmsemulator.Role{ARN: "arn:aws:iam::111122223333:role/kms", ExternalID: "external-1"}
	s := kmstest.Start(t, kmsemulator.Options{Roles: []kmsemulator.Role{role}})
	s.SetEnv(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustSeal(t, newClient(t, awskms.Options{AssumeRoleARN: role.ARN, ExternalID: role.ExternalID}), key)
	if s.Calls("AssumeRole") == 0 {
		t.Error("no AssumeRole was made")
	}
	_, err = newClient(t, awskms.Options{AssumeRoleARN: role.ARN, ExternalID: "other"}).Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
	if cause.Of(err).Code != cause.RoleRefused || cause.ClassOf(err) != cause.Credentials {
		t.Errorf("with another external id: %v, want %s", err, cause.RoleRefused)
	}
}

// The Region of the instance has to reach STS as well as KMS.
func TestRoleIsAssumedInTheRegionOfTheInstance(t *testing.T) {
	s := kmstest.Start(t)
	s.SetEnv(t)
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.StartIMDS(t))
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustSeal(t, newClient(t, awskms.Options{AssumeRoleARN: "arn:aws:iam::111122223333:role/kms"}), key)
}

// A thousand callers whose credentials AWS refuses must not become a thousand
// calls of STS.
func TestRefusedCredentialsAreNotAStorm(t *testing.T) {
	s := kmstest.Start(t)
	s.SetEnv(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, awskms.Options{AssumeRoleARN: "arn:aws:iam::111122223333:role/kms"})
	mustSeal(t, c, key)
	remove := s.Inject(kmsemulator.Fault{Kind: kmsemulator.ExpiredToken})
	before := s.Calls("AssumeRole")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				_, _ = c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
			}
		})
	}
	wg.Wait()
	if n := s.Calls("AssumeRole") - before; n == 0 || n > 20 {
		t.Errorf("%d AssumeRole for 800 refused calls, want one every few seconds", n)
	}
	remove()
	wantEventually(t, c, key, works)
}

func TestCredentialProcessIsNotForkedByEveryCall(t *testing.T) {
	_, key := start(t)
	dir := t.TempDir()
	script, count := filepath.Join(dir, "creds.sh"), filepath.Join(dir, "count")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho x >> "+count+"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte("[default]\ncredential_process = "+script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_CONFIG_FILE", file)
	c := newClient(t, awskms.Options{})
	for range 200 {
		_, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		if cause.Of(err).Code != cause.NoCredentials {
			t.Fatal(err)
		}
	}
	forks, err := os.ReadFile(count)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(forks), "x"); n > 20 {
		t.Errorf("%d forks for 200 calls, want one every few seconds", n)
	}
}

// A metadata service that swallows every packet keeps no credentials file from
// being found.
func TestLateCredentialsAreFoundWhereTheMetadataServiceIsSilent(t *testing.T) {
	s, key := start(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	file := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+silent.Addr().String())
	c := newClient(t, awskms.Options{Timeout: usualLimit})
	wantEventually(t, c, key, cause.CredentialsSilent)
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s.Credential.AccessKeyID, s.Credential.SecretAccessKey)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wantEventually(t, c, key, works)
	t.Logf("found after %v", time.Since(began).Round(100*time.Millisecond))
	_ = silent.Close() // what was left behind ends
	eventually(t, "steps of look-ups", 0, func() int { return awskms.Running(c) })
}

func TestSTSOutageIsNoMissingCredential(t *testing.T) {
	_, key := start(t)
	for name, endpoint := range map[string]string{
		"nobody listens": "http://127.0.0.1:1",
		"503":            serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }),
	} {
		t.Setenv("AWS_ENDPOINT_URL_STS", endpoint)
		c := newClient(t, awskms.Options{AssumeRoleARN: "arn:aws:iam::111122223333:role/kms"})
		t.Log(name)
		wantEventually(t, c, key, cause.CredentialsSilent)
	}
}

func TestSettingsThatContradictEachOtherAreNoBug(t *testing.T) {
	s, key := start(t)
	t.Setenv("AWS_USE_FIPS_ENDPOINT", "true")
	wantEventually(t, newClient(t, awskms.Options{Endpoint: s.URL}), key, cause.SettingsUnreadable)
}

func TestMendedCABundleIsFound(t *testing.T) {
	s := kmstest.StartTLS(t)
	s.SetEnv(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, kmstest.StartTLS(t).CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)
	c := newClient(t, awskms.Options{})
	wantEventually(t, c, key, cause.TLSFailed)
	if err := os.WriteFile(bundle, right, 0o600); err != nil {
		t.Fatal(err)
	}
	wantEventually(t, c, key, works)
}
