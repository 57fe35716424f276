package unixsocket

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestMain(m *testing.M) {
	if testkit.Play[role]() {
		return
	}
	goleak.VerifyTestMain(m)
}

// A role is what another process does.
type role struct {
	Do    string // "claim", "listen" or "lock"
	Path  string
	Mode  uint32
	Group int // -1: the process's own
	Umask int
	Wait  time.Duration
}

// Play implements what [testkit.Play] needs.
func (r role) Play(in *bufio.Scanner) {
	syscall.Umask(r.Umask)
	switch r.Do {
	case "claim":
		testkit.Say(nil, "ready")
		in.Scan()
		r.claim(in)
	case "listen":
		l, err := listenUnix(context.Background(), r.Path, 0o600)
		testkit.Say(err, "listening")
		in.Scan()
		_ = l.Close()
	case "lock":
		d, err := os.Open(r.Path)
		if err == nil {
			err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		}
		testkit.Say(err, "locked")
		in.Scan()
	default:
		panic("no such role: " + r.Do)
	}
}

// claim claims the socket and accepts on it, until it is told to close.
func (r role) claim(in *bufio.Scanner) {
	o := options(r.Path, &testkit.LogBook{})
	o.Access, o.Log = Access{os.FileMode(r.Mode), r.Group}, slog.New(slog.DiscardHandler)
	s := New(o)
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

// holding starts a process that holds a socket.
func holding(t testing.TB, path string) *testkit.Process {
	t.Helper()
	p := testkit.Another(t, role{Do: "claim", Path: path, Mode: 0o600, Group: -1, Umask: 0o022, Wait: testkit.Patience}, os.Getuid())
	p.Expect("", "ready")
	p.Expect("go", "claimed")
	return p
}

var _ net.Listener = (*Gate)(nil)
