package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// maxConnections bounds the connections of a socket. An API server has one or
// two for each provider entry.
const maxConnections = 256

// A gate lets connections in: those of allowed users, and not too many. The
// process itself always gets in, to see whether it still answers.
type gate struct {
	net.Listener

	allowed  []uint32 // empty: whoever the file's mode lets in
	rejected func(reason string)
	open     *atomic.Int64
	log      *slog.Logger
	quiet    *rate.Limiter
}

func newGate(l net.Listener, allowed []uint32, open *atomic.Int64, rejected func(string), log *slog.Logger) *gate {
	return &gate{Listener: l, allowed: allowed, open: open, rejected: rejected, log: log, quiet: rate.NewLimiter(rate.Every(time.Minute), 1)}
}

// Accept returns the next connection that is let in.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		cred, err := peerOf(conn)
		self := err == nil && int(cred.Pid) == os.Getpid()
		switch {
		case self:
			return conn, nil
		case len(g.allowed) > 0 && (err != nil || !slices.Contains(g.allowed, cred.Uid)):
			g.reject(conn, "uid", cred)
		case g.open.Add(1) > maxConnections:
			g.open.Add(-1)
			g.reject(conn, "limit", cred)
		default:
			return &countedConn{Conn: conn, open: g.open}, nil
		}
	}
}

func (g *gate) reject(conn net.Conn, reason string, cred *unix.Ucred) {
	_ = conn.Close()
	g.rejected(reason)
	if !g.quiet.Allow() {
		return
	}
	attrs := []any{"reason", reason, "limit", maxConnections}
	if cred != nil {
		attrs = append(attrs, "peer_uid", cred.Uid, "peer_pid", cred.Pid)
	}
	g.log.Warn("connection closed at once", attrs...)
}

// peerOf returns who is at the other end, as the kernel saw it when the
// connection was made. Across user namespaces an unmapped user is 65534.
//
// https://man7.org/linux/man-pages/man7/unix.7.html (SO_PEERCRED)
func peerOf(conn net.Conn) (*unix.Ucred, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T has no peer credentials", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(err, credErr)
}

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn

	once sync.Once
	open *atomic.Int64
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
