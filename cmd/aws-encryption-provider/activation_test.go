package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A socketUnit is what systemd does for a .socket unit: it listens, and hands
// what it listens on to each process of the service.
type socketUnit struct {
	t    testing.TB
	path string
	file *os.File
}

func newSocketUnit(t testing.TB) *socketUnit {
	t.Helper()
	u := &socketUnit{t: t, path: socketIn(t)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: u.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(u.path, 0o600); err != nil {
		t.Fatal(err)
	}
	if u.file, err = l.File(); err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	t.Cleanup(func() { _ = u.file.Close() })
	return u
}

// launch runs the command as systemd would. The shell is there since LISTEN_PID
// has to be the program's own.
func (u *socketUnit) launch(env []string, args ...string) *program {
	u.t.Helper()
	p := command(u.t, append(env, "LISTEN_FDS=1"), args...)
	p.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, p.cmd.Path}, args...)
	shell, err := exec.LookPath("sh")
	if err != nil {
		u.t.Fatal(err)
	}
	p.cmd.Path, p.cmd.ExtraFiles = shell, []*os.File{u.file}
	p.start()
	return p
}

// An apiServer calls as an API server does, over one connection, and never retries.
type apiServer struct {
	v1      v1beta1.KeyManagementServiceClient
	v2      v2.KeyManagementServiceClient
	calls   atomic.Int64
	longest atomic.Int64 // call
}

func newAPIServer(t testing.TB, path string) *apiServer {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &apiServer{v1: v1beta1.NewKeyManagementServiceClient(conn), v2: v2.NewKeyManagementServiceClient(conn)}
}

// run calls until ctx ends, and returns the first error.
func (a *apiServer) run(ctx context.Context) error {
	for i := 0; ctx.Err() == nil; i++ {
		for _, call := range []func(context.Context) error{a.status, a.roundTripV2, a.roundTripV1} {
			began := time.Now()
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			err := call(limited)
			cancel()
			if err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			a.calls.Add(1)
			a.longest.Store(max(a.longest.Load(), int64(time.Since(began))))
		}
	}
	return nil
}

func (a *apiServer) status(ctx context.Context) error {
	resp, err := a.v2.Status(ctx, &v2.StatusRequest{})
	if err == nil && resp.Healthz != "ok" {
		err = errors.New(resp.Healthz)
	}
	return err
}

func (a *apiServer) roundTripV2(ctx context.Context) error {
	sealed, err := a.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("seed"), Uid: "u"})
	if err != nil {
		return err
	}
	_, err = a.v2.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "u"})
	return err
}

func (a *apiServer) roundTripV1(ctx context.Context) error {
	sealed, err := a.v1.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: []byte("dek")})
	if err != nil {
		return err
	}
	_, err = a.v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: sealed.Cipher})
	return err
}

// A crowd are API servers that call all the time, until the end of the test.
type crowd struct {
	t      testing.TB
	all    []*apiServer
	stop   context.CancelFunc
	work   sync.WaitGroup
	failed chan error
}

func newCrowd(t testing.TB, path string, callers int) *crowd {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &crowd{t: t, stop: stop, all: make([]*apiServer, callers), failed: make(chan error, callers)}
	t.Cleanup(stop)
	for i := range c.all {
		c.all[i] = newAPIServer(t, path)
		c.work.Go(func() {
			if err := c.all[i].run(ctx); err != nil {
				c.failed <- err
			}
		})
	}
	return c
}

// done is how many calls have succeeded, and how long the longest took.
func (c *crowd) done() (calls int64, longest time.Duration) {
	for _, a := range c.all {
		calls += a.calls.Load()
		longest = max(longest, time.Duration(a.longest.Load()))
	}
	return calls, longest
}

// calls waits until so many more calls have succeeded, or one has failed.
func (c *crowd) calls(more int) {
	c.t.Helper()
	before, _ := c.done()
	until(c.t, "calls succeed", func() bool { n, _ := c.done(); return n >= before+int64(more) || len(c.failed) > 0 })
}

