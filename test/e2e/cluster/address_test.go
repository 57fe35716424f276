package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// listenEnv makes this test binary a server that tells its process id, and ends
// where it cannot listen.
const listenEnv = "CLUSTER_TEST_LISTEN"

func TestMain(m *testing.M) {
	address := os.Getenv(listenEnv)
	if address == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, tellPID(address))
	os.Exit(1)
}

func tellPID(address string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	for err == nil {
		var conn net.Conn
		if conn, err = l.Accept(); err == nil {
			fmt.Fprint(conn, os.Getpid())
			err = conn.Close()
		}
	}
	return err
}

// A taker takes a port while its server is down, and returns how to let go of it.
// It fails where somebody else was faster: other processes of this machine choose
// among the same ports.
type taker func(t *testing.T, address string) (release func(), err error)

func takers() map[string]taker {
	return map[string]taker{"listener": takeByListener, "outgoing connection": takeByConnection}
}

func takeByListener(t *testing.T, address string) (func(), error) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	closed := make(chan struct{})
	go func() { // ends with the listener
		defer close(closed)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	return func() {
		_ = l.Close()
		<-closed
	}, nil
}

func takeByConnection(t *testing.T, address string) (func(), error) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	local, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{LocalAddr: local}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	return func() {
		_ = conn.(*net.TCPConn).SetLinger(0) // no TIME_WAIT, which would only take longer
		_ = conn.Close()
	}, nil
}

// tries is how often a test begins again where its port went to somebody else.
const tries = 10

// held is for how long a port is taken: longer than a server takes to end.
const held = time.Second

// TestStartsOnceItsAddressIsFree: a program whose port was taken while it was
// down is started until it has the port.
func TestStartsOnceItsAddressIsFree(t *testing.T) {
	t.Parallel()
	for name, take := range takers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, address := newListener(t)
			release, err := take(t, address)
			for n := 1; err != nil && n < tries; n++ {
				p, address = newListener(t)
				release, err = take(t, address)
			}
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(held, release)
			if err := p.serve(t.Context(), time.Minute, serves(p, address)); err != nil {
				t.Fatalf("%v; its log is:\n%s", err, p.Tail(20))
			}
			if log := p.Tail(100); !strings.Contains(log, "address already in use") {
				t.Errorf("it never found its address in use, so the test is wrong:\n%s", log)
			}
		})
	}
}

// TestStartsOnlyOnceOtherwise: a program that ends by something else is not
// started again, also where an earlier life had found its address in use.
func TestStartsOnlyOnceOtherwise(t *testing.T) {
	t.Parallel()
	p, address := newListener(t)
	p.Env = []string{listenEnv + "=nonsense"}
	if err := os.WriteFile(p.Log, []byte("bind: address already in use\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.serve(t.Context(), time.Minute, serves(p, address)); err == nil {
		t.Error("it serves on an address that is none")
	}
	if lives := strings.Count(p.Tail(100), "+ "+p.Path); lives != 1 {
		t.Errorf("it was started %d times, want once:\n%s", lives, p.Tail(100))
	}
}

// TestKMSWaitsForItsAddress: it comes back to the network where its port was
// taken meanwhile.
func TestKMSWaitsForItsAddress(t *testing.T) {
	t.Parallel()
	for name, take := range takers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kms, release := takenKMS(t, take)
			time.AfterFunc(held, release)
			if err := kms.Listen(t.Context()); err != nil {
				t.Error(err)
			}
			if err := kms.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// takenKMS returns a KMS that is off the network, and whose port is taken.
func takenKMS(t *testing.T, take taker) (kms *KMS, release func()) {
	t.Helper()
	var err error
	for range tries {
		if kms, err = testHost().KMS(t.Context(), kmsemulator.Options{}); err != nil {
			t.Fatal(err)
		}
		kms.Unlisten()
		if release, err = take(t, kms.address); err == nil {
			return kms, release
		}
		_ = kms.Close()
	}
	t.Fatal(err)
	return nil, nil
}

func testHost() *Host { return &Host{ports: portsBeside(outgoing()), taken: map[int]bool{}} }

// newListener returns a program that listens on the address, not yet started.
func newListener(t *testing.T) (p *Program, address string) {
	t.Helper()
	address, err := testHost().Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p = &Program{Name: "listener", Path: path, Env: []string{listenEnv + "=" + address}, Log: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p, address
}

// serves is nil when p has its address.
func serves(p *Program, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		deadline, _ := ctx.Deadline()
		_ = conn.SetDeadline(deadline)
		pid, err := io.ReadAll(conn)
		if err == nil && string(pid) != strconv.Itoa(p.PID()) {
			err = fmt.Errorf("it is %q who has accepted", pid)
		}
		return err
	}
}

// TestPortsBeside: no port is one that the kernel gives away, unless it leaves
// too few.
func TestPortsBeside(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		taken       portRange
		first, last int
		size        int
	}{
		"Linux":                 {portRange{32768, 60999}, 5000, 65535, 27768 + 4536},
		"gVisor":                {portRange{16000, 65535}, 5000, 15999, 11000},
		"as far down as it can": {portRange{1024, 65535}, 5000, 65535, 60536},
		"nearly so":             {portRange{6000, 65535}, 5000, 65535, 60536},
		"below":                 {portRange{1024, 4999}, 5000, 65535, 60536},
	} {
		got := portsBeside(c.taken)
		if len(got) != c.size || got[0] != c.first || got[len(got)-1] != c.last {
			t.Errorf("%s: %d ports from %d to %d, want %d from %d to %d", name, len(got), got[0], got[len(got)-1], c.size, c.first, c.last)
		}
		for _, port := range got {
			if c.size < 60536 && port >= c.taken.first && port <= c.taken.last {
				t.Errorf("%s: port %d lies within %v", name, port, c.taken)
				break
			}
		}
	}
}

// TestParsePortRange: what is no range is not taken for one.
func TestParsePortRange(t *testing.T) {
	t.Parallel()
	if got, ok := parsePortRange([]byte("32768\t60999\n")); !ok || got != (portRange{32768, 60999}) {
		t.Errorf("Linux' default is read as %v, %t", got, ok)
	}
	for _, text := range []string{"", "32768", "a b", "0 10", "10 5", "32768 70000"} {
		if got, ok := parsePortRange([]byte(text)); ok {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

// TestAddress: each is free, given out once, and beside what this kernel gives
// away.
func TestAddress(t *testing.T) {
	t.Parallel()
	h := testHost()
	var given []string
	for range 200 {
		address, err := h.Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(strings.TrimPrefix(address, "127.0.0.1:"))
		if err != nil || !slices.Contains(h.ports, port) || slices.Contains(given, address) {
			t.Errorf("address %s, %v, after %v", address, err, given)
		}
		given = append(given, address)
	}
}
