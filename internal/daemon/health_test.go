package daemon

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// nowhere is an address that refuses connections.
const nowhere = "http://127.0.0.1:1"

// waitFor polls a path until its answer matches, and returns that.
func (r *running) waitFor(path string, code int, pattern string) string {
	r.t.Helper()
	want := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(testkit.Patience); ; time.Sleep(5 * time.Millisecond) {
		status, body := r.get(path)
		if status == code && want.MatchString(body) {
			return body
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s is %d %s\nwant %d and a match of %s", path, status, body, code, pattern)
		}
	}
}

func TestLivenessAsksForNothingOfKMS(t *testing.T) {
	for name, c := range map[string]struct {
		setup  setup
		fault  kmsemulator.FaultKind
		unread string // what /readyz says
	}{
		"hangs":              {fault: kmsemulator.Hang, unread: `^provider 0: unknown since [0-9TZ:-]{20}: KMS0203: `},
		"throttles":          {fault: kmsemulator.Throttle, unread: `^provider 0: unknown since [0-9TZ:-]{20}: KMS0201: `},
		"expired":            {fault: kmsemulator.ExpiredToken, unread: `^provider 0: unknown since [0-9TZ:-]{20}: KMS0302: `},
		"refuses to connect": {setup: setup{endpoint: nowhere}, unread: `^provider 0: unknown since [0-9TZ:-]{20}: KMS0204: `},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := c.setup
			s.kms = emulator(t, c.fault)
			r := run(t, s)
			r.waitFor("/readyz", http.StatusServiceUnavailable, c.unread)
			r.waitFor("/readyz/0", http.StatusServiceUnavailable, c.unread)
			for _, path := range []string{"/livez", "/healthz"} {
				if code, body := r.get(path); code != http.StatusOK || body != "ok\n" {
					t.Errorf("%s: %d %q, want 200 ok", path, code, body)
				}
			}
			if err := ask(context.Background(), r.path); err != nil {
				t.Errorf("the socket: %v, want it served", err)
			}
		})
	}
}

func TestStartWithoutCredentialsRecoversByItself(t *testing.T) {
	file := filepath.Join(testkit.Directory(t), "credentials")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	r := run(t, setup{})
	r.waitFor("/readyz", http.StatusServiceUnavailable, "KMS0301: .*: no AWS credentials were found")
	if code, body := r.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s, want 200", code, body)
	}
	c := r.kms.Credential
	text := "[default]\naws_access_key_id=" + c.AccessKeyID + "\naws_secret_access_key=" + c.SecretAccessKey + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.ready()
	r.encrypts(r.client())
}

func TestStartBeforeKMSRecoversByItself(t *testing.T) {
	t.Parallel()
	s := emulator(t, "")
	remove := s.Inject(kmsemulator.Fault{Kind: kmsemulator.Reset})
	r := run(t, setup{kms: s})
	r.waitFor("/readyz", http.StatusServiceUnavailable, "^provider 0: unknown since")
	remove()
	r.ready()
	r.encrypts(r.client())
}

func TestReadinessBeforeTheFirstAnswer(t *testing.T) {
	t.Parallel()
	r := run(t, setup{kms: emulator(t, kmsemulator.Hang), args: []string{"--kms-timeout=10m"}}).serving()
	r.waitFor("/readyz", http.StatusServiceUnavailable, "^provider 0: unknown since [0-9TZ:-]{20}: KMS0210 .*: KMS has not been reached since this process started")
}

func TestReadinessTellsSinceWhenASocketIsNotServed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testkit.Directory(t), "s")
	holding(t, path)
	timing := shortTiming()
	timing.holderWait = 10 * testkit.Patience
	before := time.Now().Truncate(time.Second)
	r := run(t, setup{listen: path, time: timing})
	line := r.waitFor("/readyz", http.StatusServiceUnavailable, `^provider 0: its socket is not served yet, since the start at [0-9TZ:-]{20}\n$`)
	_, text, _ := strings.Cut(line, " at ")
	since, err := time.Parse(time.RFC3339, strings.TrimSpace(text))
	if err != nil || since.Before(before) || since.After(time.Now()) {
		t.Errorf("since %s (%v), want since the start, after %s", since, err, before)
	}
}

