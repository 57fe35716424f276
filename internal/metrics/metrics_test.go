package metrics_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

// registry returns one with every metric in it at least once.
func registry(t *testing.T) (*prometheus.Registry, *metrics.Metrics) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, "v1.2.3", "abc", "go1", []string{"refused", "outage", "bad_data"}, []string{"call"})
	m.Call("0", "v2", "encrypt", "arn:k").Done(metrics.Success, false, 3*time.Millisecond)
	m.KMS("0")("Encrypt", metrics.Success, time.Millisecond)
	m.Rejected("0", "uid")
	metrics.RegisterHealth(reg, []string{"healthy", "outage"}, func() []metrics.Health {
		return []metrics.Health{{Provider: "0", State: "outage", Codes: []string{"KMS0203", "KMS0602"}, KeyID: "123", LastOK: time.Now(), GraceEnds: time.Unix(1700000000, 0)}}
	})
	metrics.RegisterKeys(reg, []string{"healthy", "refused"}, func() []metrics.Key {
		until := time.Unix(1700000000, 0)
		return []metrics.Key{
			{Provider: "0", Key: "k", Use: metrics.UseWrite, State: "healthy"},
			{Provider: "0", Key: "k", Use: metrics.UseRead, State: "healthy"}, // with another context
			{Provider: "0", Key: "alias/a", Use: metrics.UseRead, State: "refused", Code: "KMS0102", Deletion: until},
			{Provider: "0", Key: "alias/a", Use: metrics.UseEarlier, State: "refused", Code: "KMS0102", Deletion: until.Add(-time.Hour)},
			{Provider: "0", Key: "alias/a", Use: metrics.UseEarlier, State: "refused", Code: "KMS0101"},
			{Provider: "0", Key: "alias/a", Use: metrics.UseEarlier, State: "healthy"},
		}
	})
	metrics.RegisterReload(reg, func() metrics.Reload {
		return metrics.Reload{OK: true, LastOK: time.Unix(1700000000, 0), Hash: "0123456789abcdef"}
	})
	return reg, m
}

