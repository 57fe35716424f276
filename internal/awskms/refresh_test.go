package awskms_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A gate stands before the emulator: it knows who signed the last request, and
// may deny a caller everything, as IAM does.
type gate struct {
	url string

	mu       sync.Mutex
	last     string
	requests int
	denied   map[string]string // access key → error code
}

func newGate(t *testing.T, s *kmstest.Server) *gate {
	t.Helper()
	g := &gate{denied: map[string]string{}}
	server := s.Server()
	inner := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		signer, _, _ := strings.Cut(rest, "/")
		g.mu.Lock()
		code := g.denied[signer]
		if signer != "" {
			g.last = signer
			g.requests++
		}
		g.mu.Unlock()
		if code == "" {
			inner.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"__type":"` + code + `","Message":"no"}`))
	})
	g.url = serve(t, server)
	return g
}

func (g *gate) deny(accessKey, code string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.denied[accessKey] = code
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests
}

func (g *gate) signer() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// fromFile makes the credentials come from a file, which the returned function
// replaces.
func fromFile(t *testing.T) (path string, write func(text string)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
	return path, func(text string) { replace(t, path, []byte(text)) }
}

func replace(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func pair(c kmsemulator.Credential) string {
	return fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", c.AccessKeyID, c.SecretAccessKey)
}

// another is a second pair, which the emulator is told of.
func another(s *kmstest.Server) kmsemulator.Credential {
	c := kmsemulator.Credential{AccessKeyID: "AKIASECOND", SecretAccessKey: "another secret"}
	s.AddCredential(c)
	return c
}

// wantSigner calls until the emulator sees who is wanted, and no call may fail.
func wantSigner(t *testing.T, c *awskms.Client, g *gate, key, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		mustSeal(t, c, key)
		switch {
		case g.signer() == want:
			return
		case time.Now().After(deadline):
			t.Fatalf("signed by %s, want %s", g.signer(), want)
		}
	}
}

// noticed are the two ways in which a change of files is found.
func noticed(conns *awskms.Connections, c *awskms.Client) map[string]func() {
	return map[string]func(){"on request": conns.Refresh, "by itself": func() { awskms.LookAgain(c) }}
}

func TestReplacedCredentialsFileIsTakenOver(t *testing.T) {
	s, key := start(t)
	first, second := s.Credential, another(s)
	_, write := fromFile(t)
	write(pair(first))
	g := newGate(t, s)
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := newClient(t, awskms.Options{Timing: awskms.AtOnce(), Connections: conns, Endpoint: g.url})
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for name, notice := range noticed(conns, c) {
		t.Log(name)
		for _, now := range []kmsemulator.Credential{second, first} {
			write(pair(now))
			notice()
			wantSigner(t, c, g, key, now.AccessKeyID)
		}
	}
	close(stop)
	callers.Wait()
}

// Nothing is looked at in between: the refusal itself leads to the new file.
func TestKeyRevokedWithItsFileFailsNoCall(t *testing.T) {
	s, key := start(t)
	_, write := fromFile(t)
	write(pair(s.Credential))
	c := newClient(t, awskms.Options{})
	mustSeal(t, c, key)
	write(pair(another(s)))
	revoked := s.Credential
	revoked.Expires = time.Now().Add(-time.Hour)
	s.AddCredential(revoked)
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			if _, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
}

func TestBrokenCredentialsFileLeavesWhatWorks(t *testing.T) {
	s, key := start(t)
	first, second := s.Credential, another(s)
	unknown := kmsemulator.Credential{AccessKeyID: "AKIAUNKNOWN", SecretAccessKey: "s"}
	denied := kmsemulator.Credential{AccessKeyID: "AKIADENIED", SecretAccessKey: "s"}
	foreign := kmsemulator.Credential{AccessKeyID: "AKIAFOREIGN", SecretAccessKey: "s"}
	s.AddCredential(denied)
	s.AddCredential(foreign)
	path, write := fromFile(t)
	g := newGate(t, s)
	g.deny(denied.AccessKeyID, "AccessDeniedException")
	g.deny(foreign.AccessKeyID, "NotFoundException")
	for name, broken := range map[string]string{
		"empty":                         "",
		"garbage":                       "\x00\x01[[[",
		"half-written":                  "[default]\naws_access_key_id = " + second.AccessKeyID + "\n",
		"another profile":               strings.Replace(pair(second), "default", "other", 1),
		"a wrong secret":                strings.Replace(pair(first), first.SecretAccessKey, "wrong", 1),
		"a key that AWS does not know":  pair(unknown),
		"a key that may not use KMS":    pair(denied),
		"a key of another account":      pair(foreign),
		"a session that has no session": pair(second) + "credential_source = Nonsense\nrole_arn = arn:aws:iam::111122223333:role/r\n",
	} {
		var log bytes.Buffer
		conns := awskms.NewConnections()
		write(pair(first))
		c := newClient(t, awskms.Options{Timing: awskms.AtOnce(), Connections: conns, Endpoint: g.url, Log: slog.New(slog.NewTextHandler(&log, nil))})
		mustSeal(t, c, key)
		write(broken)
		for _, notice := range noticed(conns, c) {
			notice()
			before := g.count()
			for range 50 {
				if _, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			if n := g.count() - before; n > 55 {
				t.Errorf("%s: %d requests for 50 calls, want what is refused tried once", name, n)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		conns.Refresh()
		mustSeal(t, c, key)
		write(pair(second))
		conns.Refresh()
		wantSigner(t, c, g, key, second.AccessKeyID)
		conns.Close()
		if lines := strings.Count(log.String(), "level=WARN"); lines != 1 {
			t.Errorf("%s: %d warnings, want one:\n%s", name, lines, log.String())
		}
		for _, secretWord := range []string{first.SecretAccessKey, second.SecretAccessKey} {
			if strings.Contains(log.String(), secretWord) {
				t.Errorf("%s: the log shows a secret: %s", name, log.String())
			}
		}
	}
}

// A key that was just made is written to the file before all of AWS knows it.
func TestKeyThatAWSLearnsOfLaterIsTakenThen(t *testing.T) {
	s, key := start(t)
	_, write := fromFile(t)
	write(pair(s.Credential))
	g := newGate(t, s)
	c := newClient(t, awskms.Options{Timing: awskms.AtOnce(), Endpoint: g.url})
	mustSeal(t, c, key)
	late := kmsemulator.Credential{AccessKeyID: "AKIALATE", SecretAccessKey: "s"}
	write(pair(late))
	awskms.LookAgain(c)
	wantSigner(t, c, g, key, s.Credential.AccessKeyID)
	s.AddCredential(late)
	awskms.LookAgain(c)
	wantSigner(t, c, g, key, late.AccessKeyID)
}

// A rotation is a Client that has called with credentials from a file, and
// others that may take their place.
type rotation struct {
	kms     *kmstest.Server
	key     string
	gate    *gate
	c       *awskms.Client
	second  kmsemulator.Credential
	replace func(kmsemulator.Credential)
}

func rotatingCredentials(t *testing.T) rotation {
	t.Helper()
	s, key := start(t)
	r := rotation{kms: s, key: key, second: another(s), gate: newGate(t, s)}
	_, write := fromFile(t)
	write(pair(s.Credential))
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	r.c = newClient(t, awskms.Options{Timing: awskms.AtOnce(), Connections: conns, Endpoint: r.gate.url})
	r.replace = func(c kmsemulator.Credential) {
		write(pair(c))
		conns.Refresh()
	}
	mustSeal(t, r.c, key)
	return r
}

// The credentials of before are for the trial of the new ones, and no longer.
func TestWhatWorkedIsNotLeftForWhatWasBefore(t *testing.T) {
	r := rotatingCredentials(t)
	r.replace(r.second)
	wantSigner(t, r.c, r.gate, r.key, r.second.AccessKeyID)
	r.gate.deny(r.second.AccessKeyID, "AccessDeniedException")
	if _, err := r.c.Encrypt(t.Context(), awskms.Call{}, r.key, secret.Bytes("seed")); cause.Of(err).Code != cause.AccessDenied || r.gate.signer() != r.second.AccessKeyID {
		t.Errorf("got %v, last signed by %s; want %s under the new key alone", err, r.gate.signer(), cause.AccessDenied)
	}
}

// A source that is no file is asked again where neither what it gave last nor
// what it gave before is taken.
func TestSourceIsAskedAgainWhereOldAndNewAreRefused(t *testing.T) {
	s, key := start(t)
	dir := t.TempDir()
	says := func(c kmsemulator.Credential) {
		replace(t, filepath.Join(dir, "output"), fmt.Appendf(nil, `{"Version":1,"AccessKeyId":%q,"SecretAccessKey":%q}`, c.AccessKeyID, c.SecretAccessKey))
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("[default]\ncredential_process = cat "+dir+"/output\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := newClient(t, awskms.Options{Connections: conns})
	says(s.Credential)
	mustSeal(t, c, key)
	unknown := kmsemulator.Credential{AccessKeyID: "AKIAUNKNOWN", SecretAccessKey: "s"}
	says(unknown)
	conns.Refresh()
	mustSeal(t, c, key)
	awskms.LookedUp(c) // what was found is not used yet
	revoked := s.Credential
	revoked.Expires = time.Now().Add(-time.Hour)
	s.AddCredential(revoked)
	says(another(s))
	wantEventually(t, c, key, works)
}

// Where the old credentials are no better the new ones stay: what the file says
// counts.
func TestRefusalUnderBothKeepsTheNewCredentials(t *testing.T) {
	r := rotatingCredentials(t)
	r.kms.Deny(r.key, "Encrypt")
	r.replace(r.second)
	for range 20 {
		if _, err := r.c.Encrypt(t.Context(), awskms.Call{}, r.key, secret.Bytes("seed")); cause.Of(err).Code != cause.AccessDenied {
			t.Fatalf("got %v, want %s", err, cause.AccessDenied)
		}
	}
	r.kms.Allow(r.key, "Encrypt")
	awskms.LookAgain(r.c)
	wantSigner(t, r.c, r.gate, r.key, r.second.AccessKeyID)
}

func TestReplacedCABundleIsTakenOver(t *testing.T) {
	for _, how := range []string{"on request", "by itself", "by a handshake that failed"} {
		s := kmstest.StartTLS(t)
		s.SetEnv(t)
		key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		conns := awskms.NewConnections()
		t.Cleanup(conns.Close)
		c := newClient(t, awskms.Options{Timing: awskms.AtOnce(), Connections: conns})
		mustSeal(t, c, key)
		replace(t, s.CAFile, s.ReplaceCertificate(t))
		if notice := noticed(conns, c)[how]; notice != nil {
			notice()
		} else {
			s.Disconnect()
		}
		before := s.Handshakes()
		for deadline := time.Now().Add(20 * time.Second); s.Handshakes() == before; time.Sleep(time.Millisecond) {
			mustSeal(t, c, key)
			if time.Now().After(deadline) {
				t.Fatalf("%s: no handshake with the new certificate", how)
			}
		}
		s.Disconnect()
		mustSeal(t, c, key)
	}
}

func TestBrokenCABundleLeavesWhatWorks(t *testing.T) {
	s := kmstest.StartTLS(t)
	s.SetEnv(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := newClient(t, awskms.Options{Timing: awskms.AtOnce(), Connections: conns})
	mustSeal(t, c, key)
	for _, broken := range []string{"", "-----BEGIN CERTIFICATE-----\nMIIB", "garbage"} {
		replace(t, s.CAFile, []byte(broken))
		for _, notice := range noticed(conns, c) {
			notice()
			for range 20 {
				mustSeal(t, c, key)
			}
			s.Disconnect() // what is open already would not show it
			for range 20 {
				mustSeal(t, c, key)
			}
		}
	}
	replace(t, s.CAFile, s.ReplaceCertificate(t))
	conns.Refresh()
	s.Disconnect()
	wantEventually(t, c, key, works)
}

// What one Client may not trust is no reason to drop what others use.
func TestHandshakesThatFailDisturbNoOtherClient(t *testing.T) {
	s := kmstest.StartTLS(t)
	s.SetEnv(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	good := newClient(t, awskms.Options{Connections: conns})
	bad := newClient(t, awskms.Options{Connections: conns, Endpoint: kmstest.StartTLS(t).URL})
	mustSeal(t, good, key)
	settled(t, s.Handshakes)
	before := s.Handshakes()
	for range 20 {
		if _, err := bad.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.TLSFailed {
			t.Fatalf("got %v, want %s", err, cause.TLSFailed)
		}
		mustSeal(t, good, key)
	}
	if after := s.Handshakes(); after != before {
		t.Errorf("%d handshakes of the Client that works, want none", after-before)
	}
}

// settled waits until a count has stood still for a moment.
func settled(t *testing.T, count func() int) {
	t.Helper()
	for last, since := count(), time.Now(); time.Since(since) < 200*time.Millisecond; time.Sleep(5 * time.Millisecond) {
		if now := count(); now != last {
			last, since = now, time.Now()
		}
	}
}