// end fails the test where a call failed.
func (c *crowd) end() {
	c.t.Helper()
	c.stop()
	c.work.Wait()
	close(c.failed)
	for err := range c.failed {
		c.t.Errorf("a call failed: %v", err)
	}
	calls, longest := c.done()
	c.t.Logf("%d callers: %d calls, the longest waited %s", len(c.all), calls, longest)
}

// A process that is told to end before its first contact answers those that wait
// for that.
func TestQuickRestartsFailNoCall(t *testing.T) {
	const restarts, callers = 4, 16
	s := kmstest.Start(t)
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 100 * time.Millisecond})
	u := newSocketUnit(t)
	args := []string{"--key=" + key(t, s), "--listen=" + u.path, "--health-port=127.0.0.1:0"}
	p := u.launch(s.Env(), args...)
	seal(t, u.path, []byte("ready"))
	c := newCrowd(t, u.path, callers)
	c.calls(callers)
	for range restarts {
		p.signal(syscall.SIGTERM)
		p.exits(0)
		p = u.launch(s.Env(), args...)
		p.logs(`"msg":"serving"`)
	}
	c.calls(callers)
	c.end()
}

func TestUpgradeThroughSocketActivationFailsNoCall(t *testing.T) {
	const restarts, callers = 20, 16
	s := kmstest.Start(t)
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 10 * time.Millisecond})
	u := newSocketUnit(t)
	args := []string{"--key=" + key(t, s), "--listen=" + u.path, "--health-port=127.0.0.1:0", "--log-level=warn"}
	p := u.launch(s.Env(), args...)
	seal(t, u.path, []byte("ready"))

	c := newCrowd(t, u.path, callers)
	for i := range restarts {
		c.calls(10 * callers)
		p.signal(syscall.SIGTERM)
		p.exits(0)
		if log := withoutSlowDisk(p.err.String()); log != "" {
			t.Errorf("restart %d: it logged %s", i, log)
		}
		if i%5 == 4 {
			time.Sleep(500 * time.Millisecond) // a service that starts late
		}
		p = u.launch(s.Env(), args...)
	}
	c.calls(10 * callers) // the last one serves too
	c.end()
	if !exists(u.path) {
		t.Error("the process removed a socket that is not its own")
	}
}

