package unixsocket

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// MaxConnections is how many connections a socket has at most. An API server has one or
// two for each provider entry.
const MaxConnections = 256

// Why a gate closes a connection at once: the values of the metric's label.
const (
	ByUID   = "uid"
	ByLimit = "limit"
)

// GateOptions say whom a [Gate] lets in. All fields are required.
type GateOptions struct {
	Allowed     func() []uint32 // users that may connect; none: the file's mode decides
	Setting     string          // that names them
	Connections *Connections
	Itself      *Itself
	Provider    func() string                 // who is served there now
	Rejected    func(provider, reason string) // counts a connection that is closed
	Log         *slog.Logger
}

// A Gate lets connections in: those of allowed users, and not too many. The process
// itself always gets in, to see whether it still answers.
type Gate struct {
	net.Listener

	opts  GateOptions
	quiet map[string]*rate.Limiter // by reason
}

// NewGate returns a gate before a listener.
func NewGate(l net.Listener, o GateOptions) *Gate {
	quiet := map[string]*rate.Limiter{}
	for _, reason := range []string{ByUID, ByLimit} {
		quiet[reason] = rate.NewLimiter(rate.Every(time.Minute), 1)
	}
	return &Gate{Listener: l, opts: o, quiet: quiet}
}

// Accept returns the next connection that is let in.
func (g *Gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		cred, err := PeerOf(conn)
		self, allowed := g.opts.Itself.Is(conn), g.opts.Allowed()
		if !self && len(allowed) > 0 && (err != nil || !slices.Contains(allowed, cred.Uid)) {
			g.reject(conn, ByUID, "connection closed at once: "+g.opts.Setting+" does not name its user", cred)
			continue
		}
		if tracked := g.opts.Connections.admit(conn, self); tracked != nil {
			return tracked, nil
		}
		g.reject(conn, ByLimit, "connection closed at once: too many are open", cred, "limit", MaxConnections)
	}
}

// reject closes a connection, once it has been counted: whoever sees it closed
// finds it in the metrics.
func (g *Gate) reject(conn net.Conn, reason, text string, cred *unix.Ucred, attrs ...any) {
	provider := g.opts.Provider()
	g.opts.Rejected(provider, reason)
	if g.quiet[reason].Allow() {
		if cred != nil {
			attrs = append(attrs, "peer_uid", cred.Uid, "peer_pid", cred.Pid)
		}
		g.opts.Log.Warn(text, append(attrs, "provider", provider)...)
	}
	_ = conn.Close()
}

// PeerOf returns who is at the other end, as the kernel saw it when the
// connection was made. Across user namespaces an unmapped user is 65534.
//
// https://man7.org/linux/man-pages/man7/unix.7.html (SO_PEERCRED)
func PeerOf(conn net.Conn) (*unix.Ucred, error) {
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
