package daemon

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// Without CAP_CHOWN a process gives files only to groups that it is in.
func TestGroupThatTheProcessIsNotInIsExplained(t *testing.T) {
	o := options(filepath.Join(directory(t), "s"), &logBook{})
	o.access = access{0o660, 65534}
	o.files.chown = func(path string, _ fileID, _ int) error {
		return &fs.PathError{Op: "chown", Path: path, Err: syscall.EPERM}
	}
	_, err := claim(t.Context(), o)
	if err == nil {
		t.Fatal("claimed")
	}
	for _, want := range []string{"the group of --socket-group: chown " + o.path + ": operation not permitted", "SupplementaryGroups=65534 and SystemCallFilter=@chown", "supplementalGroups", "SocketGroup="} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("claim: %v, want in it %q", err, want)
		}
	}
	if exists(o.path) {
		t.Error("the socket is there, with another group than was asked for")
	}
}

func TestWhatMayReachTheSocketsIsChanged(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	group := otherGroup(t)
	f := runFiled(t, filing{dir: dir}, fileText("", p))
	f.ready()
	c := newCaller(t, p.listen)
	c.keyID()
	w := watchFile(p.listen)
	f.loads(fileText(fmt.Sprintf("socket: {mode: \"0666\", group: \"%d\", allowUIDs: [%d]}\nshutdownDelay: 3ms\n", group, stranger()+1), p))
	if mode, gid := permissions(t, p.listen), groupOf(t, p.listen); mode != 0o666 || gid != group {
		t.Errorf("mode %04o, group %d; want 0666 and %d", mode, gid, group)
	}
	for seen := range w.result() {
		if !strings.HasPrefix(seen, "0600 ") && seen != fmt.Sprintf("0666 %d", group) {
			t.Errorf("seen with mode and group %s on the way", seen)
		}
	}
	if got := f.ShutdownDelay(); got != 3*time.Millisecond {
		t.Errorf("the delay of shutdown is %s, want 3ms", got)
	}
	visitor := another(t, role{Do: "connect", Path: p.listen}, stranger())
	visitor.ask("open")
	if said := visitor.line(); said == "in" {
		t.Error("a user who is not allowed is let in")
	}
	if !f.log.has("socket.allowUIDs does not name its user") {
		t.Errorf("the log does not name the setting:\n%s", f.log)
	}
	c.keyID() // connections that are open stay
	if err := os.Remove(p.listen); err != nil {
		t.Fatal(err)
	}
	until(t, "the socket is back", func() bool {
		return exists(p.listen) && f.current.Load().providers[0].at.socket.ask(context.Background()) == nil
	})
	until(t, "it has its mode and group again", func() bool { // it is bound for its own user first
		return permissions(t, p.listen) == 0o666 && groupOf(t, p.listen) == group
	})
	f.loads(fileText("", p))
	if mode, gid := permissions(t, p.listen), groupOf(t, p.listen); mode != 0o600 || gid != os.Getegid() {
		t.Errorf("mode %04o, group %d; want 0600 and the process's own", mode, gid)
	}
	visitor = another(t, role{Do: "connect", Path: p.listen}, os.Getuid())
	visitor.expect("open", "in")
}

func TestModeThatCannotBeGivenToAllSocketsIsGivenToNone(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := directory(t)
	keys := []string{keyText(kms, createKey(t, kms))}
	one, two := providerText{name: "one", listen: dir + "/1", keys: keys}, providerText{name: "two", listen: dir + "/2", keys: keys}
	var forbidden atomic.Bool
	failing := usualFiles()
	failing.chmod = func(path string, file fileID, mode fs.FileMode) error {
		if forbidden.Load() && path == two.listen {
			return &fs.PathError{Op: "chmod", Path: path, Err: syscall.EPERM}
		}
		return usualFiles().chmod(path, file, mode)
	}
	timing := shortTiming()
	timing.retry, timing.retryMost = patience, patience
	f := runFiled(t, filing{dir: dir, time: timing, files: &failing}, fileText("", one, two))
	f.ready()
	forbidden.Store(true)
	group := otherGroup(t)
	text := fileText(fmt.Sprintf("socket: {mode: \"0660\", group: \"%d\"}\n", group), one, two)
	f.refuses(text, "changing mode and group of "+two.listen+": chmod "+two.listen+": operation not permitted")
	for _, path := range []string{one.listen, two.listen} {
		if mode, gid := permissions(t, path), groupOf(t, path); mode != 0o600 || gid != os.Getegid() {
			t.Errorf("%s has mode %04o and group %d, want both as before", path, mode, gid)
		}
	}
	forbidden.Store(false)
	f.Reload()
	f.loaded(text)
	for _, path := range []string{one.listen, two.listen} {
		if mode, gid := permissions(t, path), groupOf(t, path); mode != 0o660 || gid != group {
			t.Errorf("%s has mode %04o and group %d, want 0660 and %d", path, mode, gid, group)
		}
	}
}

// Neither the second socket's mode can be changed nor the first one's be changed
// back. A file that asks for what is served has both as it says.
func TestModeThatCouldNotBeTakenBackIsSetRightLater(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := directory(t)
	keys := []string{keyText(kms, createKey(t, kms))}
	one, two := providerText{name: "one", listen: dir + "/1", keys: keys}, providerText{name: "two", listen: dir + "/2", keys: keys}
	var forbidden atomic.Bool
	failing := usualFiles()
	failing.chmod = func(path string, file fileID, mode fs.FileMode) error {
		if forbidden.Load() && (path == two.listen || mode == 0o600) {
			return &fs.PathError{Op: "chmod", Path: path, Err: syscall.EPERM}
		}
		return usualFiles().chmod(path, file, mode)
	}
	f := runFiled(t, filing{dir: dir, files: &failing}, fileText("", one, two))
	f.ready()
	forbidden.Store(true)
	f.refuses(fileText("socket: {mode: \"0660\"}\n", one, two), "changing mode and group of "+two.listen)
	if got := permissions(t, one.listen); got != 0o660 || !f.log.has("mode and group of a socket are not as they were") {
		t.Errorf("mode %04o, want it not taken back, and that told: the test shows nothing", got)
	}
	f.write(fileText("", one, two))
	f.refused("changing mode and group of " + one.listen)
	forbidden.Store(false)
	f.loaded(fileText("", one, two))
	for _, path := range []string{one.listen, two.listen} {
		if got := permissions(t, path); got != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", path, got)
		}
	}
}
