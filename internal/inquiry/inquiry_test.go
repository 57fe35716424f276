package inquiry_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
)

// ask asks until the report is as wanted.
func ask(t *testing.T, q inquiry.Question, want func(*inquiry.Report) bool) *inquiry.Report {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r := inquiry.Ask(t.Context(), q)
		if want(r) {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %+v", r)
		}
	}
}

func TestAnswersOfAPluginThatIsWell(t *testing.T) {
	_, socket, key := daemontest.Running(t)
	r := ask(t, inquiry.Question{Socket: socket, Timeout: 3 * time.Second, ExpectKeyID: key}, func(r *inquiry.Report) bool { return r.OK })
	if !strings.HasPrefix(r.KeyID, key) || !strings.HasPrefix(r.KeyIDHash, "sha256:") || r.V2RoundTrip <= 0 || r.V1RoundTrip <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestEachProblemIsNamed(t *testing.T) {
	s, socket, key := daemontest.Running(t)
	q := inquiry.Question{Socket: socket, Timeout: 3 * time.Second}
	ask(t, q, func(r *inquiry.Report) bool { return r.OK })

	q.ExpectKeyID = "another"
	if r := inquiry.Ask(t.Context(), q); len(r.Problems) != 1 || r.Problems[0] != `key_id: want "another"` {
		t.Errorf("another key: %q", r.Problems)
	}
	if err := s.DisableKey(key); err != nil {
		t.Fatal(err)
	}
	q.ExpectKeyID = ""
	r := inquiry.Ask(t.Context(), q)
	if text := strings.Join(r.Problems, "\n"); r.OK || !strings.Contains(text, "v2 Encrypt: KMS0101") || !strings.Contains(text, "v1 Encrypt: KMS0101") {
		t.Errorf("a disabled key: %q", r.Problems)
	}
}

func TestASocketThatIsNotServedIsOneProblem(t *testing.T) {
	socket := filepath.Join(daemontest.Directory(t), "s")
	r := inquiry.Ask(t.Context(), inquiry.Question{Socket: socket, Timeout: time.Second})
	if r.OK || len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0], "Status: ") {
		t.Errorf("%+v", r)
	}
}

func TestASilentSocketTakesTheTimeOfItsCalls(t *testing.T) {
	socket := filepath.Join(daemontest.Directory(t), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	start := time.Now()
	r := inquiry.Ask(t.Context(), inquiry.Question{Socket: socket, Timeout: 50 * time.Millisecond})
	if r.OK || time.Since(start) > 5*time.Second {
		t.Errorf("%+v after %s", r, time.Since(start))
	}
}
