package daemon

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
	// lockWait bounds the wait for a directory's lock, which this program holds
	// for moments. Anyone who can read the directory can hold it for longer.
	lockWait = time.Second
	lockPoll = 5 * time.Millisecond
)

// makeDirs makes the directories that are missing, each for the owner alone,
// whatever the umask.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist): // somebody was faster, or it is a dangling link: opening it will tell
		return nil
	case err != nil:
		return err
	}
	return os.Chmod(dir, 0o700) //nolint:gosec // a directory
}

// busyError is a directory that somebody else keeps locked.
type busyError struct{ dir string }

func (e *busyError) Error() string {
	return "another process holds a lock on the directory " + e.dir
}

// lockDir holds the directory while one process looks, removes and binds, so
// that of two that start at once one wins. The lock needs no file of its own.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = d.Close() }, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), d.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(&busyError{dir}, d.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), d.Close())
		case <-time.After(lockPoll):
		}
	}
}
