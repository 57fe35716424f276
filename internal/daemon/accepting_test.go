package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// acceptErrors are what accept(2) names, but for what its caller does wrong.
func acceptErrors() []error {
	var errs []error
	for _, e := range []syscall.Errno{
		syscall.EAGAIN, syscall.ECONNABORTED, syscall.EINTR, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.ENONET,
		syscall.EHOSTUNREACH, syscall.EOPNOTSUPP, syscall.ENETUNREACH, syscall.ENOSR, syscall.ESOCKTNOSUPPORT,
		syscall.EPROTONOSUPPORT, syscall.ETIMEDOUT, syscall.ERESTART,
	} {
		errs = append(errs, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", e)})
	}
	return append(errs, errors.New("something new"))
}

// A faultyAccept fails as long as it is told to.
type faultyAccept struct {
	err   atomic.Pointer[error]
	tries atomic.Int64
}

func (f *faultyAccept) accept(l net.Listener) (net.Conn, error) {
	f.tries.Add(1)
	if err := f.err.Load(); err != nil {
		return nil, *err
	}
	conn, err := l.Accept()
	if still := f.err.Load(); err == nil && still != nil { // it began before the fault did
		_ = conn.Close()
		return nil, *still
	}
	return conn, err
}

func (f *faultyAccept) fails(err error) { f.err.Store(&err) }
func (f *faultyAccept) works()          { f.err.Store(nil) }

// pipeListener is a listener in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func TestAcceptIsTriedAgainWithABackOff(t *testing.T) {
	for _, failure := range acceptErrors() {
		t.Run(failure.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book, fault, inner := &logBook{}, &faultyAccept{}, newPipeListener()
				l := newPatientListener(inner, fault.accept, nil, book.logger())
				fault.fails(failure)
				accepted := make(chan error, 1)
				go func() {
					_, err := l.Accept()
					accepted <- err
				}()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				// 5, 10, 20 ... 640 ms are the first eight waits, of 1.275 s together; then one a second.
				if n := fault.tries.Load(); n != 1+8+8 {
					t.Errorf("tried %d times in 10s, want 17", n)
				}
				if n := strings.Count(book.String(), "cannot be accepted"); n != 1 {
					t.Errorf("told %d times, want once:\n%s", n, book)
				}
				fault.works()
				ours, _ := net.Pipe()
				inner.conns <- ours
				if err := <-accepted; err != nil {
					t.Fatalf("Accept: %v, want the next connection", err)
				}
				if !book.has("accepted again") {
					t.Errorf("the log does not say that it works again:\n%s", book)
				}
				fault.fails(failure)
				go func() {
					_, err := l.Accept()
					accepted <- err
				}()
				time.Sleep(time.Millisecond)
				if n := strings.Count(book.String(), "cannot be accepted"); n != 2 {
					t.Errorf("a later time is told %d times in all, want twice", n)
				}
				_ = l.Close()
				synctest.Wait()
				if err := <-accepted; !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept of a closed listener: %v, want net.ErrClosed", err)
				}
			})
		})
	}
}

func TestEachKindOfAcceptErrorIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book, fault := &logBook{}, &faultyAccept{}
		stop := make(chan struct{})
		l := newPatientListener(newPipeListener(), fault.accept, stop, book.logger())
		fault.fails(syscall.ENOMEM)
		accepted := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		for i := range 20 {
			time.Sleep(time.Second)
			fault.fails([]error{syscall.ENOMEM, syscall.EPERM}[i%2])
		}
		for _, kind := range []syscall.Errno{syscall.ENOMEM, syscall.EPERM} {
			if n := strings.Count(book.String(), kind.Error()); n != 1 {
				t.Errorf("%v is told %d times, want once:\n%s", kind, n, book)
			}
		}
		close(stop)
		synctest.Wait()
		select {
		case err := <-accepted:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v, want net.ErrClosed", err)
			}
		default:
			t.Error("Accept goes on waiting after its owner has ended")
		}
	})
}

// The process goes on over every failure of accept, and serves afterwards.
func TestDaemonOutlivesFailuresOfAccept(t *testing.T) {
	t.Parallel()
	fault := &faultyAccept{}
	ops := usualFiles()
	ops.accept = fault.accept
	r := run(t, setup{files: &ops}).ready()
	for _, failure := range acceptErrors() {
		fault.fails(failure)
		before := fault.tries.Load()
		// Both loops of accept are in a call of the kernel: a connection each takes them out.
		wake(r)
		until(t, "accept has failed a few times", func() bool { return fault.tries.Load() > before+4 })
		fault.works()
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
	fault.fails(syscall.ENOMEM)
	wake(r)
	began := time.Now()
	r.shutdown()
	if took := time.Since(began); took > patience/2 {
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
			broken.fails(&net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EINVAL)})
			wake(r)
			until(t, "it is told", func() bool { return r.log.has("the socket is broken") })
			broken.works()
			until(t, "the socket is made again", func() bool { return r.log.has("in the place of the broken one") })
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
func breakable(network string) (*faultyAccept, *files) {
	fault, ops := &faultyAccept{}, usualFiles()
	ops.accept = func(l net.Listener) (net.Conn, error) {
		if l.Addr().Network() == network {
			return fault.accept(l)
		}
		return l.Accept()
	}
	return fault, &ops
}

func TestBrokenHealthPortIsOpenedAgain(t *testing.T) {
	t.Parallel()
	broken, ops := breakable("tcp")
	r := run(t, setup{files: ops}).ready()
	broken.fails(&net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EINVAL)})
	wake(r)
	until(t, "it is told", func() bool { return r.log.has("the health port is broken") })
	broken.works()
	until(t, "it is served again", func() bool { // the fault may have met the next listener too
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.HealthAddress())
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		return asks(conn, "/livez") == nil
	})
}
