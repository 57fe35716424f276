package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// roleVariable makes the test binary another process of a test: a holder of a
// socket, or a caller with a pid and a uid of its own.
const roleVariable = "DAEMON_TEST_ROLE"

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		var r role
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			panic(err)
		}
		r.play()
		return
	}
	leaveMachine()
	goleak.VerifyTestMain(m)
}

// leaveMachine makes the SDK's chain find the emulator's caller, and nothing of
// the machine that the tests run on.
func leaveMachine() {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			_ = os.Unsetenv(name)
		}
	}
	for name, value := range callerEnv() {
		_ = os.Setenv(name, value)
	}
}

// A role is what another process does. It answers on its standard output, a
// line at a time, and ends with its standard input.
type role struct {
	Do    string // "claim", "listen", "connect", "lock" or "few descriptors"
	Path  string
	Mode  uint32
	Group int // -1: the process's own
	Umask int
	Wait  time.Duration
}

func (r role) play() {
	syscall.Umask(r.Umask)
	in := bufio.NewScanner(os.Stdin)
	switch r.Do {
	case "claim":
		say(nil, "ready")
		in.Scan()
		r.claim(in)
	case "listen":
		l, err := listenUnix(context.Background(), r.Path, 0o600)
		say(err, "listening")
		in.Scan()
		_ = l.Close()
	case "connect":
		r.connect(in)
	case "few descriptors":
		say(r.startsWithFew(), "warned")
		in.Scan()
	case "lock":
		d, err := os.Open(r.Path)
		if err == nil {
			err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		}
		say(err, "locked")
		in.Scan()
	default:
		panic("no such role: " + r.Do)
	}
}

// startsWithFew starts a daemon with few descriptors, and returns an error unless
// that is told.
func (r role) startsWithFew() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 300, Max: 300}); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aep")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	none := func(string) (string, bool) { return "", false }
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse([]string{
		"--key=arn:aws:kms:us-west-2:111122223333:key/k", "--listen=" + dir + "/s", "--health-port=127.0.0.1:0", "--kms-endpoint=http://127.0.0.1:1",
	}, none)
	if err != nil {
		return err
	}
	book := &logBook{}
	Start(cfg, Options{Log: book.logger(), Version: "v", Commit: "c", GoVersion: "go"}).Shutdown(context.Background())
	if !book.has(`"limit":300`) {
		return errors.New("the log says nothing of it")
	}
	return nil
}

// claim claims the socket and accepts on it, until it is told to close.
func (r role) claim(in *bufio.Scanner) {
	t := usualTiming()
	t.holderPoll = 10 * time.Millisecond
	s := newSocket(socketOptions{
		path: r.Path, access: access{os.FileMode(r.Mode), r.Group}, log: slog.New(slog.DiscardHandler), time: t, files: usualFiles(), handed: &handed{},
	})
	err := s.claim(context.Background(), r.Wait)
	say(err, "claimed")
	if err != nil {
		return
	}
	go func() {
		for {
			conn, err := s.current().Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	in.Scan()
	s.close()
}

// connect opens a connection for each line "open", and closes the oldest for
// each line "close".
func (r role) connect(in *bufio.Scanner) {
	var open []net.Conn
	for in.Scan() {
		switch in.Text() {
		case "open":
			conn, err := greeted(r.Path)
			say(err, "in")
			if err == nil {
				open = append(open, conn)
			}
		case "silent":
			conn, err := dialUnix(r.Path)
			say(err, "connected")
			open = append(open, conn)
		case "close":
			say(open[0].Close(), "closed")
			open = open[1:]
		}
	}
}

func dialUnix(path string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(context.Background(), "unix", path)
}

// greeted connects as an HTTP/2 client, and returns once the server has
// answered the greeting: a connection that a gate closes fails.
func greeted(path string) (net.Conn, error) {
	conn, err := dialUnix(path)
	if err != nil {
		return nil, err
	}
	const preface, emptySettings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err = conn.Write([]byte(preface + emptySettings)); err == nil {
		_, err = conn.Read(make([]byte, 9))
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func say(err error, done string) {
	if err != nil {
		done = "error: " + err.Error()
	}
	_, _ = fmt.Fprintln(os.Stdout, done)
}

// A process is the other process of a test.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	in  interface{ Close() error }
	ask func(string)
	out *bufio.Scanner
}

// another starts a process that plays a role, as the user uid where that is not
// this one's. It ends with the test.
func another(t testing.TB, r role, uid int) *process {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe") // by this name any user may run it
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text), "GORACE=log_path=/dev/null", "GOCOVERDIR="+os.DevNull)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != os.Getuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out), ask: func(line string) { _, _ = fmt.Fprintln(in, line) }}
	t.Cleanup(p.kill)
	return p
}

// line returns the next line that the process writes.
func (p *process) line() string {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("the other process has ended without an answer: %v", p.out.Err())
	}
	return p.out.Text()
}

// expect asks for something, and fails the test unless the answer is want.
func (p *process) expect(ask, want string) {
	p.t.Helper()
	if ask != "" {
		p.ask(ask)
	}
	if got := p.line(); got != want {
		p.t.Fatalf("the other process, asked %q, said %q, want %q", ask, got, want)
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// leave ends the process in good order.
func (p *process) leave() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// holding starts a process that holds a socket.
func holding(t testing.TB, path string) *process {
	t.Helper()
	p := another(t, role{Do: "claim", Path: path, Mode: 0o600, Group: -1, Umask: 0o022, Wait: patience}, os.Getuid())
	p.expect("", "ready")
	p.expect("go", "claimed")
	return p
}
