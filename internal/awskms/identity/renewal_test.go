package identity

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
)

// process is an identity whose credentials come from a program, which prints
// what the returned function is told.
func process(t *testing.T) (*Identity, func(output string)) {
	t.Helper()
	dir := t.TempDir()
	script, file := filepath.Join(dir, "creds.sh"), filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte("[default]\ncredential_process = "+script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": file, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_REGION": "us-west-2", "AWS_PROFILE": "",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CA_BUNDLE": "", "AWS_ROLE_ARN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	conns := transport.New()
	t.Cleanup(conns.Close)
	i := New(Options{
		Source: settings.New(settings.Options{Connections: conns}).Find, Connections: conns, Background: conns.Background,
		NewAPI: func(aws.Config, aws.CredentialsProvider) *kms.Client { return nil }, // nobody calls
	})
	return i, func(output string) {
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"+output+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func printed(key string, ends time.Time) string {
	return fmt.Sprintf(`echo '{"Version":1,"AccessKeyId":%q,"SecretAccessKey":"s","SessionToken":"t","Expiration":%q}'`, key, ends.UTC().Format(time.RFC3339))
}

// accessKey is that of the credentials that calls would sign with.
func accessKey(t *testing.T, i *Identity) string {
	t.Helper()
	s, err := i.ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.value.Load().AccessKeyID
}

// renewNow makes the credentials due, and waits for the look-up to end.
func renewNow(t *testing.T, i *Identity) {
	t.Helper()
	i.mu.Lock()
	i.schedule.doubt.at = time.Now()
	i.mu.Unlock()
	if _, err := i.ready(t.Context()); err != nil {
		t.Fatalf("while the old credentials are valid: %v", err)
	}
	i.Await(t.Context())
	if u, err := i.Use(t.Context(), "Encrypt key"); err == nil { // what was found is tried
		u.Worked()
	}
}

// A renewal that fails must not take away what is still valid, however often.
func TestValidCredentialsOutliveFailedRenewals(t *testing.T) {
	i, says := process(t)
	says(printed("first", time.Now().Add(time.Hour)))
	if got := accessKey(t, i); got != "first" {
		t.Fatalf("got %q", got)
	}
	count := filepath.Join(t.TempDir(), "count")
	says("echo x >> " + count + "; exit 1")
	for range 3 {
		renewNow(t, i)
	}
	for range 10 {
		_ = accessKey(t, i)
		i.Await(t.Context())
	}
	if forks, err := os.ReadFile(count); err != nil || len(forks) > 3*2*len("x\n") {
		t.Errorf("%d bytes of forks (%v), want at most two for each of three renewals", len(forks), err)
	}
	if got := accessKey(t, i); got != "first" {
		t.Errorf("after failed renewals: %q, want the first credentials", got)
	}
	says(printed("second", time.Now().Add(time.Hour)))
	renewNow(t, i)
	if got := accessKey(t, i); got != "second" {
		t.Errorf("after a renewal: %q, want the second credentials", got)
	}
}

// The SDK's own cache would answer a renewal with what is about to end.
func TestRenewalAsksTheSource(t *testing.T) {
	i, says := process(t)
	says(printed("first", time.Now().Add(3*time.Minute)))
	if got := accessKey(t, i); got != "first" {
		t.Fatalf("got %q", got)
	}
	says(printed("second", time.Now().Add(time.Hour)))
	renewNow(t, i)
	if got := accessKey(t, i); got != "second" {
		t.Errorf("after a renewal: %q, want the second credentials", got)
	}
}

// A source that needs longer than one look-up is waited for is asked again beside
// that, and what it says first counts.
func TestSlowSourceIsWaitedFor(t *testing.T) {
	i, says := process(t)
	dir := t.TempDir()
	says("echo x >> " + dir + "/count; sleep 6; " + printed("slow", time.Now().Add(time.Hour)))
	deadline := time.Now().Add(time.Minute)
	for {
		if s, err := i.ready(t.Context()); err == nil {
			if got := s.value.Load().AccessKeyID; got != "slow" {
				t.Errorf("got %q", got)
			}
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	forks, err := os.ReadFile(dir + "/count")
	if err != nil || len(forks) > 3*len("x\n") {
		t.Errorf("%d bytes of forks (%v), want one every few seconds", len(forks), err)
	}
}

// Files that are broken when credentials end do not keep them from being renewed.
func TestSourceOfBeforeRenewsWhereSettingsAreBroken(t *testing.T) {
	i, says := process(t)
	says(printed("first", time.Now().Add(time.Hour)))
	if got := accessKey(t, i); got != "first" {
		t.Fatalf("got %q", got)
	}
	says(printed("second", time.Now().Add(time.Hour)))
	if err := os.WriteFile(os.Getenv("AWS_CONFIG_FILE"), []byte("[default]\naws_access_key_id = half\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	renewNow(t, i)
	if got := accessKey(t, i); got != "second" {
		t.Errorf("after a renewal: %q, want the second credentials", got)
	}
}

// The SDK reads them itself: nothing here has to notice that they change.
func TestTokenFilesAreReadAtEachRenewal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	serve := func(t *testing.T, answer func(r *http.Request) string) string {
		t.Helper()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(answer(r))) }))
		t.Cleanup(server.Close)
		return server.URL
	}
	ends := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for name, settings := range map[string]func(t *testing.T) map[string]string{
		"web identity": func(t *testing.T) map[string]string {
			t.Helper()
			return map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": file, "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/r", "AWS_ENDPOINT_URL_STS": serve(t, func(r *http.Request) string {
				return `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>` + r.FormValue("WebIdentityToken") +
					`</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>` + ends +
					`</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`
			})}
		},
		"container": func(t *testing.T) map[string]string {
			t.Helper()
			return map[string]string{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": file, "AWS_CONTAINER_CREDENTIALS_FULL_URI": serve(t, func(r *http.Request) string {
				return fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":"s","Token":"t","Expiration":%q}`, r.Header.Get("Authorization"), ends)
			})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			i, _ := process(t)
			t.Setenv("AWS_CONFIG_FILE", os.DevNull)
			for key, value := range settings(t) {
				t.Setenv(key, value)
			}
			for n, token := range []string{"first", "second"} {
				if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
					t.Fatal(err)
				}
				if n > 0 {
					renewNow(t, i)
				}
				if got := accessKey(t, i); got != token {
					t.Errorf("the token sent was %q, want %q", got, token)
				}
			}
		})
	}
}
