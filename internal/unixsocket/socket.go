// Package unixsocket is one unix socket that belongs to this process: it has the right
// mode from its first instant, it is put back when its file is removed, and on close the
// file is removed if it is still this process's own. It may be handed over by a service
// manager (sd_listen_fds(3)).
//
// Files, from what is basic to what uses it: path, lock, own_file, directories, found;
// handed, itself; socket, mode, restore; connections, gate; client.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// Options say what a socket is made like, and what its maker calls things.
type Options struct {
	Path   string // or @name, for one without a file
	Access Access // of the file as it is made
	Words  Words
	Timing Timing
	Files  Files   // operations on files; see [System]
	Handed *Handed // sockets that a service manager gave the process
	Log    *slog.Logger
	Waits  *bounded.Observer // is told of what is left behind; nil: nobody is
}

// Words are what the settings of sockets are called where an operator gave them.
type Words struct {
	Listen, Group string
	Owner         string // of a socket, such as "provider"
}

// Timing is how long a socket waits for what.
type Timing struct {
	HolderPoll time.Duration // between tries to take over from a live holder
	Keep       time.Duration // between looks at the file
	File       time.Duration // for what is done with a file, before its file system counts as hung
}

// Files are the operations on files that a socket needs. Tests make the n-th one fail.
type Files struct {
	Mkdir func(path string, mode fs.FileMode) error
	Lock  func(ctx context.Context, path string) (unlock func(), err error) // the name of a socket
	// Listen makes a socket. Closing the listener must leave its file as it is.
	Listen func(ctx context.Context, path string, mode uint32) (net.Listener, error)
	// Dial connects to a socket, from an abstract socket of that name; "": from none.
	Dial   func(ctx context.Context, name, path string) (net.Conn, error)
	Chown  func(path string, file FileID, gid int) error          // of a socket
	Chmod  func(path string, file FileID, mode fs.FileMode) error // of a socket
	Secure func(dir string, mode fs.FileMode) error               // of a directory that was just made
	Remove func(path string) error
}

// System returns the operations of the system.
func System() Files {
	return Files{
		Mkdir: os.Mkdir, Lock: lock, Listen: listenUnix, Dial: dialUnix,
		Chown: chownFile, Chmod: chmodFile, Secure: chmodDirectory, Remove: os.Remove,
	}
}

// A Socket is a unix socket that belongs to this process. It is safe for concurrent
// use.
type Socket struct {
	path   string
	words  Words
	timing Timing
	files  Files
	handed *Handed
	log    *slog.Logger
	waits  *bounded.Observer

	binding sync.Mutex // held while the file is made or changed

	// What is done with the file may hang with a file system.
	making, keeping, looking *bounded.Lane

	mu       sync.Mutex
	want     Access
	listener net.Listener // nil until the socket is claimed
	file     FileID
	own      bool     // made by this process, which removes it; else by whoever handed it over
	born     int      // the group that the file had before it was given one
	made     []string // directories that were made for it
	lost     error    // why the file is gone and could not be put back
	lostAt   time.Time
	broken   bool // the listener can accept no more
	closed   bool
}

// A FileID tells one file from another that has taken its name.
type FileID struct{ dev, ino uint64 }

// New returns a socket that is not made yet: see [Socket.Claim].
func New(o Options) *Socket {
	return &Socket{
		path: o.Path, words: o.Words, timing: o.Timing, files: o.Files, handed: o.Handed, log: o.Log, waits: o.Waits, want: o.Access,
		making:  &bounded.Lane{Observer: o.Waits, Wait: bounded.File, Alone: true},
		keeping: &bounded.Lane{Observer: o.Waits, Wait: bounded.File, Alone: true},
		looking: &bounded.Lane{Observer: o.Waits, Wait: bounded.File},
	}
}

func (s *Socket) abstract() bool { return strings.HasPrefix(s.path, "@") }

// onFile runs work with the socket's file, in a lane, and gives it up where the
// file system hangs.
func (s *Socket) onFile(ctx context.Context, l *bounded.Lane, work func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, s.timing.File)
	defer cancel()
	err := bounded.RunIn(limited, l, work)
	if _, ok := errors.AsType[*bounded.AbandonedError](err); ok && ctx.Err() == nil {
		return &HungError{What: "what was begun with the file", Limit: s.timing.File}
	}
	return err
}

