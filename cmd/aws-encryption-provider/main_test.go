package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// asProgram makes the test binary the program itself.
const asProgram = "AEP_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what should take moments.
const patience = time.Minute

// A program is one run of the command.
type program struct {
	t        testing.TB
	cmd      *exec.Cmd
	out, err *pageTurner
	ended    chan struct{} // closed when it has ended
}

// A pageTurner collects what is written while a test reads it.
type pageTurner struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *pageTurner) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *pageTurner) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// launch runs the command with nothing of this machine's AWS settings. env comes
// last. It ends with the test.
func launch(t testing.TB, env []string, args ...string) *program {
	t.Helper()
	p := command(t, env, args...)
	p.start()
	return p
}

func command(t testing.TB, env []string, args ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.CommandContext(context.Background(), exe, args...), out: &pageTurner{}, err: &pageTurner{}, ended: make(chan struct{})}
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "AWS_") {
			p.cmd.Env = append(p.cmd.Env, pair)
		}
	}
	p.cmd.Env = append(append(p.cmd.Env, asProgram+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p
}

func (p *program) start() {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exits waits for the end and fails the test unless the code is want.
func (p *program) exits(want int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("still running after %s\n%s%s", patience, p.out, p.err)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != want {
		p.t.Errorf("exit code %d (%s), want %d\n%s%s", got, p.cmd.ProcessState, want, p.out, p.err)
	}
}

func (p *program) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// introduces waits until dev has printed all that it prints, and returns that.
func (p *program) introduces() string {
	p.t.Helper()
	const last = "Ctrl-C ends it."
	until(p.t, "it has printed everything", func() bool { return strings.Contains(p.out.String(), last) || !p.running() })
	if !strings.Contains(p.out.String(), last) {
		p.t.Fatalf("ended without printing %q\n%s%s", last, p.out, p.err)
	}
	return p.out.String()
}

// logs waits until standard error contains a text.
func (p *program) logs(text string) {
	p.t.Helper()
	until(p.t, "it logs "+text, func() bool { return strings.Contains(p.err.String(), text) || !p.running() })
	if !strings.Contains(p.err.String(), text) {
		p.t.Fatalf("ended without logging %q\n%s%s", text, p.out, p.err)
	}
}

func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// directory makes one whose name is short enough for sockets.
func directory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "aep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func socketIn(t testing.TB) string {
	t.Helper()
	return filepath.Join(directory(t), "s")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func dial(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := unixsocket.Connect(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// seal encrypts over a socket, once somebody serves it.
func seal(t testing.TB, path string, plaintext []byte) *v2.EncryptResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := v2.NewKeyManagementServiceClient(dial(t, path)).Encrypt(ctx, &v2.EncryptRequest{Plaintext: plaintext, Uid: "u"}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatalf("Encrypt over %s: %v", path, err)
	}
	return resp
}

func open(t testing.TB, path string, sealed *v2.EncryptResponse) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := v2.NewKeyManagementServiceClient(dial(t, path)).Decrypt(ctx, &v2.DecryptRequest{
		Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "u",
	}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatalf("Decrypt over %s: %v", path, err)
	}
	return resp.Plaintext
}

func key(t testing.TB, s *kmstest.Server) string {
	t.Helper()
	arn, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return arn
}

// fetch returns the body of an HTTP address.
func fetch(t testing.TB, url string) (code int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// healthOf returns the address of health and metrics, as the log names it.
func (p *program) healthOf() string {
	p.t.Helper()
	p.logs(`"msg":"serving health and metrics","address":"`)
	_, rest, _ := strings.Cut(p.err.String(), `"msg":"serving health and metrics","address":"`)
	addr, _, _ := strings.Cut(rest, `"`)
	return fmt.Sprintf("http://%s", addr)
}
