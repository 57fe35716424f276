package daemon

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

func TestWhatMayReachTheSocketsIsChanged(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	group := testkit.OtherGroup(t)
	f := runFiled(t, filing{dir: dir}, fileText("", p))
	f.ready()
	c := newCaller(t, p.listen)
	c.keyID()
	w := testkit.WatchFile(p.listen)
	f.loads(fileText(fmt.Sprintf("socket: {mode: \"0666\", group: \"%d\", allowUIDs: [%d]}\nshutdownDelay: 3ms\n", group, stranger()+1), p))
	if mode, gid := testkit.Permissions(t, p.listen), testkit.GroupOf(t, p.listen); mode != 0o666 || gid != group {
		t.Errorf("mode %04o, group %d; want 0666 and %d", mode, gid, group)
	}
	for seen := range w.Result() {
		if !strings.HasPrefix(seen, "0600 ") && seen != fmt.Sprintf("0666 %d", group) {
			t.Errorf("seen with mode and group %s on the way", seen)
		}
	}
	if got := f.ShutdownDelay(); got != 3*time.Millisecond {
		t.Errorf("the delay of shutdown is %s, want 3ms", got)
	}
	visitor := testkit.Another(t, role{Do: "connect", Path: p.listen}, stranger())
	visitor.Ask("open")
	if said := visitor.Line(); said == "in" {
		t.Error("a user who is not allowed is let in")
	}
	if !f.log.Has("socket.allowUIDs does not name its user") {
		t.Errorf("the log does not name the setting:\n%s", f.log)
	}
	c.keyID() // connections that are open stay
	if err := os.Remove(p.listen); err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "the socket is back", func() bool {
		return exists(p.listen) && f.current.Load().providers[0].at.ask(context.Background()) == nil
	})
	testkit.Until(t, "it has its mode and group again", func() bool { // it is bound for its own user first
		return testkit.Permissions(t, p.listen) == 0o666 && testkit.GroupOf(t, p.listen) == group
	})
	f.loads(fileText("", p))
	if mode, gid := testkit.Permissions(t, p.listen), testkit.GroupOf(t, p.listen); mode != 0o600 || gid != os.Getegid() {
		t.Errorf("mode %04o, group %d; want 0600 and the process's own", mode, gid)
	}
	visitor = testkit.Another(t, role{Do: "connect", Path: p.listen}, os.Getuid())
	visitor.Expect("open", "in")
}

func TestModeThatCannotBeGivenToAllSocketsIsGivenToNone(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	keys := []string{keyText(kms, createKey(t, kms))}
	one, two := providerText{name: "one", listen: dir + "/1", keys: keys}, providerText{name: "two", listen: dir + "/2", keys: keys}
	var forbidden atomic.Bool
	failing := usualFiles()
	failing.Chmod = func(path string, file unixsocket.FileID, mode fs.FileMode) error {
		if forbidden.Load() && path == two.listen {
			return &fs.PathError{Op: "chmod", Path: path, Err: syscall.EPERM}
		}
		return usualFiles().Chmod(path, file, mode)
	}
	timing := shortTiming()
	timing.retry, timing.retryMost = testkit.Patience, testkit.Patience
	f := runFiled(t, filing{dir: dir, time: timing, files: &failing}, fileText("", one, two))
	f.ready()
	forbidden.Store(true)
	group := testkit.OtherGroup(t)
	text := fileText(fmt.Sprintf("socket: {mode: \"0660\", group: \"%d\"}\n", group), one, two)
	f.refuses(text, "changing mode and group of "+two.listen+": chmod "+two.listen+": operation not permitted")
	for _, path := range []string{one.listen, two.listen} {
		if mode, gid := testkit.Permissions(t, path), testkit.GroupOf(t, path); mode != 0o600 || gid != os.Getegid() {
			t.Errorf("%s has mode %04o and group %d, want both as before", path, mode, gid)
		}
	}
	forbidden.Store(false)
	f.Reload()
	f.loaded(text)
	for _, path := range []string{one.listen, two.listen} {
		if mode, gid := testkit.Permissions(t, path), testkit.GroupOf(t, path); mode != 0o660 || gid != group {
			t.Errorf("%s has mode %04o and group %d, want 0660 and %d", path, mode, gid, group)
		}
	}
}

// Neither the second socket's mode can be changed nor the first one's be changed
// back. A file that asks for what is served has both as it says.
func TestModeThatCouldNotBeTakenBackIsSetRightLater(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	keys := []string{keyText(kms, createKey(t, kms))}
	one, two := providerText{name: "one", listen: dir + "/1", keys: keys}, providerText{name: "two", listen: dir + "/2", keys: keys}
	var forbidden atomic.Bool
	failing := usualFiles()
	failing.Chmod = func(path string, file unixsocket.FileID, mode fs.FileMode) error {
		if forbidden.Load() && (path == two.listen || mode == 0o600) {
			return &fs.PathError{Op: "chmod", Path: path, Err: syscall.EPERM}
		}
		return usualFiles().Chmod(path, file, mode)
	}
	f := runFiled(t, filing{dir: dir, files: &failing}, fileText("", one, two))
	f.ready()
	forbidden.Store(true)
	f.refuses(fileText("socket: {mode: \"0660\"}\n", one, two), "changing mode and group of "+two.listen)
	if got := testkit.Permissions(t, one.listen); got != 0o660 || !f.log.Has("mode and group of a socket are not as they were") {
		t.Errorf("mode %04o, want it not taken back, and that told: the test shows nothing", got)
	}
	f.write(fileText("", one, two))
	f.refused("changing mode and group of " + one.listen)
	forbidden.Store(false)
	f.loaded(fileText("", one, two))
	for _, path := range []string{one.listen, two.listen} {
		if got := testkit.Permissions(t, path); got != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", path, got)
		}
	}
}
