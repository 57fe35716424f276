package testkit

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// AcceptErrors are what accept(2) names, but for what its caller does wrong.
func AcceptErrors() []error {
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

// A FaultyAccept fails as long as it is told to.
type FaultyAccept struct {
	err   atomic.Pointer[error]
	Tries atomic.Int64
}

// Accept accepts, or fails.
func (f *FaultyAccept) Accept(l net.Listener) (net.Conn, error) {
	f.Tries.Add(1)
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

// Fails makes it fail from now on.
func (f *FaultyAccept) Fails(err error) { f.err.Store(&err) }

// Works makes it work again.
func (f *FaultyAccept) Works() { f.err.Store(nil) }