func TestReadinessTellsARefusalAndItsEnd(t *testing.T) {
	t.Parallel()
	s := emulator(t, "")
	other, err := s.CreateKey("us-west-2", kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, setup{kms: s, args: []string{"--key=" + other, "--listen=" + filepath.Join(testkit.Directory(t), "s")}}).ready()
	if err := s.DisableKey(r.key); err != nil {
		t.Fatal(err)
	}
	_, _ = r.client().Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: []byte("k")}) // traffic tells
	refused := `^provider 0: refused since [0-9TZ:-]{20}: KMS0101: .*with ` + regexp.QuoteMeta(r.key) + `.*DisabledException`
	r.waitFor("/readyz", http.StatusServiceUnavailable, refused)
	r.waitFor("/readyz", http.StatusServiceUnavailable, `(?m)^provider 1: ok, key_id `+regexp.QuoteMeta(other))
	r.waitFor("/readyz/0", http.StatusServiceUnavailable, refused)
	r.waitFor("/readyz/1", http.StatusOK, `^provider 1: ok, key_id `+regexp.QuoteMeta(other)+`\?material=[0-9a-f]{64}\n$`)
	if code, body := r.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s, want 200", code, body)
	}
	if got := r.metric(`aws_encryption_provider_health{provider="0",state="refused"}`); got != "1" {
		t.Errorf("the health gauge of refused is %q, want 1", got)
	}
	if got := r.metric(`aws_encryption_provider_health_cause{code="KMS0101",provider="0"}`); got != "1" {
		t.Errorf("the gauge of the cause is %q, want 1", got)
	}
	if err := s.EnableKey(r.key); err != nil {
		t.Fatal(err)
	}
	r.ready()
}

func TestReadinessTellsAnOutageAndTheEndOfItsGrace(t *testing.T) {
	t.Parallel()
	s := emulator(t, "")
	r := run(t, setup{kms: s, args: []string{"--outage-grace=7m"}}).ready()
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Unavailable})
	_, _ = r.client().Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: []byte("k")})
	r.waitFor("/readyz", http.StatusOK, `^provider 0: ok, but a call failed since it last worked: KMS0202|KMS0207`)
	line := r.waitFor("/readyz", http.StatusServiceUnavailable, `^provider 0: outage since [0-9TZ:-]{20}: KMS020[27]: .*; Status stays ok until [0-9TZ:-]{20}\n$`)
	_, until, _ := strings.Cut(line, "Status stays ok until ")
	ends, err := time.Parse(time.RFC3339, strings.TrimSpace(until))
	if left := time.Until(ends); err != nil || left < 5*time.Minute || left > 7*time.Minute {
		t.Errorf("the grace of 7m ends in %s (%v)", left, err)
	}
	status, err := r.client().Status(context.Background(), &v2.StatusRequest{})
	if err != nil || status.Healthz != "ok" {
		t.Errorf("Status within the grace: %v, %v; want ok", status, err)
	}
}

func TestReadinessTellsThatTheGraceIsOver(t *testing.T) {
	t.Parallel()
	s := emulator(t, "")
	r := run(t, setup{kms: s, args: []string{"--outage-grace=0s"}}).ready()
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Unavailable})
	_, _ = r.client().Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: []byte("k")})
	r.waitFor("/readyz", http.StatusServiceUnavailable, `^provider 0: outage since [0-9TZ:-]{20}: KMS020[27]: .*; Status has not been ok since [0-9TZ:-]{20}\n$`)
}

func TestUnknownProviderHasNoReadiness(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).ready()
	for _, path := range []string{"/readyz/1", "/readyz/00", "/readyz/", "/readyz/0/", "/readyz/x%2fy"} {
		if code, body := r.get(path); code != http.StatusNotFound || !strings.Contains(body, "numbered from 0") {
			t.Errorf("%s: %d %q, want 404 and how providers are named", path, code, body)
		}
	}
}

func TestHealthPathsAreTheOperatorsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		healthz, livez string
		gone           []string
	}{
		"other":       {"/h", "/l", []string{"/healthz", "/livez", "/h/", "/"}},
		"equal":       {"/same", "/same", []string{"/healthz", "/same/x"}},
		"root":        {"/", "/livez", []string{"/healthz", "/x"}},
		"final slash": {"/health/", "/livez", []string{"/health", "/health/x"}},
		"nested":      {"/a/b/c", "/a/b", []string{"/a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, setup{args: []string{"--healthz-path=" + c.healthz, "--livez-path=" + c.livez}})
			for _, path := range []string{c.healthz, c.livez} {
				if code, _ := r.get(path); code != http.StatusOK {
					t.Errorf("%s: %d, want 200", path, code)
				}
			}
			for _, path := range c.gone {
				if code, body := r.get(path); code != http.StatusNotFound || !strings.Contains(body, c.livez) {
					t.Errorf("%s: %d %q, want 404 and where health is", path, code, body)
				}
			}
		})
	}
}

func TestHealthIsReadOnly(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).serving()
	r.waitFor("/livez", http.StatusOK, "ok")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for method, want := range map[string]int{http.MethodHead: http.StatusOK, http.MethodPost: http.StatusMethodNotAllowed, http.MethodDelete: http.StatusMethodNotAllowed} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.HealthAddress()+"/livez", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s /livez: %d, want %d", method, resp.StatusCode, want)
		}
	}
}

func TestTakenHealthPortIsTriedAgainWhileSocketsServe(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	r := run(t, setup{args: []string{"--health-port=" + l.Addr().String()}})
	testkit.Until(t, "the failure is logged", func() bool { return r.log.Has("health and metrics cannot be served yet") })
	r.encrypts(r.client())
	if got := r.HealthAddress(); got != "" {
		t.Errorf("health is said to be served at %s, which is taken", got)
	}
	time.Sleep(5 * shortTiming().portRetry) // more tries
	if n := strings.Count(r.log.String(), "cannot be served yet"); n != 1 {
		t.Errorf("the failure is logged %d times, want once", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r.ready()
}

func TestHealthAnswersAtOnceWhileKMSHangs(t *testing.T) {
	t.Parallel()
	s := emulator(t, "")
	r := run(t, setup{kms: s, args: []string{"--kms-timeout=10m"}}).ready()
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
	c := r.client()
	ctx, cancel := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	for range 64 {
		callers.Go(func() { _, _ = c.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("k")}) })
	}
	testkit.Until(t, "many calls hang", func() bool { return s.Calls("Encrypt") > 64 })
	const atOnce = testkit.Patience / 4 // what hangs does so for ten minutes
	for _, path := range []string{"/livez", "/healthz", "/readyz", "/readyz/0", "/metrics"} {
		began := time.Now()
		code, _ := r.get(path)
		if took := time.Since(began); took > atOnce || code == 0 {
			t.Errorf("%s took %s, want at most %s", path, took, atOnce)
		}
	}
	began := time.Now()
	if _, err := c.Status(ctx, &v2.StatusRequest{}); err != nil || time.Since(began) > atOnce {
		t.Errorf("Status took %s (%v), want at most %s", time.Since(began), err, atOnce)
	}
}

func TestLivenessFailsWhenTheProcessDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).ready()
	r.current.Load().providers[0].at.server.Stop() // its file stays, and nobody is behind it
	want := regexp.QuoteMeta("provider 0 does not answer on its socket: asking " + r.path + " for its version: ")
	r.waitFor("/livez", http.StatusInternalServerError, "^"+want)
	r.waitFor("/healthz", http.StatusInternalServerError, "^"+want)
	testkit.Until(t, "it is logged", func() bool { return r.log.Has("this process does not answer on its own socket") })
	time.Sleep(10 * shortTiming().answer) // more questions
	if n := strings.Count(r.log.String(), "does not answer on its own"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

func TestSocketOfAnyNameIsAsked(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a%20b", "a b", "a#b?c", "ü"} {
		path := filepath.Join(testkit.Directory(t), name)
		r := run(t, setup{listen: path}).ready()
		if err := ask(context.Background(), path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.shutdown()
	}
}