func TestMetricsFollowTheNamingRules(t *testing.T) {
	t.Parallel()
	reg, _ := registry(t)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		// The predecessor's name, which its users' dashboards read.
		if p.Metric == "aws_encryption_provider_kms_operation_latency_ms" {
			continue
		}
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestHealthIsReadAtEachScrape(t *testing.T) {
	t.Parallel()
	reg, _ := registry(t)
	// The hash of "123", as sha256sum prints it.
	want := `# HELP aws_encryption_provider_health 1 for the state that the provider is in, 0 for the others.
# TYPE aws_encryption_provider_health gauge
aws_encryption_provider_health{provider="0",state="healthy"} 0
aws_encryption_provider_health{provider="0",state="outage"} 1
# HELP aws_encryption_provider_health_cause 1 for the code of what is wrong with the provider; absent where nothing is.
# TYPE aws_encryption_provider_health_cause gauge
aws_encryption_provider_health_cause{code="KMS0203",provider="0"} 1
aws_encryption_provider_health_cause{code="KMS0602",provider="0"} 1
# HELP aws_encryption_provider_key_id_hash 1 for the hash of the provider's key_id, in the form in which kube-apiserver exports it.
# TYPE aws_encryption_provider_key_id_hash gauge
aws_encryption_provider_key_id_hash{key_id_hash="sha256:a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998e86f7f7a27ae3",provider="0"} 1
# HELP aws_encryption_provider_outage_grace_end_timestamp_seconds When Status will report the outage that is under way; absent where none is.
# TYPE aws_encryption_provider_outage_grace_end_timestamp_seconds gauge
aws_encryption_provider_outage_grace_end_timestamp_seconds{provider="0"} 1.7e+09
# HELP aws_encryption_provider_socket_served 1 if the provider's socket is served, 0 while it cannot be had or its file is gone.
# TYPE aws_encryption_provider_socket_served gauge
aws_encryption_provider_socket_served{provider="0"} 0
`
	err := testutil.GatherAndCompare(reg, strings.NewReader(want), "aws_encryption_provider_health", "aws_encryption_provider_health_cause",
		"aws_encryption_provider_key_id_hash", "aws_encryption_provider_outage_grace_end_timestamp_seconds",
		"aws_encryption_provider_socket_served")
	if err != nil {
		t.Error(err)
	}
}

// What has the same labels is added up: a key may be listed with two contexts, and
// earlier keys of an alias have no series of their own.
func TestKeysAreCountedByNameAndUse(t *testing.T) {
	t.Parallel()
	reg, _ := registry(t)
	want := `# HELP aws_encryption_provider_key_deletion_timestamp_seconds When KMS deletes the key, where DescribeKey tells it, the first of an alias's keys; absent where no deletion is scheduled.
# TYPE aws_encryption_provider_key_deletion_timestamp_seconds gauge
aws_encryption_provider_key_deletion_timestamp_seconds{key="alias/a",provider="0"} 1.6999964e+09
# HELP aws_encryption_provider_key_health How many keys of this name and use are in the state: 1 or 0, but for the earlier keys of an alias, which are counted together.
# TYPE aws_encryption_provider_key_health gauge
aws_encryption_provider_key_health{key="alias/a",provider="0",state="healthy",use="earlier"} 1
aws_encryption_provider_key_health{key="alias/a",provider="0",state="healthy",use="read"} 0
aws_encryption_provider_key_health{key="alias/a",provider="0",state="refused",use="earlier"} 2
aws_encryption_provider_key_health{key="alias/a",provider="0",state="refused",use="read"} 1
aws_encryption_provider_key_health{key="k",provider="0",state="healthy",use="read"} 1
aws_encryption_provider_key_health{key="k",provider="0",state="healthy",use="write"} 1
aws_encryption_provider_key_health{key="k",provider="0",state="refused",use="read"} 0
aws_encryption_provider_key_health{key="k",provider="0",state="refused",use="write"} 0
# HELP aws_encryption_provider_key_health_cause How many keys of this name and use have the code as what is wrong with them; absent where nothing is.
# TYPE aws_encryption_provider_key_health_cause gauge
aws_encryption_provider_key_health_cause{code="KMS0101",key="alias/a",provider="0",use="earlier"} 1
aws_encryption_provider_key_health_cause{code="KMS0102",key="alias/a",provider="0",use="earlier"} 1
aws_encryption_provider_key_health_cause{code="KMS0102",key="alias/a",provider="0",use="read"} 1
`
	err := testutil.GatherAndCompare(reg, strings.NewReader(want), "aws_encryption_provider_key_health", "aws_encryption_provider_key_health_cause",
		"aws_encryption_provider_key_deletion_timestamp_seconds")
	if err != nil {
		t.Error(err)
	}
}

func TestReloadIsReadAtEachScrape(t *testing.T) {
	t.Parallel()
	reg, _ := registry(t)
	want := `# HELP aws_encryption_provider_config_info 1 for the first 16 digits of the SHA-256 of the configuration's file that is served.
# TYPE aws_encryption_provider_config_info gauge
aws_encryption_provider_config_info{hash="0123456789abcdef"} 1
# HELP aws_encryption_provider_config_reload_success 1 if the configuration's file was last loaded with success, 0 while it is broken or cannot be used.
# TYPE aws_encryption_provider_config_reload_success gauge
aws_encryption_provider_config_reload_success 1
# HELP aws_encryption_provider_config_reload_timestamp_seconds When the configuration that is served was loaded.
# TYPE aws_encryption_provider_config_reload_timestamp_seconds gauge
aws_encryption_provider_config_reload_timestamp_seconds 1.7e+09
`
	err := testutil.GatherAndCompare(reg, strings.NewReader(want), "aws_encryption_provider_config_info",
		"aws_encryption_provider_config_reload_success", "aws_encryption_provider_config_reload_timestamp_seconds")
	if err != nil {
		t.Error(err)
	}
}

// Name, labels and buckets are what the predecessor's dashboards and alerts read.
func TestPredecessorsMetricsAreExact(t *testing.T) {
	t.Parallel()
	reg, m := registry(t)
	m.Call("1", "v1", "decrypt", "arn:j").Done("bad_data", false, 5*time.Millisecond)
	want := `# HELP aws_encryption_provider_kms_operation_latency_ms Response latency in milliseconds for aws encryption provider kms operation 
# TYPE aws_encryption_provider_kms_operation_latency_ms histogram
`
	for _, series := range []string{
		`key_arn="arn:j",operation="decrypt",status="failure-corruption",version="v1"`,
		`key_arn="arn:k",operation="encrypt",status="success",version="v2"`,
	} {
		sum := "5"
		counts := []string{"0", "0"}
		if strings.Contains(series, "arn:k") {
			sum, counts = "3", []string{"0", "1"}
		}
		for i, le := range []string{"2", "4", "8", "16", "32", "64", "128", "256", "512", "1024", "2048", "4096", "8192", "16384", "+Inf"} {
			n := "1"
			if i < len(counts) {
				n = counts[i]
			}
			want += `aws_encryption_provider_kms_operation_latency_ms_bucket{` + series + `,le="` + le + `"} ` + n + "\n"
		}
		want += `aws_encryption_provider_kms_operation_latency_ms_sum{` + series + `} ` + sum + "\n"
		want += `aws_encryption_provider_kms_operation_latency_ms_count{` + series + `} 1` + "\n"
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "aws_encryption_provider_kms_operation_latency_ms"); err != nil {
		t.Error(err)
	}
}
