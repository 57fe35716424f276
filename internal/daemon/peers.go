package daemon

import (
	"errors"
	"fmt"
	"net"
	"slices"
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

	endpoint *endpoint
	quiet    map[string]*rate.Limiter // by reason
}

func newGate(l net.Listener, e *endpoint) *gate {
	quiet := map[string]*rate.Limiter{}
	for _, reason := range []string{byUID, byLimit} {
		quiet[reason] = rate.NewLimiter(rate.Every(time.Minute), 1)
	}
	return &gate{Listener: l, endpoint: e, quiet: quiet}
}

// Why a connection is closed at once: the values of the metric's label.
const (
	byUID   = "uid"
	byLimit = "limit"
)

// Accept returns the next connection that is let in.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		cred, err := peerOf(conn)
		self := g.endpoint.socket.itself.is(conn)
		allowed := *g.endpoint.allowed.Load()
		if !self && len(allowed) > 0 && (err != nil || !slices.Contains(allowed, cred.Uid)) {
			g.reject(conn, byUID, "connection closed at once: "+g.endpoint.socket.settings.allowUIDs+" does not name its user", cred)
			continue
		}
		if tracked := g.endpoint.conns.admit(conn, self); tracked != nil {
			return tracked, nil
		}
		g.reject(conn, byLimit, "connection closed at once: too many are open", cred, "limit", maxConnections)
	}
}

// reject closes a connection, once it has been counted: whoever sees it closed
// finds it in the metrics.
func (g *gate) reject(conn net.Conn, reason, text string, cred *unix.Ucred, attrs ...any) {
	provider := g.endpoint.server.Target().Name()
	g.endpoint.rejected(provider, reason)
	if g.quiet[reason].Allow() {
		if cred != nil {
			attrs = append(attrs, "peer_uid", cred.Uid, "peer_pid", cred.Pid)
		}
		g.endpoint.log.Warn(text, append(attrs, "provider", provider)...)
	}
	_ = conn.Close()
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
