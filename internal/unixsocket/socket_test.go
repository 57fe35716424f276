package unixsocket

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// holderWait is how long a test waits for a holder that does not leave.
const holderWait = 300 * time.Millisecond

// options are those of a socket that no test says otherwise about.
func options(path string, log *testkit.LogBook) Options {
	return Options{
		Path: path, Access: Access{0o600, -1}, Log: log.Logger(), Files: System(), Handed: &Handed{},
		Timing: Timing{HolderPoll: 10 * time.Millisecond, Keep: 20 * time.Millisecond, File: testkit.Patience},
		Words:  Words{Listen: "--listen", Group: "--socket-group", Owner: "key"},
	}
}

// claim claims a socket, and does not wait long for a holder.
func claim(ctx context.Context, o Options) (*Socket, error) { return claimFor(ctx, o, holderWait) }

func claimFor(ctx context.Context, o Options, wait time.Duration) (*Socket, error) {
	s := New(o)
	return s, s.Claim(ctx, wait)
}

// mustClaim claims a socket for the rest of the test.
func mustClaim(t testing.TB, path string) *Socket {
	t.Helper()
	s, err := claim(t.Context(), options(path, &testkit.LogBook{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func umasks() []int { return []int{0, 0o022, 0o077, 0o777} }

func TestSocketIsBornClosedToOthers(t *testing.T) {
	for _, umask := range umasks() {
		t.Run(fmt.Sprintf("umask %04o", umask), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(testkit.Directory(t), "s")
			testkit.Another(t, role{Do: "listen", Path: path, Umask: umask}, os.Getuid()).Expect("", "listening")
			if got := testkit.Permissions(t, path); got&^0o600 != 0 {
				t.Errorf("bound with mode %04o, want nothing beyond 0600", got)
			}
		})
	}
}

func TestSocketIsNeverOpenToAnyoneNotMeant(t *testing.T) {
	group := testkit.OtherGroup(t)
	for _, umask := range umasks() {
		t.Run(fmt.Sprintf("umask %04o", umask), func(t *testing.T) {
			path := filepath.Join(testkit.Directory(t), "s")
			end := fmt.Sprintf("0660 %d", group)
			w := testkit.WatchFile(path)
			for range 3 {
				p := testkit.Another(t, role{Do: "claim", Path: path, Mode: 0o660, Group: group, Umask: umask, Wait: testkit.Patience}, os.Getuid())
				p.Expect("", "ready")
				p.Expect("go", "claimed")
				if got := fmt.Sprintf("%04o %d", testkit.Permissions(t, path), testkit.GroupOf(t, path)); got != end {
					t.Errorf("made with mode and group %s, want %s", got, end)
				}
				p.Leave()
			}
			for seen, times := range w.Result() {
				mode, err := strconv.ParseUint(seen[:4], 8, 32)
				if err != nil {
					t.Fatal(err)
				}
				if seen != end && mode&^0o600 != 0 {
					t.Errorf("seen %d times with mode and group %s on the way to %s", times, seen, end)
				}
			}
		})
	}
}

func TestSocketModeIsExact(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o620, 0o660, 0o666, 0o777} {
		for _, umask := range umasks() {
			t.Run(fmt.Sprintf("mode %04o umask %04o", mode, umask), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(testkit.Directory(t), "s")
				p := testkit.Another(t, role{Do: "claim", Path: path, Mode: uint32(mode), Group: -1, Umask: umask}, os.Getuid())
				p.Expect("", "ready")
				p.Expect("go", "claimed")
				if got := testkit.Permissions(t, path); got != mode {
					t.Errorf("mode %04o, want %04o", got, mode)
				}
				if got := testkit.GroupOf(t, path); got != os.Getegid() {
					t.Errorf("group %d, want the process's own, %d", got, os.Getegid())
				}
			})
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(testkit.Directory(t), "s")
	holding(t, path).Kill()
	if !testkit.Exists(path) {
		t.Fatal("a killed holder left no socket: the test shows nothing")
	}
	mustClaim(t, path)
	if pid, live := holder(context.Background(), path); !live || pid != os.Getpid() {
		t.Errorf("holder is %d (%t), want this process, %d", pid, live, os.Getpid())
	}
}

func TestLiveSocketIsNeverTaken(t *testing.T) {
	for _, path := range []string{filepath.Join(testkit.Directory(t), "s"), "@aep-live-" + strconv.Itoa(os.Getpid())} {
		t.Run(path[:1], func(t *testing.T) {
			p := holding(t, path)
			var log testkit.LogBook
			o := options(path, &log)
			began := time.Now()
			_, err := claim(t.Context(), o)
			if took := time.Since(began); took < holderWait {
				t.Errorf("gave up after %s, want to wait for %s", took, holderWait)
			}
			want := fmt.Sprintf("listening on %s: the process with pid %d serves it; stop that process, or give this one another --listen", path, p.PID())
			if err == nil || err.Error() != want {
				t.Errorf("claim: %v\nwant %s", err, want)
			}
			if n := strings.Count(log.String(), "waiting"); n != 1 {
				t.Errorf("the wait is logged %d times, want once:\n%s", n, &log)
			}
			if pid, live := holder(context.Background(), path); !live || pid != p.PID() {
				t.Errorf("holder is %d (%t) now, want still %d", pid, live, p.PID())
			}
		})
	}
}

func TestSocketIsTakenOverWhenItsHolderLeaves(t *testing.T) {
	for name, leave := range map[string]func(*testkit.Process){"in good order": (*testkit.Process).Leave, "killed": (*testkit.Process).Kill} {
		for _, path := range []string{filepath.Join(testkit.Directory(t), "s"), "@aep-over-" + strconv.Itoa(os.Getpid())} {
			t.Run(name+" "+path[:1], func(t *testing.T) {
				p := holding(t, path)
				var log testkit.LogBook
				o := options(path, &log)
				claimed := make(chan error, 1)
				go func() {
					s, err := claimFor(t.Context(), o, testkit.Patience)
					if err == nil {
						s.Close()
					}
					claimed <- err
				}()
				testkit.Until(t, "the second waits", func() bool { return log.Has("waiting") })
				leave(p)
				if err := <-claimed; err != nil {
					t.Errorf("claim: %v, want the socket", err)
				}
			})
		}
	}
}

func TestOfManyThatStartAtOnceOneWins(t *testing.T) {
	for _, n := range []int{2, 10} {
		for name, stale := range map[string]bool{"nothing there": false, "stale socket": true} {
			t.Run(fmt.Sprintf("%d, %s", n, name), func(t *testing.T) {
				path := filepath.Join(testkit.Directory(t), "s")
				if stale {
					holding(t, path).Kill()
				}
				processes := make([]*testkit.Process, n)
				for i := range processes {
					processes[i] = testkit.Another(t, role{Do: "claim", Path: path, Mode: 0o600, Group: -1, Wait: 300 * time.Millisecond}, os.Getuid())
					processes[i].Expect("", "ready")
				}
				for _, p := range processes {
					p.Ask("go")
				}
				winners, refusals := []int{}, []string{}
				for _, p := range processes {
					if said := p.Line(); said == "claimed" {
						winners = append(winners, p.PID())
					} else {
						refusals = append(refusals, said)
					}
				}
				if len(winners) != 1 {
					t.Fatalf("%d of %d won (%v), want one; the others said %q", len(winners), n, winners, refusals)
				}
				for _, said := range refusals {
					if !strings.Contains(said, fmt.Sprintf("the process with pid %d serves it", winners[0])) {
						t.Errorf("one that lost said %q, want the winner's pid %d in it", said, winners[0])
					}
				}
			})
		}
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"file":             {func(p string) error { return os.WriteFile(p, []byte("precious"), 0o600) }, "a file"},
		"empty file":       {func(p string) error { return os.WriteFile(p, nil, 0o600) }, "a file"},
		"directory":        {func(p string) error { return os.Mkdir(p, 0o700) }, "a directory"},
		"symlink":          {func(p string) error { return os.Symlink("/dev/null", p) }, "a symbolic link"},
		"dangling symlink": {func(p string) error { return os.Symlink("nowhere", p) }, "a symbolic link"},
		"fifo":             {func(p string) error { return unix.Mkfifo(p, 0o600) }, "a named pipe"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(testkit.Directory(t), "s")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = claim(t.Context(), options(path, &testkit.LogBook{}))
			want := "listening on " + path + ": " + c.want + " is in its place, which is no socket: move it away, or give another --listen"
			if err == nil || err.Error() != want {
				t.Errorf("claim: %v\nwant %s", err, want)
			}
			after, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if !os.SameFile(before, after) || before.Mode() != after.Mode() || before.Size() != after.Size() {
				t.Errorf("now %v, was %v", after.Mode(), before.Mode())
			}
		})
	}
}

func TestOneSocketByTwoNamesIsSaidAtOnce(t *testing.T) {
	dir := testkit.Directory(t)
	if err := os.Symlink(dir, filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	mustClaim(t, filepath.Join(dir, "s"))
	path := filepath.Join(dir, "alias", "s")
	o := options(path, &testkit.LogBook{})
	began := time.Now()
	_, err := claimFor(t.Context(), o, testkit.Patience)
	want := "listening on " + path + ": another --listen of this process is the same socket; each key needs one of its own"
	if err == nil || err.Error() != want {
		t.Errorf("claim: %v\nwant %s", err, want)
	}
	if took := time.Since(began); took > testkit.Patience/2 {
		t.Errorf("said after %s, want at once", took)
	}
}

func TestClosingRemovesOnesOwnFileAndNoOther(t *testing.T) {
	t.Run("own", func(t *testing.T) {
		path := filepath.Join(testkit.Directory(t), "s")
		mustClaim(t, path).Close()
		if testkit.Exists(path) {
			t.Error("the file is still there")
		}
	})
	t.Run("another's", func(t *testing.T) {
		path := filepath.Join(testkit.Directory(t), "s")
		s := mustClaim(t, path)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		p := holding(t, path)
		s.Close()
		if pid, live := holder(context.Background(), path); !live || pid != p.PID() {
			t.Errorf("holder is %d (%t), want still %d", pid, live, p.PID())
		}
	})
	t.Run("twice", func(t *testing.T) {
		path := filepath.Join(testkit.Directory(t), "s")
		s := mustClaim(t, path)
		s.Close()
		p := holding(t, path)
		s.Close()
		if pid, live := holder(context.Background(), path); !live || pid != p.PID() {
			t.Errorf("holder is %d (%t), want still %d", pid, live, p.PID())
		}
	})
}

func TestSocketThatCannotBeMadeIsExplained(t *testing.T) {
	file := filepath.Join(testkit.Directory(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(file, "s")
	_, err := claim(t.Context(), options(path, &testkit.LogBook{}))
	if err == nil || !strings.HasPrefix(err.Error(), "listening on "+path+": ") || !strings.Contains(err.Error(), syscall.ENOTDIR.Error()) {
		t.Errorf("claim: %v, want the path and %q", err, syscall.ENOTDIR.Error())
	}
}

func TestRestoringRacesWithClosing(t *testing.T) {
	dir := testkit.Directory(t)
	for i := range 200 {
		path := filepath.Join(dir, strconv.Itoa(i))
		s, err := claim(t.Context(), options(path, &testkit.LogBook{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		restored := make(chan struct{})
		go func() {
			defer close(restored)
			_ = s.restore(context.Background(), func(net.Listener) {})
		}()
		time.Sleep(time.Duration(i) * 2 * time.Microsecond) // a different moment each time
		s.Close()
		<-restored
		if testkit.Exists(path) {
			t.Fatalf("round %d: the socket was put back after it had been closed, and stays for ever", i)
		}
	}
}
