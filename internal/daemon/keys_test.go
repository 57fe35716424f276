package daemon

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// asking is shortTiming with keys that are asked all the time.
func asking() timing {
	t := shortTiming()
	t.provider.Questions = kmskey.Intervals{
		First: 10 * time.Millisecond, Ask: 200 * time.Millisecond, Confirm: 20 * time.Millisecond,
		Earlier: 50 * time.Millisecond, Denied: time.Hour,
	}
	return t
}

// keysOf starts an emulator of a kind, with a key that is to be read with.
func keysOf(t *testing.T, blind bool) (kms *kmstest.Server, reads string) {
	t.Helper()
	kms = kmstest.Start(t, kmsemulator.Options{BlindDryRun: blind})
	return kms, createKey(t, kms)
}

// newClientOf is a client that makes stored data beside the daemon.
func newClientOf(t *testing.T, kms *kmstest.Server) *awskms.Client {
	t.Helper()
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := awskms.New(awskms.Options{Connections: conns, Timeout: testkit.Patience, Region: kmstest.Region, Endpoint: kms.URL})
	t.Cleanup(c.Close)
	return c
}

func TestTroubleOfAReadKeyIsNamedWithoutTraffic(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breakIt func(*kmstest.Server, string) error
		code    string
	}{
		"disabled":               {func(s *kmstest.Server, key string) error { return s.DisableKey(key) }, "KMS0101"},
		"scheduled for deletion": {func(s *kmstest.Server, key string) error { return s.ScheduleKeyDeletion(key, 7) }, "KMS0102"},
		"denied":                 {func(s *kmstest.Server, key string) error { s.Deny(key, "Decrypt"); return nil }, "KMS0104"},
	} {
		for _, blind := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", dry runs check authorization only"}[blind], func(t *testing.T) {
				t.Parallel()
				kms, reads := keysOf(t, blind)
				if blind { // then what was read before tells it, and nobody may describe the key
					kms.Deny(reads, "DescribeKey")
				}
				r := run(t, setup{kms: kms, args: []string{"--decrypt-key=" + reads}, time: asking()}).ready()
				state := func(s string) string {
					return r.metric(`aws_encryption_provider_key_health{key="` + reads + `",provider="0",state="` + s + `",use="read"}`)
				}
				words := `authorised, and DescribeKey says "Enabled"`
				if blind {
					words = "authorised, its state not proven"
				}
				r.waitFor("/readyz?verbose", http.StatusOK, `(?m)^  key `+reads+` reads: `+words)
				if state("authorised") != "1" {
					t.Error("the gauge does not say authorised")
				}
				if blind {
					direct := newClientOf(t, kms)
					sealed, err := direct.Encrypt(t.Context(), awskms.Call{}, reads, []byte("seed"))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := r.client().Decrypt(t.Context(), &v2.DecryptRequest{Ciphertext: append([]byte("1"), sealed.Blob...), KeyId: reads, Uid: "u"}); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.breakIt(kms, reads); err != nil {
					t.Fatal(err)
				}
				body := r.waitFor("/readyz?verbose", http.StatusOK, `(?m)^  key `+reads+` reads: refused, `+c.code)
				if !strings.Contains(body, "  decrypt key "+reads+" is refused: "+c.code) {
					t.Errorf("/readyz?verbose:\n%s", body)
				}
				if state("refused") != "1" || state("healthy") != "0" || state("authorised") != "0" {
					t.Error("the gauge does not say refused alone")
				}
				if got := r.metric(`aws_encryption_provider_key_health_cause{code="` + c.code + `",key="` + reads + `",provider="0",use="read"}`); got != "1" {
					t.Errorf("the gauge of the cause is %q", got)
				}
				if got := r.metric(`aws_encryption_provider_key_health{key="` + r.key + `",provider="0",state="healthy",use="write"}`); got != "1" {
					t.Errorf("the gauge of the write key is %q", got)
				}
				date := r.metric(`aws_encryption_provider_key_deletion_timestamp_seconds{key="` + reads + `",provider="0"}`)
				if wants := c.code == "KMS0102" && !blind; (date != "") != wants {
					t.Errorf("the date is %q", date)
				}
				if wants := c.code == "KMS0102"; strings.Contains(body, "KMS deletes it at") != wants && !blind ||
					strings.Contains(body, "KMS deletes it, at a date that only kms:DescribeKey tells") != (wants && blind) {
					t.Errorf("/readyz?verbose on the deletion:\n%s", body)
				}
				if st, err := r.client().Status(context.Background(), &v2.StatusRequest{}); err != nil || st.Healthz != "ok" {
					t.Errorf("Status %v, %v, want ok", st, err)
				}
				if kms.Calls("Encrypt") == 0 || r.log.Has("Encrypt with "+reads) {
					t.Error("a read key was encrypted with")
				}
			})
		}
	}
}

// Names of earlier keys come out of stored data: series must not.
func TestEarlierKeysOfAnAliasAreCountedUnderItsName(t *testing.T) {
	t.Parallel()
	kms, first := keysOf(t, false)
	const name = "arn:aws:kms:" + kmstest.Region + ":111122223333:alias/moving"
	if err := kms.CreateAlias(kmstest.Region, "alias/moving", first); err != nil {
		t.Fatal(err)
	}
	direct := newClientOf(t, kms)
	r := run(t, setup{kms: kms, args: []string{"--key=" + name, "--listen=" + testkit.Directory(t) + "/s"}, time: asking()}).ready()
	client := v2.NewKeyManagementServiceClient(connectTo(t, r.current.Load().providers[1].at.path))
	for range 3 {
		other := createKey(t, kms)
		sealed, err := direct.Encrypt(t.Context(), awskms.Call{}, other, []byte("seed"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Decrypt(t.Context(), &v2.DecryptRequest{Ciphertext: append([]byte("1"), sealed.Blob...), KeyId: name, Uid: "u"}); err != nil {
			t.Fatal(err)
		}
		if err := kms.DisableKey(other); err != nil {
			t.Fatal(err)
		}
	}
	refused := `aws_encryption_provider_key_health{key="` + name + `",provider="1",state="refused",use="earlier"}`
	testkit.Until(t, "three are refused", func() bool { return r.metric(refused) == "3" })
	_, body := r.get("/metrics")
	if n := len(regexp.MustCompile(`(?m)^aws_encryption_provider_key_health\{[^}]*provider="1"`).FindAllString(body, -1)); n != 2*len(evidence.KeyStates()) {
		t.Errorf("%d series of the provider's keys, want those of two uses", n)
	}
}
