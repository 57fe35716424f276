package awskms

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// process is an identity whose credentials come from a program, which prints
// what the returned function is told.
func process(t *testing.T) (*identity, func(output string)) {
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
	conns := NewConnections()
	t.Cleanup(conns.Close)
	return newIdentity(Options{Connections: conns}), func(output string) {
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"+output+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func session(key string, ends time.Time) string {
	return fmt.Sprintf(`echo '{"Version":1,"AccessKeyId":%q,"SecretAccessKey":"s","SessionToken":"t","Expiration":%q}'`, key, ends.UTC().Format(time.RFC3339))
}

// renew makes the credentials due, and waits for the look-up to end.
func renew(t *testing.T, i *identity) {
	t.Helper()
	i.mu.Lock()
	i.renewAt, i.failedAt = time.Time{}, time.Time{}
	i.mu.Unlock()
	if _, err := i.Retrieve(t.Context()); err != nil {
		t.Fatalf("while the old credentials are valid: %v", err)
	}
	i.mu.Lock()
	underWay := i.underWay
	i.mu.Unlock()
	if underWay != nil {
		<-underWay
	}
}

// A renewal that fails must not take away what is still valid, however often.
func TestValidCredentialsOutliveFailedRenewals(t *testing.T) {
	i, says := process(t)
	says(session("first", time.Now().Add(time.Hour)))
	if v, err := i.Retrieve(t.Context()); err != nil || v.AccessKeyID != "first" {
		t.Fatalf("got %q, %v", v.AccessKeyID, err)
	}
	says("exit 1")
	i.mu.Lock()
	i.provider = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, errors.New("STS is away")
	})
	i.mu.Unlock()
	for range 3 {
		renew(t, i)
	}
	if v, err := i.Retrieve(t.Context()); err != nil || v.AccessKeyID != "first" {
		t.Errorf("after failed renewals: %q, %v; want the first credentials", v.AccessKeyID, err)
	}
	says(session("second", time.Now().Add(time.Hour)))
	renew(t, i)
	if v, err := i.Retrieve(t.Context()); err != nil || v.AccessKeyID != "second" {
		t.Errorf("after a renewal: %q, %v; want the second credentials", v.AccessKeyID, err)
	}
}

// The SDK's own cache would answer a renewal with what is about to end.
func TestRenewalAsksTheSource(t *testing.T) {
	i, says := process(t)
	says(session("first", time.Now().Add(3*time.Minute)))
	if v, err := i.Retrieve(t.Context()); err != nil || v.AccessKeyID != "first" {
		t.Fatalf("got %q, %v", v.AccessKeyID, err)
	}
	says(session("second", time.Now().Add(time.Hour)))
	renew(t, i)
	if v, err := i.Retrieve(t.Context()); err != nil || v.AccessKeyID != "second" {
		t.Errorf("after a renewal: %q, %v; want the second credentials", v.AccessKeyID, err)
	}
}

// A source that needs longer than one look-up is waited for by the next.
func TestSlowSourceIsJoinedAndNotAskedAgain(t *testing.T) {
	i, says := process(t)
	dir := t.TempDir()
	says("echo x >> " + dir + "/count; sleep 12; " + session("slow", time.Now().Add(time.Hour)))
	deadline := time.Now().Add(time.Minute)
	for {
		if v, err := i.Retrieve(t.Context()); err == nil {
			if v.AccessKeyID != "slow" {
				t.Errorf("got %q", v.AccessKeyID)
			}
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	forks, err := os.ReadFile(dir + "/count")
	if err != nil || len(forks) != 2 {
		t.Errorf("%d bytes of forks (%v), want one fork", len(forks), err)
	}
}

func TestCredentialsThatHaveExpiredAlreadyAreNamedSo(t *testing.T) {
	i, says := process(t)
	says(session("old", time.Now().Add(-time.Hour)))
	_, err := i.Retrieve(t.Context())
	e := classify(err, situation{op: "Encrypt", limit: time.Second, full: time.Second})
	if !errors.Is(err, errExpiredAlready) || e.Code != cause.CredentialsExpired {
		t.Errorf("got %v: %v, want %s", err, e, cause.CredentialsExpired)
	}
}
