package testkit

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// A Network connects the programs of a test in memory, so that they can run in a
// synctest bubble: there nothing may wait for the system. Addresses are any texts. The
// zero value has no listener. It is safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
}

// Listen returns a listener at an address. The error is [syscall.EADDRINUSE] where there
// is one.
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: "memory", Addr: memoryAddr(address), Err: syscall.EADDRINUSE}
	}
	l := &memoryListener{network: n, address: memoryAddr(address), conns: make(chan net.Conn), closed: make(chan struct{})}
	if n.listeners == nil {
		n.listeners = map[string]*memoryListener{}
	}
	n.listeners[address] = l
	return l, nil
}

// Dial connects from one address, which may be "", to another. It waits until the other
// side accepts. The error is [syscall.ECONNREFUSED] where nobody listens.
func (n *Network) Dial(ctx context.Context, from, to string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[to]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "memory", Addr: memoryAddr(to), Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	near, far := net.Pipe()
	select {
	case l.conns <- &memoryConn{far, memoryAddr(to), memoryAddr(from)}:
		return &memoryConn{near, memoryAddr(from), memoryAddr(to)}, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryAddr string

// Network implements [net.Addr].
func (memoryAddr) Network() string { return "memory" }

// String implements [net.Addr].
func (a memoryAddr) String() string { return string(a) }

type memoryConn struct {
	net.Conn

	local, remote memoryAddr
}

// LocalAddr implements [net.Conn].
func (c *memoryConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements [net.Conn].
func (c *memoryConn) RemoteAddr() net.Addr { return c.remote }

type memoryListener struct {
	network *Network
	address memoryAddr
	conns   chan net.Conn
	closing sync.Once
	closed  chan struct{}
}

// Accept implements [net.Listener].
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *memoryListener) Close() error {
	l.closing.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, string(l.address))
		l.network.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// Addr implements [net.Listener].
func (l *memoryListener) Addr() net.Addr { return l.address }