// ChangeAccess is setAccess, given up where the file system hangs.
func (s *Socket) ChangeAccess(ctx context.Context, next Access) (Access, error) {
	if s.wants() == next { // also while a file system hangs
		return next, nil
	}
	found := make(chan Access, 1)
	err := s.onFile(ctx, s.making, func(context.Context) error {
		before, err := s.setAccess(next)
		found <- before
		return err
	})
	select {
	case before := <-found:
		return before, err
	default:
		return Access{}, err
	}
}

// HungError is an operation on files that did not end in time: their file system hangs.
type HungError struct {
	What  string
	Limit time.Duration
}

func (e *HungError) Error() string {
	return fmt.Sprintf("%s did not end within %s: the file system that it is on does not answer", e.What, e.Limit)
}

// Claim makes the socket. A stale file is replaced. A live holder is waited for
// and never displaced; what is no socket is left alone.
func (s *Socket) Claim(ctx context.Context, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	waiting, pid := false, 0
	for {
		err := s.onFile(ctx, s.making, s.inheritOrBind)
		held, isHeld := errors.AsType[*heldError](err)
		_, isBusy := errors.AsType[*busyError](err)
		switch {
		case err == nil:
			return nil
		case isHeld && held.pid == os.Getpid():
			return fmt.Errorf("listening on %s: another %s of this process is the same socket; each %s needs one of its own", s.path, s.words.Listen, s.words.Owner)
		case !isHeld && !isBusy:
			return fmt.Errorf("listening on %s: %w", s.path, err)
		case isHeld && held.pid == 0: // its queue of connections may be full by now
			held.pid = pid
		case isHeld:
			pid = held.pid
		}
		if !time.Now().Before(deadline) {
			if isHeld {
				return fmt.Errorf("listening on %s: %w; stop that process, or give this one another %s", s.path, held, s.words.Listen)
			}
			return fmt.Errorf("listening on %s: %w", s.path, err)
		}
		if !waiting {
			waiting = true
			s.log.Warn("socket is in use: waiting for its holder to leave", "socket", s.path, "holder", err.Error(), "wait", wait.String())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("listening on %s: %w", s.path, ctx.Err())
		case <-time.After(s.timing.HolderPoll):
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

// inheritOrBind takes over the socket that was handed over for the path, or makes
// one.
func (s *Socket) inheritOrBind(ctx context.Context) error {
	if s.isClaimed() { // an earlier try that was given up has ended since
		return nil
	}
	listener, err := s.handed.take(s.path)
	if err != nil {
		return err
	}
	if listener == nil {
		return s.bind(ctx)
	}
	err = s.inherit(listener)
	if err == nil {
		return nil
	}
	_ = listener.Close()
	if errors.Is(err, fs.ErrNotExist) { // removed while nobody served it
		s.log.Warn("the file of the socket that was handed over is gone: another one is made; restart its socket unit, on this node alone and while KMS answers", "socket", s.path)
		err = s.bind(ctx)
	}
	if err != nil {
		s.handed.giveBack(s.path)
	}
	return err
}

// inherit makes a socket that was handed over this one's. Who may open its file
// is its maker's to say.
func (s *Socket) inherit(listener *net.UnixListener) error {
	s.binding.Lock()
	defer s.binding.Unlock()
	if s.abstract() {
		return s.take(listener, FileID{}, 0, false)
	}
	st, err := lstat(s.path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	want := s.want
	s.mu.Unlock()
	s.warnOfAccess(want, st)
	return s.take(listener, idOf(st), int(st.Gid), false)
}

// bind tries once to make the socket and to take it over as s.listener.
func (s *Socket) bind(ctx context.Context) error {
	s.binding.Lock()
	defer s.binding.Unlock()
	if s.abstract() {
		return s.bindAbstract(ctx)
	}
	made, err := s.files.makeDirs(filepath.Dir(s.path), s.wants().directory())
	s.note(made)
	if err != nil {
		return err
	}
	unlock, err := s.files.Lock(ctx, s.path)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.clearStale(ctx); err != nil {
		return err
	}
	if s.isClosed() { // close removes the file under the same lock
		return net.ErrClosed
	}
	listener, err := s.files.Listen(ctx, s.path, 0o600)
	if err != nil {
		return err
	}
	if err := s.adopt(listener); err != nil {
		_ = listener.Close()
		if _, replaced := errors.AsType[*replacedError](err); replaced {
			return err
		}
		if err := s.files.Remove(s.path); err != nil {
			s.warnOfLeftFile(err)
		}
		return err
	}
	return nil
}

// note keeps which directories were made.
func (s *Socket) note(made []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = append(s.made, made...)
}

func (s *Socket) bindAbstract(ctx context.Context) error {
	listener, err := s.files.Listen(ctx, s.path, 0o600)
	if errors.Is(err, syscall.EADDRINUSE) { // also where the holder leaves just now, or does not listen yet
		pid, _ := holder(ctx, s.path)
		return &heldError{pid}
	}
	if err != nil {
		return err
	}
	if err := s.take(listener, FileID{}, 0, true); err != nil {
		return errors.Join(err, listener.Close())
	}
	return nil
}

// take makes a listener the socket's own, unless the socket has been closed
// meanwhile.
func (s *Socket) take(listener net.Listener, file FileID, born int, own bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.listener, s.file, s.born, s.own, s.broken = listener, file, born, own, false
	return nil
}

// listenUnix binds with the mode set before the file appears: on Linux the file
// takes it from the socket's own inode.
func listenUnix(ctx context.Context, path string, mode uint32) (net.Listener, error) {
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
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

// clearStale removes a socket that nobody serves. The caller holds its lock.
func (s *Socket) clearStale(ctx context.Context) error {
	found, err := LookAt(ctx, s.path)
	_, isOther := errors.AsType[*NotSocketError](err)
	switch {
	case isOther:
		return fmt.Errorf("%w: move it away, or give another %s", err, s.words.Listen)
	case err != nil || !found.Exists:
		return err
	case found.Live:
		return &heldError{found.PID}
	}
	return s.files.Remove(s.path)
}

func identify(path string) (FileID, error) {
	st, err := lstat(path)
	return idOf(st), err
}

func idOf(st unix.Stat_t) FileID {
	return FileID{dev: uint64(st.Dev), ino: st.Ino} //nolint:unconvert // 32 bits on some platforms
}

func lstat(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return st, err
}

// Close stops accepting and removes the file, unless another process has made it
// or has taken its name. Connections stay. It holds no mutex while it waits for the
// lock of the name: bind takes them in the other order.
func (s *Socket) Close() {
	s.mu.Lock()
	listener, file, own, closed := s.listener, s.file, s.own, s.closed
	s.closed = true
	s.mu.Unlock()
	if closed || listener == nil {
		return
	}
	defer s.handed.giveBack(s.path)
	if own && !s.abstract() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		err := bounded.Run(ctx, s.waits, bounded.File, func(ctx context.Context) error { return s.removeOwn(ctx, file) })
		if err != nil {
			s.warnOfLeftFile(err)
		}
	}
	_ = listener.Close()
}

func (s *Socket) warnOfLeftFile(err error) {
	s.log.Warn("socket file cannot be removed: it stays, and nobody serves it", "socket", s.path, "error", err.Error())
}

func (s *Socket) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Socket) isClaimed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener != nil && !s.closed
}

// closeTime is how long the removal of a socket's file may take before callers are
// turned away all the same.
const closeTime = 2 * time.Second

// removeOwn removes the socket's file if it is still the one that was made.
func (s *Socket) removeOwn(ctx context.Context, file FileID) error {
	if unlock, err := s.files.Lock(ctx, s.path); err == nil {
		defer unlock()
	} // else as well: a lock must not leave the file behind
	if now, err := identify(s.path); err != nil || now != file {
		return nil // it is gone, or another's
	}
	return s.files.Remove(s.path)
}

// Discard closes a socket that never served, and removes the directories that
// were made for it.
func (s *Socket) Discard() {
	s.Close()
	s.mu.Lock()
	made := s.made
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = bounded.Run(ctx, s.waits, bounded.File, func(context.Context) error {
		for _, dir := range slices.Backward(made) {
			_ = s.files.Remove(dir) // stays where somebody has put something there
		}
		return nil
	})
}
