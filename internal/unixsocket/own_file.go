package unixsocket

import (
	"errors"
	"io/fs"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// An opened file is held by O_PATH: whatever takes its name meanwhile, a change
// meets this file and nothing that a link leads to. Somebody who can write to the
// directory could else have us change any file of the machine.
type opened struct {
	fd   int
	path string
	st   unix.Stat_t
}

// openOwn opens a socket or a directory that this process has just made. A socket
// with a second name is another's: it is made with one.
func openOwn(path string) (*opened, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	o := &opened{fd: fd, path: path}
	if err := unix.Fstat(fd, &o.st); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "stat", Path: path, Err: err}, o.close())
	}
	kind := o.st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && (kind != unix.S_IFSOCK || o.st.Nlink != 1) {
		return nil, errors.Join(&replacedError{path}, o.close())
	}
	return o, nil
}

// replacedError is a file that somebody has put in the place of the process's own.
type replacedError struct{ path string }

func (e *replacedError) Error() string {
	return "something else has taken the place of " + e.path + ", which is left alone: let nobody else write to its directory"
}

func (o *opened) close() error { return unix.Close(o.fd) }

// openFile opens the file that a socket is known to have.
func openFile(path string, file FileID) (*opened, error) {
	o, err := openOwn(path)
	if err == nil && idOf(o.st) != file {
		return nil, errors.Join(&replacedError{path}, o.close())
	}
	return o, err
}

// chmod changes the mode of the open file.
func (o *opened) chmod(mode fs.FileMode) error {
	err := unix.Fchmodat(o.fd, "", uint32(mode.Perm()), unix.AT_EMPTY_PATH) // fchmodat2: Linux 6.6
	if err != nil {                                                         // an older kernel, or a filter of system calls that does not know it
		err = o.chmodByProc(mode)
	}
	if err != nil {
		return &fs.PathError{Op: "chmod", Path: o.path, Err: err}
	}
	return nil
}

// chmodByProc does so on older kernels. The name leads to the open file itself.
//
// https://man7.org/linux/man-pages/man2/open.2.html (O_PATH)
func (o *opened) chmodByProc(mode fs.FileMode) error {
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(o.fd), uint32(mode.Perm()))
}

// chmodFile changes the mode of a socket's file, and of no other.
func chmodFile(path string, file FileID, mode fs.FileMode) error {
	o, err := openFile(path, file)
	if err != nil {
		return err
	}
	return errors.Join(o.chmod(mode), o.close())
}

// chownFile changes the group of a socket's file, and of no other.
func chownFile(path string, file FileID, gid int) error {
	o, err := openFile(path, file)
	if err != nil {
		return err
	}
	err = unix.Fchownat(o.fd, "", -1, gid, unix.AT_EMPTY_PATH)
	if err != nil {
		err = &fs.PathError{Op: "chown", Path: path, Err: err}
	}
	return errors.Join(err, o.close())
}

// chmodDirectory gives a directory that was just made its mode.
func chmodDirectory(path string, mode fs.FileMode) error {
	o, err := openOwn(path)
	if err != nil {
		return err
	}
	if o.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = &fs.PathError{Op: "chmod", Path: path, Err: syscall.ENOTDIR}
	} else if fs.FileMode(o.st.Mode&0o7777) != mode {
		err = o.chmod(mode)
	}
	return errors.Join(err, o.close())
}
