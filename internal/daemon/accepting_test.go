package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// acceptErrors are what accept(2) names, but for what its caller does wrong.
// The process goes on over every failure of accept, and serves afterwards.
func TestDaemonOutlivesFailuresOfAccept(t *testing.T) {
	t.Parallel()
	fault := &testkit.FaultyAccept{}
	ops := usualFiles()
	ops.accept = fault.Accept
	r := run(t, setup{files: &ops}).ready()
	for _, failure := range testkit.AcceptErrors() {
		fault.Fails(failure)
		before := fault.Tries.Load()
		// Both loops of accept are in a call of the kernel: a connection each takes them out.
		wake(r)
		testkit.Until(t, "accept has failed a few times", func() bool { return fault.Tries.Load() > before+4 })
		fault.Works()
		if code, _ := r.get("/livez"); code != http.StatusOK {
			t.Fatalf("after %v: /livez is %d, want 200", failure, code)
		}
		if err := r.itself(); err != nil {
			t.Fatalf("after %v: %v", failure, err)
		}
	}
	select {
	case err := <-r.Failed():
		t.Errorf("the process ends: %v", err)
	default:
	}
	fault.Fails(syscall.ENOMEM)
	wake(r)
	began := time.Now()
	r.shutdown()
	if took := time.Since(began); took > testkit.Patience/2 {
		t.Errorf("ended after %s, want the wait of accept to end with it", took)
	}
}

// wake makes a connection to the socket and to the health port.
func wake(r *running) {
	for network, address := range map[string]string{"unix": r.path, "tcp": r.HealthAddress()} {
		if conn, err := (&net.Dialer{}).DialContext(context.Background(), network, address); err == nil {
			_ = conn.Close()
		}
	}
}

// Whoever holds the same socket can shut it down. Accept then fails for good.
func TestBrokenListenerIsReplaced(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]string{"file": "", "abstract": fmt.Sprintf("@aep-broken-%d", os.Getpid())} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken, ops := breakable("unix")
			r := run(t, setup{listen: listen, args: []string{"--allow-uid=" + strconv.Itoa(os.Getuid())}, files: ops}).ready()
			broken.Fails(&net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EINVAL)})
			wake(r)
			testkit.Until(t, "it is told", func() bool { return r.log.Has("the socket is broken") })
			broken.Works()
			testkit.Until(t, "the socket is made again", func() bool { return r.log.Has("in the place of the broken one") })
			r.encrypts(r.client())
			select {
			case err := <-r.Failed():
				t.Errorf("the process ends: %v", err)
			default:
			}
			r.shutdown()
			if name == "file" && r.exists() {
				t.Error("the socket's file stays behind")
			}
		})
	}
}

// breakable returns usual files of which accept on one network can fail.
func breakable(network string) (*testkit.FaultyAccept, *files) {
	fault, ops := &testkit.FaultyAccept{}, usualFiles()
	ops.accept = func(l net.Listener) (net.Conn, error) {
		if l.Addr().Network() == network {
			return fault.Accept(l)
		}
		return l.Accept()
	}
	return fault, &ops
}

func TestBrokenHealthPortIsOpenedAgain(t *testing.T) {
	t.Parallel()
	broken, ops := breakable("tcp")
	r := run(t, setup{files: ops}).ready()
	broken.Fails(&net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EINVAL)})
	wake(r)
	testkit.Until(t, "it is told", func() bool { return r.log.Has("the health port is broken") })
	broken.Works()
	testkit.Until(t, "it is served again", func() bool { // the fault may have met the next listener too
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.HealthAddress())
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		return asks(conn, "/livez") == nil
	})
}

// asks asks for a path on a connection, and returns why there is no answer.
func asks(conn net.Conn, path string) error {
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}
