package inquiry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reach connects once, and says what keeps this user from it: gRPC would say it in
// words of its own. It reports whether somebody is there.
func (r *Report) reach(ctx context.Context, limit time.Duration) bool {
	if n := len(r.Socket); n > maxPath {
		r.unusable(fmt.Sprintf("it has %d bytes, and a socket's path may have %d", n, maxPath))
		return false
	}
	conn, err := (&net.Dialer{Timeout: limit}).DialContext(ctx, "unix", r.Socket)
	if err == nil {
		_ = conn.Close()
		return true
	}
	abstract := strings.HasPrefix(r.Socket, "@")
	info, lookErr := os.Stat(r.Socket) // by a link too, as the connection goes
	switch {
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.EAGAIN): // its queue is full
		r.found(Silent, r.Socket+" does not take a connection", fmt.Sprintf("no connection within %s", limit), "")
	case errors.Is(err, fs.ErrNotExist), abstract && errors.Is(err, unix.ECONNREFUSED):
		info := NoSocket.Info()
		r.add("nothing is at "+r.Socket+": "+info.Next, Finding{info.ID, "nothing is at " + r.Socket, info.Next})
	case errors.Is(err, fs.ErrPermission):
		r.forbidden()
	case lookErr == nil && info.Mode().Type() != fs.ModeSocket:
		r.found(PathTaken, r.Socket+" is no socket", r.Socket, "")
	case errors.Is(err, unix.EPROTOTYPE):
		r.found(PathTaken, r.Socket+" is a socket of another kind", r.Socket+" is a socket of another kind", "")
	case errors.Is(err, unix.ECONNREFUSED):
		r.found(DeadSocket, "no process serves "+r.Socket+": "+DeadSocket.Info().Next, r.Socket, "")
	case errors.Is(err, unix.ENOTDIR):
		r.unusable(notDirectory(r.Socket))
	default:
		r.unusable(reason(err))
	}
	return false
}

// maxPath is the longest path of a socket: the kernel wants a zero byte behind it.
//
// https://man7.org/linux/man-pages/man7/unix.7.html (Address format)
const maxPath = 107

func (r *Report) unusable(why string) {
	r.found(PathUnusable, r.Socket+": "+why, why, "")
}

// notDirectory names the first part of a path that should be a directory.
func notDirectory(path string) string {
	for _, dir := range onTheWay(path) {
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			return dir + " is no directory"
		}
	}
	return unix.ENOTDIR.Error()
}

// reason is the kernel's own word for a failure.
func reason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

// forbidden says what keeps this user out, and who gets in: the first directory that
// may not be searched, or the socket itself.
func (r *Report) forbidden() {
	way, _ := LookAtWay(r.Socket) // up to where this user may look
	defer way.Close()
	user, barred := os.Geteuid(), way.Barred()
	if len(barred) == 0 {
		seen := fmt.Sprintf("user %d may not connect to %s", user, r.Socket)
		r.found(Forbidden, seen, seen, "ask as root; change no owner and no mode for it")
		return
	}
	step := barred[0]
	seen := fmt.Sprintf("user %d may not search the directory %s", user, owned(step))
	next := fmt.Sprintf("ask as %s; change no owner and no mode for it", mayPass(step))
	if step.Socket {
		seen = fmt.Sprintf("user %d may not write to %s", user, owned(step))
		next = fmt.Sprintf("ask as %s; --socket-mode and --socket-group of the program let others in", mayPass(step))
	}
	r.found(Forbidden, seen, seen, next)
}

// onTheWay are the directories above a path, the root first.
func onTheWay(path string) []string {
	var dirs []string
	for dir := filepath.Dir(filepath.Clean(path)); ; dir = filepath.Dir(dir) {
		dirs = append([]string{dir}, dirs...)
		if dir == filepath.Dir(dir) {
			return dirs
		}
	}
}

func owned(s Step) string {
	return fmt.Sprintf("%s, mode %04o, user %d, group %d", s.Path, s.Mode, s.UID, s.GID)
}

// mayPass names who has the right to a step that this user lacks.
func mayPass(s Step) string {
	who := "root"
	if s.UID != 0 {
		who = fmt.Sprintf("root, as user %d", s.UID)
	}
	if s.Mode&(s.Bit()<<3) != 0 && s.GID != 0 {
		who += fmt.Sprintf(", or as a user in group %d", s.GID)
	}
	return who
}
