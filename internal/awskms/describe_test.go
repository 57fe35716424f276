package awskms_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// described returns a client of an emulated KMS, over TLS, and a key.
func described(t *testing.T) (*kmstest.Server, *awskms.Client, string) {
	t.Helper()
	s := kmstest.StartTLS(t)
	s.SetEnv(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{MultiRegion: true})
	if err != nil {
		t.Fatal(err)
	}
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	client := awskms.New(awskms.Options{Connections: conns, Timeout: 5 * time.Second})
	t.Cleanup(client.Close)
	return s, client, key
}

func TestKeyIsDescribed(t *testing.T) {
	s, client, key := described(t)
	if err := s.EnableKeyRotation(key, 120); err != nil {
		t.Fatal(err)
	}
	info, err := client.DescribeKey(t.Context(), key)
	want := awskms.KeyInfo{ARN: keyref.ARN(key), Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", State: "Enabled", Origin: "AWS_KMS", MultiRegion: true}
	if err != nil || info != want {
		t.Errorf("got %+v, %v; want %+v", info, err, want)
	}
	rotation, err := client.KeyRotation(t.Context(), key)
	if err != nil || !rotation.Enabled || rotation.Days != 120 || time.Until(rotation.Next) < 119*24*time.Hour {
		t.Errorf("rotation %+v, %v", rotation, err)
	}
	if err := s.ScheduleKeyDeletion(key, 7); err != nil {
		t.Fatal(err)
	}
	if info, err = client.DescribeKey(t.Context(), key); err != nil || info.Deletion.IsZero() {
		t.Errorf("of a key that ends: %+v, %v", info, err)
	}
}

func TestDryRunTellsPermissions(t *testing.T) {
	s, client, key := described(t)
	sealed, err := client.Encrypt(t.Context(), awskms.Call{}, key, []byte("seed"))
	if err != nil {
		t.Fatal(err)
	}
	mayEncrypt := func() error { return client.MayEncrypt(t.Context(), key, []byte("seed")) }
	mayDecrypt := func() error { return client.MayDecrypt(t.Context(), key, sealed.Blob) }
	for op, ask := range map[string]func() error{"Encrypt": mayEncrypt, "Decrypt": mayDecrypt} {
		if err := ask(); err != nil {
			t.Errorf("%s, allowed: %v", op, err)
		}
		s.Deny(key, op)
		if err := ask(); err == nil || cause.Of(err).Code != cause.AccessDenied {
			t.Errorf("%s, denied: %v", op, err)
		}
	}
}

// Of a key of which there is no ciphertext.
func TestDryRunNeedsNoCiphertext(t *testing.T) {
	s, client, key := described(t)
	if err := client.MayDecrypt(t.Context(), key, nil); err != nil {
		t.Errorf("allowed: %v", err)
	}
	if err := s.DisableKey(key); err != nil {
		t.Fatal(err)
	}
	if err := client.MayDecrypt(t.Context(), key, nil); err == nil || cause.Of(err).Code != cause.KeyDisabled {
		t.Errorf("disabled: %v", err)
	}
	s.Deny(key, "Decrypt")
	if err := client.MayDecrypt(t.Context(), key, nil); err == nil || cause.Of(err).Code != cause.AccessDenied {
		t.Errorf("denied: %v", err)
	}
}

// DescribeKey is denied in many accounts, such as those of kOps: that does not matter
// to try other credentials, nor to look for them.
func TestDeniedDescriptionTriesNoOtherCredentials(t *testing.T) {
	r := rotatingCredentials(t)
	r.kms.Deny(r.key, "DescribeKey")
	denied := func() {
		t.Helper()
		if _, err := r.c.DescribeKey(t.Context(), r.key); err == nil || cause.Of(err).Code != cause.AccessDenied {
			t.Fatalf("denied: %v", err)
		}
	}
	r.replace(r.second)
	denied()
	awskms.LookedUp(r.c)
	before := r.gate.count()
	denied()
	if n := r.gate.count() - before; n != 1 || r.gate.signer() != r.second.AccessKeyID {
		t.Errorf("%d requests, the last signed by %s; want one by the new key, which is on trial", n, r.gate.signer())
	}
}

func TestCallerAndCredentialAreToldWithoutTheSecret(t *testing.T) {
	s, client, _ := described(t)
	credential, err := client.Credential(t.Context())
	if err != nil || credential.AccessKeyID != s.Credential.AccessKeyID || credential.Source != "EnvConfigCredentials" {
		t.Errorf("%+v, %v", credential, err)
	}
	caller, err := client.Caller(t.Context())
	if err != nil || caller.Account != "111122223333" || caller.ARN != s.Credential.Principal {
		t.Errorf("%+v, %v", caller, err)
	}
}

func TestTraceTellsTheWayOfACall(t *testing.T) {
	s, client, key := described(t)
	encrypt := func() (awskms.Contact, error) {
		ctx, way := awskms.Traced(t.Context())
		_, err := client.Encrypt(ctx, awskms.Call{}, key, []byte("seed"))
		return way(), err
	}
	way, err := encrypt()
	if err != nil || way.Host != strings.TrimPrefix(s.URL, "https://") || way.Address == "" || way.TLS != "TLS 1.3" || way.Group != "X25519MLKEM768" ||
		!way.Answered || way.Skew().Abs() > 10*time.Second {
		t.Errorf("%+v, %v", way, err)
	}
	s.StopServing()
	if way, err = encrypt(); err == nil || way.Answered {
		t.Errorf("of a host that is gone: %+v, %v", way, err)
	}
}

func TestTokenThatDoesNotComeBackIsOutOfReach(t *testing.T) {
	end := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	defer silent.Close()
	defer close(end)
	well := kmstest.Start(t)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	for url, want := range map[string]bool{silent.URL: true, well.StartIMDS(t): false, "http://127.0.0.1:1": false} {
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
		if got := awskms.MetadataOutOfReach(t.Context()); got != want {
			t.Errorf("%s: %t, want %t", url, got, want)
		}
	}
}
