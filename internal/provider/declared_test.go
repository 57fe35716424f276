package provider_test

import (
	"os"
	"regexp"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
)

// declaredOfThePage are the times within which docs/observability.md says that an
// outage is declared, by --kms-timeout.
func declaredOfThePage(t *testing.T) map[time.Duration]time.Duration {
	t.Helper()
	text, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[time.Duration]time.Duration{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([0-9.]+s)` \\| \\d+ [sm] \\| (\\d+) s \\| `").FindAllStringSubmatch(string(text), -1) {
		timeout, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if found[timeout], err = time.ParseDuration(m[2] + "s"); err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 2 || found[2500*time.Millisecond] == 0 {
		t.Fatalf("the page has %v, want the default --kms-timeout among several", found)
	}
	return found
}

// TestOutageIsDeclaredWithinTheTimeOfThePage tries outages that take long to see: the
// alerts, and the least grace, are reckoned from that.
func TestOutageIsDeclaredWithinTheTimeOfThePage(t *testing.T) {
	t.Parallel()
	const hair = 10 * time.Millisecond // below the limit, so that the first call of a check succeeds
	for timeout, most := range declaredOfThePage(t) {
		longest := time.Duration(0)
		for name, outage := range map[string]func(*fakeKMS){
			"fails at once":                 func(f *fakeKMS) { f.fail("Encrypt", cause.Unreachable) },
			"hangs":                         func(f *fakeKMS) { f.hang(time.Hour) },
			"is slow, and Decrypt fails":    func(f *fakeKMS) { f.hang(timeout - hair); f.fail("Decrypt", cause.Unreachable) },
			"is half as slow, and so fails": func(f *fakeKMS) { f.hang(timeout / 2); f.fail("Decrypt", cause.Unreachable) },
		} {
			for range 20 { // the time between two checks differs
				took := timeToDeclare(t, timeout, outage)
				if took > most+time.Second { // it is looked at each second
					t.Errorf("KMS %s, --kms-timeout=%v: declared %v after the last success, the page says %v", name, timeout, took, most)
				}
				longest = max(longest, took)
			}
		}
		if longest < most-10*time.Second {
			t.Errorf("--kms-timeout=%v: declared after %v at most, and the page says %v", timeout, longest, most)
		}
	}
}

func timeToDeclare(t *testing.T, timeout time.Duration, outage func(*fakeKMS)) (took time.Duration) {
	t.Helper()
	bubble(t, ringOptions{timeout: timeout, grace: time.Hour}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		outage(f)
		for range 600 {
			time.Sleep(time.Second)
			if h := p.Health(); h.State != evidence.Healthy {
				took = time.Since(h.LastOK)
				return
			}
		}
		t.Errorf("%v: no outage is declared in ten minutes", timeout)
	})
	return took
}
