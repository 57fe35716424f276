package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockWait bounds the wait for a socket's lock, which this program holds for
	// moments.
	lockWait = time.Second
	lockPoll = 5 * time.Millisecond
)

// busyError is a socket whose lock another process of this user keeps.
type busyError struct{ file string }

func (e *busyError) Error() string { return "another process holds a lock on " + e.file }

// errNotOurs is a lock file that others can lock, or that this user cannot. Only
// a process of another user can have made it in good faith.
var errNotOurs = errors.New("it is not a file of this user alone")

// lockFile is where a socket's lock is. Not the directory itself: whoever can
// read that can lock it for ever.
func lockFile(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock")
}

// locking is what locks need of the system. Only tests have another one than
// usualLocking's.
type locking struct {
	fchmod func(fd int, mode uint32) error
	flock  func(fd, how int) error
}

func usualLocking() locking { return locking{fchmod: unix.Fchmod, flock: unix.Flock} }

func lock(ctx context.Context, path string) (unlock func(), err error) {
	return usualLocking().lock(ctx, path)
}

// lock holds a socket's name while one process looks, removes and binds, so that
// of two that start at once one wins. The file is gone after unlock.
//
// A file that is not this user's alone has been left by another user's process,
// or is meant to be in the way: none is needed for long, so it is removed.
func (l locking) lock(ctx context.Context, path string) (unlock func(), err error) {
	file := lockFile(path)
	for deadline := time.Now().Add(lockWait); ; {
		unlock, err := l.try(file)
		late := time.Now().After(deadline)
		_, busy := errors.AsType[*busyError](err)
		switch {
		case err == nil:
			return unlock, nil
		case !busy && !errors.Is(err, errNotOurs):
			return nil, err
		case late && errors.Is(err, errNotOurs):
			if err := unix.Unlink(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s is in the way, %w, and cannot be removed: %w", file, errNotOurs, err)
			}
			deadline = time.Now().Add(lockWait)
		case late:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// try locks the file, which it makes. One that it has made does not stay after an
// error, unless another process has been faster and holds it.
func (l locking) try(file string) (unlock func(), err error) {
	fd, made, err := l.open(file)
	if err != nil {
		return nil, err
	}
	for {
		err = l.flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	held := err == nil
	if held {
		err = isNamed(fd, file)
	}
	switch {
	case err == nil:
		return func() {
			_ = unix.Unlink(file) // before the lock goes: afterwards it may be another's
			_ = unix.Close(fd)
		}, nil
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist): // or its holder has just removed it
		err = &busyError{file}
	default:
		if made || held {
			_ = unix.Unlink(file)
		}
		err = fmt.Errorf("locking %s: %w", file, err)
	}
	_ = unix.Close(fd)
	return nil, err
}

// open opens the file, and makes it where it is missing. What is there already must
// be a file that nobody else can lock.
func (l locking) open(file string) (fd int, made bool, err error) {
	const flags = unix.O_RDWR | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err = unix.Open(file, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err == nil {
		if err := l.fchmod(fd, 0o600); err != nil { // whatever the umask
			_ = unix.Unlink(file)
			_ = unix.Close(fd)
			return 0, false, fmt.Errorf("making %s: %w", file, err)
		}
		return fd, true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return 0, false, fmt.Errorf("making %s: %w", file, err)
	}
	fd, err = unix.Open(file, flags, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist): // its holder has just removed it
		return 0, false, &busyError{file}
	case err != nil: // a link, a directory, a device, or forbidden
		return 0, false, errNotOurs
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		_ = unix.Close(fd)
		return 0, false, errNotOurs
	}
	return fd, false, nil
}

// isNamed returns fs.ErrNotExist where the open file is no longer the one of
// that name.
func isNamed(fd int, file string) error {
	var opened, named unix.Stat_t
	if err := unix.Fstat(fd, &opened); err != nil {
		return err
	}
	if err := unix.Lstat(file, &named); err != nil {
		return err
	}
	if opened.Dev != named.Dev || opened.Ino != named.Ino {
		return fs.ErrNotExist
	}
	return nil
}
