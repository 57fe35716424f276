package inquiry_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
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

// The key_id of a multi-Region key names no Region, and an operator knows the key by the
// ARN of either replica.
func TestTheKeyIDOfAReplicaIsExpectedByItsARN(t *testing.T) {
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	key, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{MultiRegion: true})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(daemontest.Directory(t), "s")
	daemontest.Start(t, daemontest.Config(t, "--key="+key, "--listen="+socket, "--health-port=127.0.0.1:0"))
	q := inquiry.Question{Socket: socket, Timeout: 3 * time.Second}
	ask(t, q, func(r *inquiry.Report) bool { return r.OK })
	for _, region := range []string{kmstest.Region, "eu-west-1", ""} {
		q.ExpectKeyID = strings.Replace(key, kmstest.Region, region, 1)
		if r := inquiry.Ask(t.Context(), q); !r.OK {
			t.Errorf("%s: %q, and it is %s", q.ExpectKeyID, r.Problems, r.KeyID)
		}
	}
	q.ExpectKeyID = strings.Replace(key, "mrk-", "mrk-f", 1)
	if r := inquiry.Ask(t.Context(), q); r.OK {
		t.Errorf("%s: %s is taken for it", q.ExpectKeyID, r.KeyID)
	}
}

// Status knows the write key alone: a key that only reads is told by the health port.
func TestHealthPortTellsOfKeysThatOnlyRead(t *testing.T) {
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	writes, reads := createKey(t, kms), createKey(t, kms)
	socket := filepath.Join(daemontest.Directory(t), "s")
	d := daemontest.Start(t, daemontest.Config(t, "--key="+writes, "--decrypt-key="+reads, "--listen="+socket, "--health-port=127.0.0.1:0"))
	kms.Deny(reads, "Decrypt")
	q := inquiry.Question{Socket: socket, Timeout: 3 * time.Second}
	ask(t, q, func(r *inquiry.Report) bool { return r.OK && len(r.Readyz) == 0 })
	q.Health = d.HealthAddress()
	r := ask(t, q, func(r *inquiry.Report) bool {
		return slices.ContainsFunc(r.Problems, func(p string) bool { return strings.HasPrefix(p, "decrypt key "+reads+" is refused: KMS0104") })
	})
	if len(r.Problems) != 1 || r.Healthz != "ok" || !strings.HasPrefix(r.Readyz[0], "provider 0: ok") || !slices.Contains(r.Readyz, "  key "+writes+" writes: healthy") {
		t.Errorf("%+v", r)
	}
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	for health, want := range map[string]string{
		strings.TrimPrefix(stranger.URL, "http://"): "answers 404 Not Found, and no provider's readiness",
		"127.0.0.1:1": "connection refused",
	} {
		q.Health = health
		if r := inquiry.Ask(t.Context(), q); len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0], "health port: ") || !strings.HasSuffix(r.Problems[0], want) {
			t.Errorf("%s: %q, want %s", health, r.Problems, want)
		}
	}
}

func createKey(t *testing.T, kms *kmstest.Server) string {
	t.Helper()
	key, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestASocketThatIsNotServedIsOneProblem(t *testing.T) {
	socket := filepath.Join(daemontest.Directory(t), "s")
	r := inquiry.Ask(t.Context(), inquiry.Question{Socket: socket, Timeout: time.Second})
	if r.OK || len(r.Problems) != 1 || r.Problems[0] != "nothing is at "+socket+": start the program, or give its --listen" {
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

func TestProcessTellsWhatItRunsWith(t *testing.T) {
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	writes, reads := createKey(t, kms), createKey(t, kms)
	socket := filepath.Join(daemontest.Directory(t), "s")
	d := daemontest.Start(t, daemontest.Config(t, "--key="+writes, "--decrypt-key="+reads, "--listen="+socket, "--health-port=127.0.0.1:0"))
	ask(t, inquiry.Question{Socket: socket, Timeout: 3 * time.Second}, func(r *inquiry.Report) bool { return r.OK && d.HealthAddress() != "" })
	p, err := inquiry.AskProcess(t.Context(), d.HealthAddress(), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s := p.On(func(path string) bool { return path == socket })
	if s == nil || s.Writes != writes || !slices.Equal(s.Reads, []string{reads}) || p.File != "" || p.Refused != "" {
		t.Errorf("%+v", p)
	}
}

// Whoever listens there may answer anything.
func TestWhatAProcessAnswersIsReadLineByLine(t *testing.T) {
	const answer = `provider aws: refused since 2026-11-25T00:03:12Z: KMS0101
  socket /run/a
  key alias/a writes: healthy
  key arn:b reads: unknown
  key  reads: x
  list below the others: arn:c
provider b: ok
configuration /etc/a b.yaml: hash 0123456789abcdef, loaded at 2026-11-25T02:49:07Z
configuration not reloaded since 2026-11-25T02:56:19Z, the running one goes on, it is tried again: /etc/a b.yaml:3: nonsense: unknown field
something else
`
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
	defer stranger.Close()
	got, err := inquiry.AskProcess(t.Context(), strings.TrimPrefix(stranger.URL, "http://"), time.Second)
	want := &inquiry.Process{
		Providers: []inquiry.Served{{Socket: "/run/a", Writes: "alias/a", Reads: []string{"arn:b"}}, {}},
		File:      "/etc/a b.yaml", Hash: "0123456789abcdef", Refused: "/etc/a b.yaml:3: nonsense: unknown field",
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if (*inquiry.Process)(nil).On(func(string) bool { return true }) != nil {
		t.Error("no process has a provider")
	}
}
