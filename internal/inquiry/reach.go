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
	conn, err := (&net.Dialer{Timeout: limit}).DialContext(ctx, "unix", r.Socket)
	if err == nil {
		_ = conn.Close()
		return true
	}
	abstract := strings.HasPrefix(r.Socket, "@")
	info, lookErr := os.Lstat(r.Socket)
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
	case errors.Is(err, unix.ECONNREFUSED):
		r.found(DeadSocket, "no process serves "+r.Socket+": "+DeadSocket.Info().Next, r.Socket, "")
	default:
		r.found(PathUnusable, r.Socket+": "+reason(err), reason(err), "")
	}
	return false
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
	user := os.Geteuid()
	for _, dir := range onTheWay(r.Socket) {
		if unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS) == nil {
			continue
		}
		seen := fmt.Sprintf("user %d may not search the directory %s%s", user, dir, ownership(dir))
		next := fmt.Sprintf("ask as %s; change no owner and no mode for it", mayPass(dir, 0o010))
		r.found(Forbidden, seen, seen, next)
		return
	}
	seen := fmt.Sprintf("user %d may not write to %s%s", user, r.Socket, ownership(r.Socket))
	next := fmt.Sprintf("ask as %s; --socket-mode and --socket-group of the program let others in", mayPass(r.Socket, 0o020))
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

func ownership(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf(", mode %04o, user %d, group %d", st.Mode&0o7777, st.Uid, st.Gid)
}

// mayPass names who has the right to a file that this user lacks. bit is the group's.
func mayPass(path string, bit uint32) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return "root"
	}
	who := "root"
	if st.Uid != 0 {
		who = fmt.Sprintf("root, as user %d", st.Uid)
	}
	if st.Mode&bit != 0 && st.Gid != 0 {
		who += fmt.Sprintf(", or as a user in group %d", st.Gid)
	}
	return who
}
