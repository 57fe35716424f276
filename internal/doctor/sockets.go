package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// othersWrite is the permission bit of those who are neither owner nor group.
const othersWrite = 0o002

func (x *examination) sockets(ctx context.Context, g *Group) {
	x.shared(g)
	for _, p := range x.Config.Providers {
		isFile := !strings.HasPrefix(p.Listen, "@")
		found, err := unixsocket.LookAt(ctx, p.Listen)
		other, isOther := errors.AsType[*unixsocket.NotSocketError](err)
		switch {
		case isOther:
			g.found(PathTaken, p.Listen+" is no socket", other.What)
			continue
		case forbidden(err):
			g.found(NotPermitted, p.Listen+" cannot be looked at", asUser(err.Error()))
			continue
		case err != nil:
			g.found(PathUnusable, p.Listen+" cannot be made or found", err.Error())
			continue
		}
		if isFile && !directory(g, p.Listen) {
			continue
		}
		switch {
		case found.Live && isFile && !mayConnect(g, p.Listen): // nor see whether it is served
		case found.Live:
			g.ok(fmt.Sprintf("%s is served%s", p.Listen, byWhom(found.PID)))
			if isFile {
				x.access(g, p.Listen)
			}
			x.served = append(x.served, p)
		case isFile && !writable(g, p.Listen):
		case found.Exists:
			g.found(DeadSocket, p.Listen+" is served by no process", "")
		default:
			g.ok(p.Listen + " is free")
		}
	}
}

// sameSocket reports whether a path leads to the socket of a provider, by whatever
// links: whoever connects may follow one to the socket itself, by which the daemon makes
// none.
func sameSocket(listen, path string) bool {
	for range mostLinks {
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return unixsocket.Same(listen, path)
}

// mostLinks is how many symbolic links the kernel follows on one way.
const mostLinks = 40

// shared tells of providers that cannot both have their socket.
func (x *examination) shared(g *Group) {
	for i, p := range x.Config.Providers {
		for _, o := range x.Config.Providers[:i] {
			if unixsocket.Same(p.Listen, o.Listen) {
				g.found(SocketTwice, fmt.Sprintf("%s and %s are not two sockets", o.Listen, p.Listen), fmt.Sprintf("of the providers %q and %q", o.Name, p.Name))
			}
		}
	}
}

func byWhom(pid int) string {
	if pid == 0 {
		return " (by a process whose pid cannot be seen from here)"
	}
	return fmt.Sprintf(" by the process with pid %d", pid)
}

// existing is the directory that a socket is in, or the first above that is there:
// the program makes what is missing, for its own user alone.
func existing(path string) string {
	dir := filepath.Dir(path)
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// directory reports whether a socket can be in its directory at all.
func directory(g *Group, path string) bool {
	dir := existing(path)
	info, err := os.Stat(dir)
	switch {
	case forbidden(err):
		g.found(NotPermitted, path+" cannot be looked at", asUser(err.Error()))
		return false
	case err != nil:
		g.found(PathUnusable, path+" cannot be made or found", err.Error())
		return false
	case !info.IsDir():
		g.found(PathUnusable, path+" cannot be made or found", dir+" is no directory")
		return false
	case info.Mode()&othersWrite != 0 && info.Mode()&fs.ModeSticky == 0:
		g.found(LooseDirectory, dir+" can be written to by every user", "mode "+info.Mode().String())
	}
	return true
}

// writable reports whether this user may make the socket, which matters as long as
// nobody serves it.
func writable(g *Group, path string) bool {
	dir := existing(path)
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	seen := fmt.Sprintf("user %d may not write to %s: %v", os.Geteuid(), dir, err)
	switch {
	case err == nil:
		return true
	case forbidden(err):
		g.found(NotPermitted, path+" cannot be made by this user", seen)
	default:
		g.found(PathUnusable, path+" cannot be made", seen)
	}
	return false
}

// mayConnect reports whether this user may ask who serves the socket. It is a matter of
// who looks, and none of what is looked at.
func mayConnect(g *Group, path string) bool {
	err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	if errors.Is(err, fs.ErrPermission) {
		g.found(NotPermitted, path+" may not be asked", asUser(err.Error()))
		return false
	}
	return true
}

// forbidden reports whether an error is that of a user who is not root, and so perhaps
// another than the program's.
func forbidden(err error) bool {
	return errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0
}

func asUser(seen string) string { return fmt.Sprintf("as user %d: %s", os.Geteuid(), seen) }

// access compares a served socket with what this configuration would make.
func (x *examination) access(g *Group, path string) {
	info, err := os.Lstat(path)
	if err != nil {
		return // gone since
	}
	want := x.Config.Socket
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode().Perm() != want.Mode:
		g.found(SocketAccess, fmt.Sprintf("%s has mode %04o", path, info.Mode().Perm()), fmt.Sprintf("mode %04o, want %04o", info.Mode().Perm(), want.Mode))
	case ok && want.Group >= 0 && int(owner.Gid) != want.Group:
		g.found(SocketAccess, fmt.Sprintf("%s has group %d", path, owner.Gid), fmt.Sprintf("group %d, want %d", owner.Gid, want.Group))
	case ok:
		g.ok(fmt.Sprintf("%s: mode %04o, owner %d, group %d", path, info.Mode().Perm(), owner.Uid, owner.Gid))
	}
}
