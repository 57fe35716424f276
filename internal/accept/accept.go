// Package accept makes a listener patient: what keeps a connection from being accepted
// passes, and a process that gave up would stay deaf.
package accept

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// How long a failed accept waits before it is tried again: it doubles from the
// first to the second.
const (
	acceptFirst = 5 * time.Millisecond
	acceptMost  = time.Second
)

// A Listener tries accept again after every error but the end of its
// listener: no memory, no descriptors, a network that is down or a security module
// that says no all pass, and a process that gave up would stay deaf.
//
// https://man7.org/linux/man-pages/man2/accept.2.html#ERRORS
type Listener struct {
	net.Listener

	accept func(net.Listener) (net.Conn, error)
	stop   <-chan struct{} // ends a wait, as Close does
	log    *slog.Logger

	closing sync.Once
	closed  chan struct{}
	said    map[string]bool // kinds of error since accept last worked; of Accept's only caller
	wait    time.Duration
	quiet   *rate.Limiter // for errors that come and go
}

// Patiently returns a [Listener] over l. accept is how a connection is accepted, for
// tests that make it fail; nil: by l. What closes stop ends a wait, as Close does.
func Patiently(l net.Listener, accept func(net.Listener) (net.Conn, error), stop <-chan struct{}, log *slog.Logger) *Listener {
	if accept == nil {
		accept = net.Listener.Accept
	}
	return &Listener{
		Listener: l, accept: accept, stop: stop, log: log,
		closed: make(chan struct{}), said: map[string]bool{}, quiet: rate.NewLimiter(rate.Every(10*time.Second), 10),
	}
}

// Accept returns the next connection. Its error is the end of the listener:
// [net.ErrClosed], or one that [IsBroken] recognises.
func (p *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := p.accept(p.Listener)
		switch {
		case err == nil:
			p.worked()
			return conn, nil
		case errors.Is(err, net.ErrClosed), IsBroken(err):
			return nil, err
		}
		if !p.pause(err) {
			return nil, net.ErrClosed
		}
	}
}

func (p *Listener) worked() {
	if p.wait == 0 {
		return
	}
	p.wait = 0
	clear(p.said)
	if p.quiet.Allow() {
		p.log.Info("connections are accepted again")
	}
}

// pause waits before the next try, and returns false where there is none.
func (p *Listener) pause(err error) bool {
	if kind := kindOf(err); !p.said[kind] {
		p.said[kind] = true
		if p.quiet.Allow() {
			p.log.Error("a connection cannot be accepted: trying again until it can", "error", err.Error())
		}
	}
	p.wait = min(max(2*p.wait, acceptFirst), acceptMost)
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.closed:
	case <-p.stop:
	}
	return false
}

// Close closes the listener and ends the wait of Accept.
func (p *Listener) Close() error {
	p.closing.Do(func() { close(p.closed) })
	return p.Listener.Close()
}

// IsBroken reports whether the listener itself is broken: no later accept on
// it can work. Somebody else who holds the same socket can have shut it down.
func IsBroken(err error) bool {
	return errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSOCK) || errors.Is(err, os.ErrInvalid)
}

// kindOf is the text of an error without what differs from try to try.
func kindOf(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}
