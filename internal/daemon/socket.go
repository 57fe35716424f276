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

const (
	// holderWait is how long a socket's live holder is waited for: a rolling
	// upgrade starts the new process before the old one has gone.
	holderWait = 10 * time.Second
	holderPoll = 100 * time.Millisecond
	// keepInterval is how often a socket file is looked after.
	keepInterval = 2 * time.Second
)

// socketOptions say what a socket is made like.
type socketOptions struct {
	path  string // or @name
	mode  fs.FileMode
	group int // -1: the process's own
	log   *slog.Logger
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
	closed   bool
}

// A fileID tells one file from another that has taken its name.
type fileID struct{ dev, ino uint64 }

// claim makes the socket. A stale file is replaced. A live holder is waited for
// and never displaced; what is no socket is left alone.
func claim(ctx context.Context, o socketOptions) (*socket, error) {
	s := &socket{socketOptions: o}
	deadline := time.Now().Add(holderWait)
	waiting := false
	for {
		err := s.bind()
		held, isHeld := errors.AsType[*heldError](err)
		if !isHeld {
			if err != nil {
				return nil, fmt.Errorf("listening on %s: %w", o.path, err)
			}
			return s, nil
		}
		if !time.Now().Before(deadline) {
			return nil, fmt.Errorf("listening on %s: %w; stop that process, or give this one another --listen", o.path, held)
		}
		if !waiting {
			waiting = true
			o.log.Warn("socket has a live holder: waiting for it to leave", "socket", o.path, "holder", held.Error(), "wait", holderWait)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("listening on %s: %w", o.path, ctx.Err())
		case <-time.After(holderPoll):
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
func (s *socket) bind() error {
	if s.abstract() {
		return s.bindAbstract()
	}
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := clearStale(s.path); err != nil {
		return err
	}
	listener, err := listenUnix(s.path, 0o600)
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

func (s *socket) bindAbstract() error {
	listener, err := listenUnix(s.path, 0o600)
	if errors.Is(err, syscall.EADDRINUSE) {
		if pid, live := holder(s.path); live {
			return &heldError{pid}
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = listener
	return nil
}

// adopt gives the file its group, then its mode: in the other order, a group
// that is not meant could come in between.
func (s *socket) adopt(listener *net.UnixListener) error {
	if s.group >= 0 {
		if err := os.Lchown(s.path, -1, s.group); err != nil {
			return err
		}
	}
	if err := os.Chmod(s.path, s.mode); err != nil {
		return err
	}
	file, err := identify(s.path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener, s.file = listener, file
	return nil
}

// listenUnix binds with the mode set before the file appears: on Linux the file
// takes it from the socket's own inode.
func listenUnix(path string, mode uint32) (*net.UnixListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmodErr error
		err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), mode) })
		return errors.Join(err, chmodErr)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a listener of type %T for a unix socket", l), l.Close())
	}
	return listener, nil
}

// lockDir holds the directory while one process looks, removes and binds, so
// that of two that start at once one wins. The lock needs no file of its own.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}

// clearStale removes a socket that nobody serves. The caller holds the lock of
// the directory.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file of that name that is no socket: move it away, or give another --listen")
	}
	if pid, live := holder(path); live {
		return &heldError{pid}
	}
	return os.Remove(path)
}

// holder says whether a process serves the socket, and its pid where that can
// be seen: the peer of a connection is who called listen.
func holder(path string) (pid int, live bool) {
	conn, err := net.DialTimeout("unix", path, time.Second)
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

// keep puts the socket back whenever its file is gone, until ctx ends. serve is
// called with each new listener.
func (s *socket) keep(ctx context.Context, serve func(net.Listener)) {
	if s.abstract() {
		return
	}
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	reported := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := s.restore(serve)
		if err != nil && err.Error() != reported {
			s.log.Error("socket file is gone and cannot be put back", "socket", s.path, "error", err.Error())
		}
		reported = ""
		if err != nil {
			reported = err.Error()
		}
	}
}

func (s *socket) restore(serve func(net.Listener)) error {
	if file, err := identify(s.path); err == nil && file == s.own() {
		return nil
	}
	s.mu.Lock()
	old, closed := s.listener, s.closed
	s.mu.Unlock()
	if closed {
		return nil
	}
	if err := s.bind(); err != nil {
		return err
	}
	s.mu.Lock()
	current := s.listener
	s.mu.Unlock()
	s.log.Warn("socket file was removed: put back", "socket", s.path)
	serve(current)
	_ = old.Close()
	return nil
}

func (s *socket) own() fileID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file
}

func (s *socket) current() net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

// close stops accepting and removes the file, unless another process has taken
// its name. Connections stay.
func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if !s.abstract() {
		if unlock, err := lockDir(filepath.Dir(s.path)); err == nil {
			if file, err := identify(s.path); err == nil && file == s.file {
				_ = os.Remove(s.path)
			}
			unlock()
		}
	}
	_ = s.listener.Close()
}