// withoutSlowDisk leaves out of a log what a disk has to do with that others keep busy:
// that what is known of a key could not be kept in time.
func withoutSlowDisk(log string) string {
	var rest strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"wait":"file"`) && !strings.Contains(line, "file left behind") {
			rest.WriteString(line)
		}
	}
	return rest.String()
}

func TestServesTheSocketOfSystemdSocketActivate(t *testing.T) {
	activate, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Fatalf("this test needs systemd-socket-activate, of Debian's package systemd: %v", err)
	}
	s := kmstest.Start(t)
	path := socketIn(t)
	args := []string{"--key=" + key(t, s), "--listen=" + path, "--health-port=127.0.0.1:0"}
	p := command(t, s.Env(), args...)
	pass := []string{"systemd-socket-activate", "--listen=" + path}
	for _, pair := range p.cmd.Env { // it hands on no variable by itself
		name, _, _ := strings.Cut(pair, "=")
		pass = append(pass, "--setenv="+name)
	}
	p.cmd.Args = append(append(pass, p.cmd.Path), args...)
	p.cmd.Path = activate
	p.start()
	until(t, "it listens", func() bool { return exists(path) })
	want := []byte("through a socket that was there before")
	if got := open(t, path, seal(t, path, want)); string(got) != string(want) {
		t.Errorf("%q went in, %q came back", want, got)
	}
	p.logs("configured_mode") // that tool makes sockets that everybody may open
	p.signal(syscall.SIGTERM)
	p.exits(0)
	if !exists(path) {
		t.Error("the process removed a socket that is not its own")
	}
}

// A serviceManager hears what is told to systemd.
type serviceManager struct {
	t     testing.TB
	path  string
	heard chan string
}

func newServiceManager(t testing.TB) *serviceManager {
	t.Helper()
	m := &serviceManager{t: t, path: socketIn(t), heard: make(chan string, 1000)}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() { // ends with the socket
		defer close(m.heard)
		buf := make([]byte, 8192)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			m.heard <- string(buf[:n])
		}
	}()
	return m
}

// hears waits until it is told what begins so.
func (m *serviceManager) hears(want string) string {
	m.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case got := <-m.heard:
			if strings.HasPrefix(got, want) {
				return got
			}
		case <-timeout:
			m.t.Fatalf("not told within %s: %s", patience, want)
		}
	}
}

// systemd ends what is not ready in time, and with it the socket that can be had.
func TestReadyThoughOneSocketOfTwoCannotBeHad(t *testing.T) {
	s := kmstest.Start(t)
	m := newServiceManager(t)
	one, two := socketIn(t), socketIn(t)
	if err := os.Mkdir(two, 0o700); err != nil {
		t.Fatal(err)
	}
	arn := key(t, s)
	p := launch(t, append(s.Env(), "NOTIFY_SOCKET="+m.path), "--key="+arn, "--listen="+one, "--key="+arn, "--listen="+two, "--health-port=127.0.0.1:0")
	m.hears("READY=1")
	m.hears("STATUS=provider 0: healthy, provider 1: healthy, its socket cannot be had (KMS0602)")
	seal(t, one, []byte("served"))
	if err := os.Remove(two); err != nil {
		t.Fatal(err)
	}
	m.hears("STATUS=provider 0: healthy, provider 1: healthy") // after ten seconds
	seal(t, two, []byte("served, too"))
	p.signal(syscall.SIGTERM)
	p.exits(0)
}

// The reason why a file is not served stands in the line of systemctl status.
func TestServiceManagerIsToldOfABrokenFile(t *testing.T) {
	s := kmstest.Start(t)
	m := newServiceManager(t)
	listen := socketIn(t)
	file := listen + ".yaml"
	text := fmt.Sprintf("apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nhealth: {address: '127.0.0.1:0'}\n"+
		"providers: [{name: aws, listen: %q, keys: [{key: %q}]}]\n", listen, key(t, s))
	write := func(text string) {
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	p := launch(t, append(s.Env(), "NOTIFY_SOCKET="+m.path), "--config="+file)
	m.hears("STATUS=provider aws: healthy")
	write(text + "unknown: field\n")
	if got := m.hears("STATUS=configuration not reloaded, the running one goes on: " + file); !strings.HasSuffix(got, "; provider aws: healthy") || strings.Contains(got, "\n") {
		t.Errorf("told %q", got)
	}
	write(text)
	m.hears("STATUS=provider aws: healthy")
	p.signal(syscall.SIGTERM)
	p.exits(0)
}

func TestTellsTheServiceManager(t *testing.T) {
	s := kmstest.Start(t)
	manager := newServiceManager(t)
	hears := func(want string) {
		t.Helper()
		if got := manager.hears(want); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	listen := socketIn(t)
	p := launch(t, append(s.Env(), "NOTIFY_SOCKET="+manager.path, "WATCHDOG_USEC="+strconv.Itoa(200_000)),
		"--key="+key(t, s), "--listen="+listen, "--health-port=127.0.0.1:0")
	hears("READY=1")
	if !exists(listen) {
		t.Error("it said that it is ready, and nobody can connect")
	}
	hears("STATUS=provider 0: healthy")
	hears("WATCHDOG=1")
	hears("WATCHDOG=1")
	s.Deny("", "")
	if newAPIServer(t, listen).roundTripV2(t.Context()) == nil {
		t.Error("a key that is denied was used")
	}
	hears("STATUS=provider 0: refused (KMS0104)")
	hears("WATCHDOG=1") // no restart would mend that
	p.signal(syscall.SIGTERM)
	hears("STOPPING=1")
	p.exits(0)
}
