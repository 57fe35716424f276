package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketOptions say what a socket is made like.
type socketOptions struct {
	path  string // or @name
	mode  fs.FileMode
	group int // -1: the process's own
	log   *slog.Logger
	time  timing
}

func (o socketOptions) abstract() bool { return strings.HasPrefix(o.path, "@") }

// A socket is a unix socket that belongs to this process: it has the right mode
// from its first instant, it is put back when its file is removed, and on close
// the file is removed if it is still this process's own.
type socket struct {
	socketOptions

	mu       sync.Mutex
	listener *net.UnixListener
	file     fileID
	lost     error // why the file is gone and could not be put back
	lostAt   time.Time
	closed   bool
}

// A fileID tells one file from another that has taken its name.
type fileID struct{ dev, ino uint64 }

// claim makes the socket. A stale file is replaced. A live holder is waited for
// and never displaced; what is no socket is left alone.
func claim(ctx context.Context, o socketOptions) (*socket, error) {
	s := &socket{socketOptions: o}
	deadline := time.Now().Add(o.time.holderWait)
	waiting, pid := false, 0
	for {
		err := s.bind(ctx)
		held, isHeld := errors.AsType[*heldError](err)
		_, isBusy := errors.AsType[*busyError](err)
		switch {
		case err == nil:
			return s, nil
		case isHeld && held.pid == os.Getpid():
			return nil, fmt.Errorf("listening on %s: another --listen of this process is the same socket; each key needs one of its own", o.path)
		case !isHeld && !isBusy:
			return nil, fmt.Errorf("listening on %s: %w", o.path, err)
		case isHeld && held.pid == 0: // its queue of connections may be full by now
			held.pid = pid
		case isHeld:
			pid = held.pid
		}
		if !time.Now().Before(deadline) {
			if isHeld {
				return nil, fmt.Errorf("listening on %s: %w; stop that process, or give this one another --listen", o.path, held)
			}
			return nil, fmt.Errorf("listening on %s: %w", o.path, err)
		}
		if !waiting {
			waiting = true
			o.log.Warn("socket is in use: waiting for its holder to leave", "socket", o.path, "holder", err.Error(), "wait", o.time.holderWait.String())
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("listening on %s: %w", o.path, ctx.Err())
		case <-time.After(o.time.holderPoll):
		}
	}
}

// heldError is a socket that another process serves.
type heldError struct{ pid int } // 0: cannot be seen from here

func (e *heldError) Error() string {
	if e.pid == 0 {
		return "another process serves it (its pid cannot be seen from here)"
	}
	return fmt.Sprintf("the process with pid %d serves it", e.pid)
}

// bind tries once to make the socket and to take it over as s.listener.
func (s *socket) bind(ctx context.Context) error {
	if s.abstract() {
		return s.bindAbstract(ctx)
	}
	if err := makeDirs(filepath.Dir(s.path)); err != nil {
		return err
	}
	unlock, err := lock(ctx, s.path)
	if err != nil {
		return err
	}
	defer unlock()
	if err := clearStale(ctx, s.path); err != nil {
		return err
	}
	listener, err := listenUnix(ctx, s.path, 0o600)
	if err != nil {
		return err
	}
	listener.SetUnlinkOnClose(false)
	if err := s.adopt(listener); err != nil {
		_ = listener.Close()
		_ = os.Remove(s.path)
		return err
	}
	return nil
}

func (s *socket) bindAbstract(ctx context.Context) error {
	listener, err := listenUnix(ctx, s.path, 0o600)
	if errors.Is(err, syscall.EADDRINUSE) { // also where the holder leaves just now, or does not listen yet
		pid, _ := holder(ctx, s.path)
		return &heldError{pid}
	}
	if err != nil {
		return err
	}
	if err := s.take(listener, fileID{}); err != nil {
		return errors.Join(err, listener.Close())
	}
	return nil
}

// adopt gives the file its group, then its mode: in the other order, a group
// that is not meant could come in between.
func (s *socket) adopt(listener *net.UnixListener) error {
	if s.group >= 0 {
		if err := os.Lchown(s.path, -1, s.group); err != nil {
			return fmt.Errorf("giving it the group of --socket-group: %w", err)
		}
	}
	if err := os.Chmod(s.path, s.mode); err != nil {
		return err
	}
	file, err := identify(s.path)
	if err != nil {
		return err
	}
	return s.take(listener, file)
}

// take makes a listener the socket's own, unless the socket has been closed
// meanwhile.
func (s *socket) take(listener *net.UnixListener, file fileID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.listener, s.file = listener, file
	return nil
}

// listenUnix binds with the mode set before the file appears: on Linux the file
// takes it from the socket's own inode.
func listenUnix(ctx context.Context, path string, mode uint32) (*net.UnixListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmodErr error
		err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), mode) })
		return errors.Join(err, chmodErr)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a listener of type %T for a unix socket", l), l.Close())
	}
	return listener, nil
}

// clearStale removes a socket that nobody serves. The caller holds its lock.
func clearStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in its place, which is no socket: move it away, or give another --listen", nameOf(info.Mode()))
	}
	if pid, live := holder(ctx, path); live {
		return &heldError{pid}
	}
	return os.Remove(path)
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

// holder says whether a process serves the socket, and its pid where that can
// be seen: the peer of a connection is who called listen.
func holder(ctx context.Context, path string) (pid int, live bool) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		// A full backlog and a forbidden file are a live holder's; only a refusal is nobody's.
		return 0, !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
	}
	defer func() { _ = conn.Close() }()
	cred, err := peerOf(conn)
	if err != nil {
		return 0, true
	}
	return int(cred.Pid), true
}

func identify(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileID{}, err
	}
	return fileID{dev: uint64(st.Dev), ino: st.Ino}, nil //nolint:unconvert // 32 bits on some platforms
}

// close stops accepting and removes the file, unless another process has taken
// its name. Connections stay. It holds no mutex while it waits for the
// lock of the name: bind takes them in the other order.
func (s *socket) close() {
	s.mu.Lock()
	listener, file, closed := s.listener, s.file, s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return
	}
	if !s.abstract() {
		if unlock, err := lock(context.Background(), s.path); err == nil {
			defer unlock()
		} // else as well: a lock is no reason to leave the file behind
		if now, err := identify(s.path); err == nil && now == file {
			_ = os.Remove(s.path)
		}
	}
	_ = listener.Close()
}
