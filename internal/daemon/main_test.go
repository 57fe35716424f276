package daemon

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

func TestMain(m *testing.M) {
	if testkit.Play[role]() {
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

// A role is what another process does.
type role struct {
	Do   string // "claim", "connect" or "few descriptors"
	Path string
	Wait time.Duration
}

// Play implements what [testkit.Play] needs.
func (r role) Play(in *bufio.Scanner) {
	switch r.Do {
	case "claim":
		testkit.Say(nil, "ready")
		in.Scan()
		r.claim(in)
	case "connect":
		r.connect(in)
	case "few descriptors":
		testkit.Say(r.startsWithFew(), "warned")
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
	book := &testkit.LogBook{}
	Start(cfg, Options{Log: book.Logger(), Version: "v", Commit: "c", GoVersion: "go"}).Shutdown(context.Background())
	if !book.Has(`"limit":300`) {
		return errors.New("the log says nothing of it")
	}
	return nil
}

// claim claims the socket and accepts on it, until it is told to close.
func (r role) claim(in *bufio.Scanner) {
	s := unixsocket.New(unixsocket.Options{
		Path: r.Path, Access: unixsocket.Access{Mode: 0o600, Group: -1}, Log: slog.New(slog.DiscardHandler),
		Timing: shortTiming().Timing, Files: unixsocket.System(), Handed: unixsocket.NewHanded(nil, slog.New(slog.DiscardHandler)),
	})
	err := s.Claim(context.Background(), r.Wait)
	testkit.Say(err, "claimed")
	if err != nil {
		return
	}
	go func() {
		for {
			conn, err := s.Current().Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	in.Scan()
	s.Close()
}

// connect opens a connection for each line "open", and closes the oldest for
// each line "close".
func (r role) connect(in *bufio.Scanner) {
	var open []net.Conn
	for in.Scan() {
		switch in.Text() {
		case "open":
			conn, err := greeted(r.Path)
			testkit.Say(err, "in")
			if err == nil {
				open = append(open, conn)
			}
		case "silent":
			conn, err := dialUnix(r.Path)
			testkit.Say(err, "connected")
			open = append(open, conn)
		case "close":
			testkit.Say(open[0].Close(), "closed")
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
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err = conn.Write([]byte(preface + emptySettings)); err == nil {
		_, err = conn.Read(make([]byte, 9))
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// holding starts a process that holds a socket.
func holding(t testing.TB, path string) *testkit.Process {
	t.Helper()
	p := testkit.Another(t, role{Do: "claim", Path: path, Wait: testkit.Patience}, os.Getuid())
	p.Expect("", "ready")
	p.Expect("go", "claimed")
	return p
}
