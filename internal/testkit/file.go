package testkit

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Permissions returns the mode of a file.
func Permissions(t testing.TB, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// GroupOf returns the group of a file.
func GroupOf(t testing.TB, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Gid)
}

// OtherGroup is one that this process may give a file to: where it can, not the
// one that it gives anyway.
func OtherGroup(t testing.TB) int {
	t.Helper()
	if os.Geteuid() == 0 {
		return 65534
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g != os.Getegid() {
			return g
		}
	}
	return os.Getegid()
}

// A Watcher looks at a file as often as it can while it is made.
type Watcher struct {
	stop, done chan struct{}
	seen       map[string]int
}

// WatchFile begins to look.
func WatchFile(path string) *Watcher {
	w := &Watcher{stop: make(chan struct{}), done: make(chan struct{}), seen: map[string]int{}}
	go func() {
		defer close(w.done)
		for {
			select {
			case <-w.stop:
				return
			default:
			}
			var st unix.Stat_t
			if unix.Lstat(path, &st) == nil {
				w.seen[fmt.Sprintf("%04o %d", st.Mode&0o7777, st.Gid)]++
			}
		}
	}()
	return w
}

// Result ends it, and returns how often each mode and group was seen.
func (w *Watcher) Result() map[string]int {
	close(w.stop)
	<-w.done
	return w.seen
}

// HandOver listens as a service manager does, and returns what it hands over.
func HandOver(t testing.TB, path string, mode os.FileMode) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}
