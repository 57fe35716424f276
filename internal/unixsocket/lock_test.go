package unixsocket

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// Whom a socket lets in has to reach it, and nobody else has business there.
func TestMissingParentsLetInWhomTheSocketDoes(t *testing.T) {
	for socket, want := range map[uint32]fs.FileMode{0o600: 0o700, 0o660: 0o755, 0o666: 0o755} {
		for _, umask := range umasks() {
			t.Run(fmt.Sprintf("socket %04o, umask %04o", socket, umask), func(t *testing.T) {
				t.Parallel()
				dir := testkit.Directory(t)
				path := filepath.Join(dir, "a", "b", "s")
				p := testkit.Another(t, role{Do: "claim", Path: path, Mode: socket, Group: -1, Umask: umask}, os.Getuid())
				p.Expect("", "ready")
				p.Expect("go", "claimed")
				for _, made := range []string{"a", "a/b"} {
					if got := testkit.Permissions(t, filepath.Join(dir, made)); got != want {
						t.Errorf("%s made with mode %04o, want %04o", made, got, want)
					}
				}
				if got := testkit.Permissions(t, dir); got != 0o755 {
					t.Errorf("the parent that was there has mode %04o now, want 0755 as before", got)
				}
			})
		}
	}
}

func TestForeignLockOnTheDirectoryChangesNothing(t *testing.T) {
	dir := testkit.Directory(t)
	testkit.Another(t, role{Do: "lock", Path: dir}, os.Getuid()).Expect("", "locked")
	path := filepath.Join(dir, "s")
	waitsForNoLock(t, func() { mustClaim(t, path).Close() })
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v), want nothing", left, err)
	}
}

func TestLockIsOfThisUserAlone(t *testing.T) {
	path := filepath.Join(testkit.Directory(t), "s")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if got := testkit.Permissions(t, lockFile(path)); got != 0o600 {
		t.Errorf("its file has mode %04o, want 0600", got)
	}
	if _, err := usualLocking().try(lockFile(path)); err == nil {
		t.Error("it can be had twice")
	}
	unlock()
	if testkit.Exists(lockFile(path)) {
		t.Error("its file stays")
	}
}

func TestLockFileInTheWayIsRemoved(t *testing.T) {
	lockable := func(mode fs.FileMode, uid int) func(t *testing.T, file string) {
		return func(t *testing.T, file string) {
			t.Helper()
			err := os.WriteFile(file, nil, 0o600)
			if err == nil {
				err = os.Chmod(file, mode)
			}
			if err == nil && uid >= 0 {
				err = os.Chown(file, uid, uid)
			}
			if err != nil {
				t.Fatal(err)
			}
			testkit.Another(t, role{Do: "lock", Path: file}, os.Getuid()).Expect("", "locked")
		}
	}
	ways := map[string]func(t *testing.T, file string){
		"others can read it": lockable(0o644, -1),
		"link": func(t *testing.T, file string) {
			t.Helper()
			if err := os.Symlink("precious", file); err != nil {
				t.Fatal(err)
			}
		},
		"fifo": func(t *testing.T, file string) {
			t.Helper()
			if err := unix.Mkfifo(file, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	}
	if os.Geteuid() == 0 { // nobody else can make a file of another user's
		ways["another user's"] = lockable(0o600, 65534)
	}
	for name, put := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testkit.Directory(t)
			path := filepath.Join(dir, "s")
			put(t, lockFile(path))
			mustClaim(t, path)
			if testkit.Exists(lockFile(path)) {
				t.Error("it is still there")
			}
			if testkit.Exists(filepath.Join(dir, "precious")) {
				t.Error("what a link points to has been made")
			}
		})
	}
}

func TestLockFileThatCannotBeRemovedIsNamed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testkit.Directory(t), "s")
	if err := os.Mkdir(lockFile(path), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := claim(t.Context(), options(path, &testkit.LogBook{}))
	if err == nil || !strings.HasPrefix(err.Error(), "listening on "+path+": "+lockFile(path)+" is in the way") {
		t.Errorf("claim: %v, want the file in the way", err)
	}
}

func TestLeftLockFileIsUsed(t *testing.T) {
	t.Parallel()
	waitsForNoLock(t, func() {
		path := filepath.Join(testkit.Directory(t), "s")
		if err := os.WriteFile(lockFile(path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		mustClaim(t, path)
	})
}

// waitsForNoLock fails the test where work takes as long as a lock is waited for,
// each of ten times: a machine that is busy may take that long once.
func waitsForNoLock(t *testing.T, work func()) {
	t.Helper()
	fastest := testkit.Patience
	for range 10 {
		began := time.Now()
		work()
		if fastest = min(fastest, time.Since(began)); fastest < lockWait/2 {
			return
		}
	}
	t.Errorf("it took %s, want nothing to be waited for", fastest)
}

func TestLockOfThisUserIsWaitedForAndNamed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testkit.Directory(t), "s")
	if err := os.WriteFile(lockFile(path), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Another(t, role{Do: "lock", Path: lockFile(path)}, os.Getuid()).Expect("", "locked")
	_, err := claim(t.Context(), options(path, &testkit.LogBook{}))
	want := "listening on " + path + ": another process holds a lock on " + lockFile(path)
	if err == nil || err.Error() != want {
		t.Errorf("claim: %v\nwant %s", err, want)
	}
}

// What one try made does not stay after its failure: the next process would take it
// for another's.
func TestLockFileDoesNotStayAfterAFailure(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testkit.Directory(t), "s")
	failing := map[string]locking{
		"mode":    {fchmod: func(int, uint32) error { return syscall.EIO }, flock: unix.Flock},
		"no lock": {fchmod: unix.Fchmod, flock: func(int, int) error { return syscall.ENOLCK }},
	}
	for name, l := range failing {
		if _, err := l.lock(t.Context(), path); err == nil {
			t.Errorf("%s: locked, want an error", name)
		}
		if testkit.Exists(lockFile(path)) {
			t.Errorf("%s: the file stays", name)
		}
	}
	// Another process has been faster: the file is its own.
	faster := locking{fchmod: unix.Fchmod, flock: func(int, int) error { return syscall.EWOULDBLOCK }}
	if _, err := faster.try(lockFile(path)); err == nil || !testkit.Exists(lockFile(path)) {
		t.Errorf("a file that another process holds: %v, want it left there", err)
	}
}
