package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A keeper knows every secret of a test, and finds them in what others print.
type keeper struct {
	t       *testing.T
	secrets map[string][]byte // by what they are
}

// forms are the ways in which a careless program prints bytes.
func forms(b []byte) map[string]string {
	quoted := fmt.Sprintf("%q", b)
	return map[string]string{
		"raw": string(b), "hex": hex.EncodeToString(b), "HEX": strings.ToUpper(hex.EncodeToString(b)),
		"base64": strings.TrimRight(base64.StdEncoding.EncodeToString(b), "="), "base64url": strings.TrimRight(base64.URLEncoding.EncodeToString(b), "="),
		"decimal": strings.Trim(fmt.Sprint(b), "[]"), "quoted": quoted[1 : len(quoted)-1],
	}
}

func (k *keeper) knows(what string, secret []byte) []byte {
	k.secrets[what] = slices.Clone(secret)
	return secret
}

// finds returns the secrets that a text shows, whole or by their first 16 bytes.
func (k *keeper) finds(text string) []string {
	var found []string
	for what, secret := range k.secrets {
		for _, part := range [][]byte{secret, secret[:min(len(secret), 16)]} {
			for form, shown := range forms(part) {
				if strings.Contains(text, shown) {
					found = append(found, what+", "+form)
				}
			}
		}
	}
	return found
}

// searches fails the test for each secret that a text shows.
func (k *keeper) searches(where, text string) {
	k.t.Helper()
	for _, shown := range k.finds(text) {
		k.t.Errorf("%s shows the %s", where, shown)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestNothingSecretIsPrinted(t *testing.T) {
	k := &keeper{t: t, secrets: map[string][]byte{}}
	credential := kmsemulator.Credential{
		AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: string(k.knows("secret access key", []byte("a/very+secret/access+key/of/40/characters"))),
		SessionToken: string(k.knows("session token", []byte("token+of/a+session//that/nobody+may/see=="))), Principal: "arn:aws:iam::111122223333:user/tester",
	}
	s := kmstest.Start(t, kmsemulator.Options{Credentials: []kmsemulator.Credential{credential}})
	arn, listen := key(t, s), socketIn(t)
	p := launch(t, s.Env(), "--key="+arn, "--listen="+listen, "--health-port=127.0.0.1:0", "--debug", "--encryption-context=cluster=one", "--kms-timeout=1s")
	conn := dial(t, listen)
	c := &caller{k: k, v1: v1beta1.NewKeyManagementServiceClient(conn), v2: v2.NewKeyManagementServiceClient(conn)}
	c.everything("healthy")
	c.hostile()
	for _, kind := range []kmsemulator.FaultKind{
		kmsemulator.Throttle, kmsemulator.Internal, kmsemulator.Unavailable, kmsemulator.Hang, kmsemulator.Reset, kmsemulator.Garbage, kmsemulator.ExpiredToken,
	} {
		remove := s.Inject(kmsemulator.Fault{Kind: kind})
		c.everything(string(kind))
		_, body := fetch(t, p.healthOf()+"/readyz")
		k.searches("/readyz under "+string(kind), body)
		remove()
	}
	// AWS follows a refused signature with what was signed: the token is in it.
	remove := s.Inject(kmsemulator.Fault{
		Kind: kmsemulator.Error, Code: "InvalidSignatureException",
		Message: "The request signature we calculated does not match\n\nx-amz-security-token:" + credential.SessionToken,
	})
	c.everything("signature")
	remove()
	s.Deny(arn, "Encrypt")
	c.everything("denied")
	if err := s.DisableKey(arn); err != nil {
		t.Fatal(err)
	}
	c.everything("disabled")
	health := p.healthOf()
	for _, path := range []string{"/livez", "/healthz", "/readyz", "/readyz/0", "/metrics"} {
		_, body := fetch(t, health+path)
		k.searches(path, body)
	}
	p.signal(syscall.SIGTERM)
	p.exits(0)
	k.searches("the log", p.err.String())
	k.searches("standard output", p.out.String())
	for _, want := range []string{`"call served"`, "KMS0101", "KMS0104", "KMS0201", "KMS0302", "KMS0304", "KMS0404"} {
		if !strings.Contains(p.err.String(), want) {
			t.Errorf("the log has no %s: the test shows less than it means to", want)
		}
	}
	if c.worked < 4 || c.failed < 20 {
		t.Errorf("%d calls worked and %d failed: the test shows less than it means to", c.worked, c.failed)
	}
}

// A caller makes calls of both APIs and keeps all that must not be shown.
type caller struct {
	k              *keeper
	v1             v1beta1.KeyManagementServiceClient
	v2             v2.KeyManagementServiceClient
	worked, failed int
	first, second  []byte // ciphertexts of the first success
}

// everything calls every operation, with a plaintext of its own each.
func (c *caller) everything(when string) {
	c.k.t.Helper()
	ctx, wait := c.k.t.Context(), grpc.WaitForReady(true)
	sealed, err := c.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: c.k.knows("DEK of v2, "+when, random(32)), Uid: "uid-" + when}, wait)
	c.note(err)
	if err == nil && c.second == nil {
		c.second = c.k.knows("ciphertext of v2, "+when, sealed.Ciphertext)
	}
	old, err := c.v1.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: c.k.knows("DEK of v1, "+when, random(32))}, wait)
	c.note(err)
	if err == nil && c.first == nil {
		c.first = c.k.knows("ciphertext of v1, "+when, old.Cipher)
	}
	_, err = c.v2.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: c.second, KeyId: "arn:aws:kms:us-west-2:111122223333:key/other", Uid: "u"}, wait)
	c.note(err)
	_, err = c.v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: c.first}, wait)
	c.note(err)
	_, err = c.v2.Status(ctx, &v2.StatusRequest{}, wait)
	c.note(err)
}

// hostile sends what a caller should not.
func (c *caller) hostile() {
	c.k.t.Helper()
	damaged := slices.Clone(c.second)
	damaged[len(damaged)-1] ^= 1
	for what, b := range map[string][]byte{
		"damaged ciphertext": damaged, "unknown format": append([]byte("7"), random(64)...), "bare bytes": random(64),
		"over-long ciphertext": append([]byte("1"), random(7000)...), "truncated ciphertext": c.second[:len(c.second)/2],
	} {
		c.k.knows(what, b)
		_, err := c.v2.Decrypt(c.k.t.Context(), &v2.DecryptRequest{Ciphertext: b, Uid: "u"})
		c.note(err)
		_, err = c.v1.Decrypt(c.k.t.Context(), &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: b})
		c.note(err)
	}
	_, err := c.v2.Encrypt(c.k.t.Context(), &v2.EncryptRequest{Plaintext: c.k.knows("over-long plaintext", bytes.Repeat(random(8), 600))})
	c.note(err)
}

// note counts a call, and searches the words of its failure.
func (c *caller) note(err error) {
	c.k.t.Helper()
	if err == nil {
		c.worked++
		return
	}
	c.failed++
	c.k.searches("an error", err.Error())
}

// The search itself must be able to find.
func TestKeeperFindsWhatIsShown(t *testing.T) {
	k := &keeper{t: t, secrets: map[string][]byte{}}
	secret := k.knows("secret", random(32))
	for form, shown := range forms(secret[:16]) {
		if !slices.Contains(k.finds("before "+shown+" after"), "secret, "+form) {
			t.Errorf("a secret shown as %s is not found", form)
		}
	}
	if found := k.finds("nothing of it"); len(found) > 0 {
		t.Errorf("found where nothing is: %v", found)
	}
}
