package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// emulator starts one that fails by a fault from the beginning, "" for none.
func emulator(t testing.TB, fault kmsemulator.FaultKind) *kmstest.Server {
	t.Helper()
	s := kmstest.Start(t)
	if fault != "" {
		s.Inject(kmsemulator.Fault{Kind: fault})
	}
	return s
}

// used returns a daemon that has served every operation, with and without
// success.
func used(t *testing.T) *running {
	t.Helper()
	r := run(t, setup{}).ready()
	conn := connectTo(t, r.path)
	v1, c := v1beta1.NewKeyManagementServiceClient(conn), v2.NewKeyManagementServiceClient(conn)
	ctx := context.Background()
	sealed := r.encrypts(c)
	if _, err := c.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(ctx, &v2.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	first, err := v1.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: first.Cipher}); err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(sealed.Ciphertext)
	damaged[len(damaged)-1] ^= 1
	if _, err := c.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: damaged, KeyId: sealed.KeyId}); err == nil {
		t.Fatal("damaged data decrypts")
	}
	remove := r.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle})
	if _, err := c.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("k")}); err == nil {
		t.Fatal("a throttled call succeeds")
	}
	remove()
	return r
}

func TestMetricsAreWellFormed(t *testing.T) {
	t.Parallel()
	_, body := used(t).get("/metrics")
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	// The predecessor's names, kept because dashboards and alerts read them: one
	// is in milliseconds.
	exempt := []string{"aws_encryption_provider_kms_operations_total", "aws_encryption_provider_kms_operation_latency_ms"}
	for _, p := range problems {
		if !slices.Contains(exempt, p.Metric) {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestMetricsNameBuildHealthAndKeyID(t *testing.T) {
	t.Parallel()
	r := used(t)
	status, err := r.client().Status(context.Background(), &v2.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(status.KeyId))
	r.ready()
	for series, want := range map[string]string{
		`aws_encryption_provider_build_info{commit="abc",go_version="go1",version="v1.2.3"}`:                                 "1",
		fmt.Sprintf(`aws_encryption_provider_key_id_hash{key_id_hash="sha256:%s",provider="0"}`, hex.EncodeToString(sum[:])): "1",
		`aws_encryption_provider_health{provider="0",state="healthy"}`:                                                       "1",
		`aws_encryption_provider_health{provider="0",state="refused"}`:                                                       "0",
		`aws_encryption_provider_calls_total{api="v2",class="success",operation="decrypt",provider="0"}`:                     "1",
		`aws_encryption_provider_calls_total{api="v2",class="bad_data",operation="decrypt",provider="0"}`:                    "1",
		`aws_encryption_provider_calls_total{api="v2",class="outage",operation="encrypt",provider="0"}`:                      "1",
		`aws_encryption_provider_call_seconds_count{api="v1",class="success",operation="encrypt",provider="0"}`:              "1",
		`aws_encryption_provider_kms_calls_total{class="bad_data",operation="Decrypt",provider="0"}`:                         "1",
		legacy(r.key, "success", "encrypt", "v2"):                                                                            "1",
		legacy(r.key, "success", "decrypt", "v1"):                                                                            "1",
		legacy(r.key, "failure-corruption", "decrypt", "v2"):                                                                 "1",
		legacy(r.key, "failure-throttle", "encrypt", "v2"):                                                                   "1",
	} {
		if got := r.metric(series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	if r.metric(`aws_encryption_provider_health_age_seconds{provider="0"}`) == "" {
		t.Error("no age of health")
	}
	if r.metric("go_goroutines") == "" || r.metric("process_open_fds") == "" {
		t.Error("no Go or process metrics")
	}
}

// legacy is a series of the predecessor's counter.
func legacy(key, status, operation, version string) string {
	return fmt.Sprintf("aws_encryption_provider_kms_operations_total{key_arn=%q,operation=%q,status=%q,version=%q}", key, operation, status, version)
}

func TestPredecessorsHistogramKeepsItsBuckets(t *testing.T) {
	t.Parallel()
	r := used(t)
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for families[i].GetName() != "aws_encryption_provider_kms_operation_latency_ms" {
		if i++; i == len(families) {
			t.Fatal("it is not there")
		}
	}
	for _, m := range families[i].Metric {
		var bounds []float64
		for _, b := range m.Histogram.Bucket {
			bounds = append(bounds, b.GetUpperBound())
		}
		want := []float64{2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
		if !slices.Equal(bounds, want) {
			t.Errorf("buckets %v, want %v", bounds, want)
		}
		var labels []string
		for _, l := range m.Label {
			labels = append(labels, l.GetName())
		}
		if want := []string{"key_arn", "operation", "status", "version"}; !slices.Equal(labels, want) {
			t.Errorf("labels %v, want %v", labels, want)
		}
	}
}
