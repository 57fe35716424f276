package unixsocket

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
)

// Itself recognises the process's own connections to its sockets. Each comes from
// an abstract name that nobody could guess, and that nobody else can bind as long as
// it is bound: unlike a pid, it is not used again, and is the same in every pid
// namespace. It needs no /proc and no recent kernel.
//
// https://man7.org/linux/man-pages/man7/unix.7.html (Abstract sockets)
type Itself struct {
	dial func(ctx context.Context, name, path string) (net.Conn, error)

	mu    sync.Mutex
	names map[string]bool // of connections that are open and have not been recognised
}

// NewItself returns one that has no connection yet. dial is how it connects: see
// [Files].
func NewItself(dial func(ctx context.Context, name, path string) (net.Conn, error)) *Itself {
	return &Itself{dial: dial, names: map[string]bool{}}
}

// Dial connects to a socket. Where no name can be bound, the connection is one like
// any other.
func (i *Itself) Dial(ctx context.Context, path string) (net.Conn, error) {
	name := "@aws-encryption-provider-" + rand.Text()
	i.mu.Lock()
	i.names[name] = true
	i.mu.Unlock()
	conn, err := i.dial(ctx, name, path)
	if err != nil {
		i.forget(name)
		if ctx.Err() != nil {
			return nil, err
		}
		return i.dial(ctx, "", path)
	}
	return &ownConn{Conn: conn, forget: func() { i.forget(name) }}, nil
}

// dialUnix is [Files]' Dial of the system.
func dialUnix(ctx context.Context, name, path string) (net.Conn, error) {
	d := net.Dialer{}
	if name != "" {
		d.LocalAddr = &net.UnixAddr{Net: "unix", Name: name}
	}
	return d.DialContext(ctx, "unix", path)
}

// Is reports whether a connection is the process's own. It logs so once for each.
func (i *Itself) Is(conn net.Conn) bool {
	addr := conn.RemoteAddr()
	return addr != nil && i.forget(addr.String())
}

func (i *Itself) forget(name string) (known bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	known = i.names[name]
	delete(i.names, name)
	return known
}

// An ownConn is forgotten before its name is free for others.
type ownConn struct {
	net.Conn

	forget func()
}

// Close closes the connection.
func (c *ownConn) Close() error {
	c.forget()
	return c.Conn.Close()
}
