package apiservers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
)

// page is what kube-apiserver 1.37 prints, shortened.
const page = `# HELP apiserver_encryption_config_controller_last_config_info [ALPHA] Information about the last applied encryption configuration
# TYPE apiserver_encryption_config_controller_last_config_info gauge
apiserver_encryption_config_controller_last_config_info{apiserver_id_hash="sha256:aa",hash="sha256:cc"} 1
apiserver_envelope_encryption_dek_cache_fill_percent 0
apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds{apiserver_id_hash="sha256:aa",key_id_hash="sha256:11",provider_name="aws",transformation_type="to_storage"} 1.7643e+09
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash="sha256:aa",key_id_hash="sha256:22",provider_name="aws"} 1.7643312005e+09
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash="sha256:aa",key_id_hash="sha256:33",provider_name="a \"b\" \\ {c}"} 1.7643312e+09 1764331200000
apiserver_request_total{code="200",resource="leases",verb="PUT"} 5
apiserver_request_total{code="409",resource="leases",verb="PUT"} 1
apiserver_request_total{code="409",resource="secrets",verb="PUT"} 1
kubernetes_build_info{git_version="v1.37.2",major="1"} 1
process_start_time_seconds 1.76433106788e+09
`

func TestReadMetrics(t *testing.T) {
	t.Parallel()
	got, err := apiservers.ReadMetrics(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1764331200, 0)
	want := apiservers.Answer{
		Process: "1.76433106788e+09", ID: "sha256:aa", Version: "v1.37.2", Config: "sha256:cc", Conflicts: true,
		Keys: []apiservers.KeyID{{Provider: "aws", Hash: "sha256:22", Seen: at.Add(500 * time.Millisecond)}, {Provider: `a "b" \ {c}`, Hash: "sha256:33", Seen: at}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err = apiservers.ReadMetrics(strings.NewReader(`apiserver_envelope_encryption_dek_cache_inter_arrival_time_seconds_count{transformation_type="from_storage"} 3`)); err != nil || !got.V1 {
		t.Errorf("KMS v1: %+v, %v", got, err)
	}
}

func TestMetricsOfAnotherFormAreRefused(t *testing.T) {
	t.Parallel()
	const status = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"
	for name, text := range map[string]string{
		"of two API servers": page + strings.ReplaceAll(page, "sha256:aa", "sha256:bb"),
		"no end of a label":  status + `{provider_name="aws`,
		"no value of one":    status + `{provider_name} 1`,
		"no value":           status + `{provider_name="aws"}`,
		"no number":          status + `{provider_name="aws"} soon`,
		"a negative time":    status + `{provider_name="aws"} -1`,
		"a line without end": status + `{provider_name="` + strings.Repeat("x", 2<<20),
		"too many keys":      strings.Repeat(status+`{provider_name="aws"} 1`+"\n", 10_001),
	} {
		if got, err := apiservers.ReadMetrics(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Whatever an address answers, it ends, and a report of it is plain ASCII.
func FuzzReadMetrics(f *testing.F) {
	f.Add(page)
	f.Add(`apiserver_encryption_config_controller_last_config_info{hash="` + "\x1b[2J\u202e" + `"} 1`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := apiservers.ReadMetrics(strings.NewReader(text))
		if err != nil {
			return
		}
		o := &apiservers.Observation{Asked: []apiservers.Asked{{Address: text, Answers: []apiservers.Answer{a, a}}}}
		r := apiservers.Judge(o, apiservers.Options{From: text})
		for _, form := range apiservers.Forms() {
			var b strings.Builder
			if err := r.Print(&b, form, true); err != nil {
				t.Fatal(err)
			}
			for _, c := range []byte(b.String()) {
				if c != '\n' && (c < ' ' || c > '~') {
					t.Fatalf("%s: %q is printed", form, c)
				}
			}
		}
	})
}
