package unixsocket

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// A Found is what stands at a socket's path.
type Found struct {
	Exists bool
	Live   bool // a process serves it
	PID    int  // of that process; 0: cannot be seen from here
}

// NotSocketError is something else at a socket's path, which is left alone.
type NotSocketError struct{ What string }

func (e *NotSocketError) Error() string { return e.What + " is in its place, which is no socket" }

// LookAt says what stands at a path, and changes nothing. The error is a
// [NotSocketError], or that of looking.
func LookAt(ctx context.Context, path string) (Found, error) {
	if strings.HasPrefix(path, "@") { // it is there as long as it is served
		pid, live := holder(ctx, path)
		return Found{Exists: live, Live: live, PID: pid}, nil
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Found{}, nil
	case err != nil:
		return Found{}, err
	case info.Mode().Type() != fs.ModeSocket:
		return Found{}, &NotSocketError{nameOf(info.Mode())}
	}
	pid, live := holder(ctx, path)
	return Found{Exists: true, Live: live, PID: pid}, nil
}

func nameOf(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a named pipe"
	case 0:
		return "a file"
	}
	return "a device"
}

// holder reports whether a process serves the socket, and its pid where that can
// be seen: the peer of a connection is who called listen.
func holder(ctx context.Context, path string) (pid int, live bool) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		// A full backlog and a forbidden file are a live holder's; only a refusal is nobody's.
		return 0, !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
	}
	defer func() { _ = conn.Close() }()
	cred, err := PeerOf(conn)
	if err != nil {
		return 0, true
	}
	return int(cred.Pid), true
}
