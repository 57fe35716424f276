package accept

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

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
	for _, failure := range testkit.AcceptErrors() {
		t.Run(failure.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book, fault, inner := &testkit.LogBook{}, &testkit.FaultyAccept{}, newPipeListener()
				l := Patiently(inner, fault.Accept, nil, book.Logger())
				fault.Fails(failure)
				accepted := make(chan error, 1)
				go func() {
					_, err := l.Accept()
					accepted <- err
				}()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				// 5, 10, 20 ... 640 ms are the first eight waits, of 1.275 s together; then one a second.
				if n := fault.Tries.Load(); n != 1+8+8 {
					t.Errorf("tried %d times in 10s, want 17", n)
				}
				if n := strings.Count(book.String(), "cannot be accepted"); n != 1 {
					t.Errorf("told %d times, want once:\n%s", n, book)
				}
				fault.Works()
				ours, _ := net.Pipe()
				inner.conns <- ours
				if err := <-accepted; err != nil {
					t.Fatalf("Accept: %v, want the next connection", err)
				}
				if !book.Has("accepted again") {
					t.Errorf("the log does not say that it works again:\n%s", book)
				}
				fault.Fails(failure)
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
		book, fault := &testkit.LogBook{}, &testkit.FaultyAccept{}
		stop := make(chan struct{})
		l := Patiently(newPipeListener(), fault.Accept, stop, book.Logger())
		fault.Fails(syscall.ENOMEM)
		accepted := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		for i := range 20 {
			time.Sleep(time.Second)
			fault.Fails([]error{syscall.ENOMEM, syscall.EPERM}[i%2])
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
