package inquiry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links the kernel follows on one way.
//
// https://man7.org/linux/man-pages/man7/path_resolution.7.html
const maxLinks = 40

// A Step is a directory on the way to a socket, or the socket itself.
type Step struct {
	Path     string // without symbolic links in it
	Socket   bool   // else a directory
	Mode     uint32 // permission bits
	UID, GID uint32
	fd       int
}

// String says whose a step is, and who may pass.
func (s Step) String() string {
	return fmt.Sprintf("%s (mode %04o, user %d, group %d)", s.Path, s.Mode, s.UID, s.GID)
}

// Bit is the permission that a user needs at a step, of those that are neither its
// owner nor in its group: to search a directory, to write to a socket.
func (s Step) Bit() uint32 {
	if s.Socket {
		return unix.W_OK
	}
	return unix.X_OK
}

// A Way is what stands between a user and a socket, as far as the user who looked at it
// may see: every directory, those included that a symbolic link leads through.
type Way struct{ steps []Step }

// LookAtWay follows a path. The caller closes the Way. The error is of what keeps this
// user from looking further; the steps up to there are in the Way.
func LookAtWay(path string) (*Way, error) {
	w := &Way{}
	whole, err := filepath.Abs(path)
	if err != nil {
		return w, fmt.Errorf("following %s: %w", path, err)
	}
	return w, w.follow(whole)
}

// Close gives back what LookAtWay opened.
func (w *Way) Close() {
	for _, s := range w.steps {
		_ = unix.Close(s.fd)
	}
	w.steps = nil
}

// Barred returns the steps that the calling thread's user may not pass. The kernel
// decides, so that groups, capabilities and access control lists count.
func (w *Way) Barred() (barred []Step) {
	for _, s := range w.steps {
		if !s.passes() {
			barred = append(barred, s)
		}
	}
	return barred
}

// passes asks for one step alone, whatever stands before it. A kernel before 5.8
// cannot; there the way up to it counts too.
func (s Step) passes() bool {
	err := unix.Faccessat(s.fd, "", s.Bit(), unix.AT_EMPTY_PATH|unix.AT_EACCESS)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = unix.Faccessat(unix.AT_FDCWD, s.Path, s.Bit(), unix.AT_EACCESS)
	}
	return !errors.Is(err, unix.EACCES)
}

// follow walks a path from the root, as the kernel does.
func (w *Way) follow(path string) error {
	at, left, links := "/", parts(path), 0
	if err := w.step(at); err != nil {
		return err
	}
	for len(left) > 0 {
		next := filepath.Join(at, left[0]) // of "..", which is no link's here, the directory above
		left = left[1:]
		target, err := os.Readlink(next)
		switch {
		case err == nil && links == maxLinks:
			return &os.PathError{Op: "following", Path: path, Err: unix.ELOOP}
		case err == nil && filepath.IsAbs(target):
			at, left, links = "/", append(parts(target), left...), links+1
		case err == nil:
			left, links = append(parts(target), left...), links+1
		default:
			if err := w.step(next); err != nil {
				return err
			}
			at = next
		}
	}
	return nil
}

func parts(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// step opens what is there without looking into it, and takes it in where it is on the
// way for the first time.
func (w *Way) step(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "looking at", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return &os.PathError{Op: "looking at", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	passed := kind != unix.S_IFDIR && kind != unix.S_IFSOCK
	for _, s := range w.steps {
		passed = passed || s.Path == path
	}
	if passed {
		_ = unix.Close(fd)
		return nil
	}
	w.steps = append(w.steps, Step{Path: path, Socket: kind == unix.S_IFSOCK, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, fd: fd})
	return nil
}
