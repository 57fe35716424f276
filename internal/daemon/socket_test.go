package daemon

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

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// options are those of a socket that no test says otherwise about.
func options(path string, log *logBook) socketOptions {
	return socketOptions{
		path: path, access: access{0o600, -1}, log: log.logger(), time: shortTiming(), files: usualFiles(), settings: settingsOf(&config.Config{}), handed: &handed{},
	}
}

// claim claims a socket, and waits for a holder as long as its timing says.
func claim(ctx context.Context, o socketOptions) (*socket, error) {
	s := newSocket(o)
	return s, s.claim(ctx, o.time.holderWait)
}

// mustClaim claims a socket for the rest of the test.
func mustClaim(t testing.TB, path string) *socket {
	t.Helper()
	s, err := claim(t.Context(), options(path, &logBook{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func permissions(t testing.TB, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func groupOf(t testing.TB, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Gid)
}

// otherGroup is one that this process may give a file to: where it can, not the
// one that it gives anyway.
func otherGroup(t testing.TB) int {
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

func umasks() []int { return []int{0, 0o022, 0o077, 0o777} }

func TestSocketIsBornClosedToOthers(t *testing.T) {
	for _, umask := range umasks() {
		t.Run(fmt.Sprintf("umask %04o", umask), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(directory(t), "s")
			another(t, role{Do: "listen", Path: path, Umask: umask}, os.Getuid()).expect("", "listening")
			if got := permissions(t, path); got&^0o600 != 0 {
				t.Errorf("bound with mode %04o, want nothing beyond 0600", got)
			}
		})
	}
}

// A watcher looks at a socket file as often as it can while it is made.
type watcher struct {
	stop, done chan struct{}
	seen       map[string]int
}

func watchFile(path string) *watcher {
	w := &watcher{stop: make(chan struct{}), done: make(chan struct{}), seen: map[string]int{}}
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

func (w *watcher) result() map[string]int {
	close(w.stop)
	<-w.done
	return w.seen
}

func TestSocketIsNeverOpenToAnyoneNotMeant(t *testing.T) {
	group := otherGroup(t)
	for _, umask := range umasks() {
		t.Run(fmt.Sprintf("umask %04o", umask), func(t *testing.T) {
			path := filepath.Join(directory(t), "s")
			end := fmt.Sprintf("0660 %d", group)
			w := watchFile(path)
			for range 3 {
				p := another(t, role{Do: "claim", Path: path, Mode: 0o660, Group: group, Umask: umask, Wait: patience}, os.Getuid())
				p.expect("", "ready")
				p.expect("go", "claimed")
				if got := fmt.Sprintf("%04o %d", permissions(t, path), groupOf(t, path)); got != end {
					t.Errorf("made with mode and group %s, want %s", got, end)
				}
				p.leave()
			}
			for seen, times := range w.result() {
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
				path := filepath.Join(directory(t), "s")
				p := another(t, role{Do: "claim", Path: path, Mode: uint32(mode), Group: -1, Umask: umask}, os.Getuid())
				p.expect("", "ready")
				p.expect("go", "claimed")
				if got := permissions(t, path); got != mode {
					t.Errorf("mode %04o, want %04o", got, mode)
				}
				if got := groupOf(t, path); got != os.Getegid() {
					t.Errorf("group %d, want the process's own, %d", got, os.Getegid())
				}
			})
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(directory(t), "s")
	holding(t, path).kill()
	if !exists(path) {
		t.Fatal("a killed holder left no socket: the test shows nothing")
	}
	mustClaim(t, path)
	if pid, live := holder(context.Background(), path); !live || pid != os.Getpid() {
		t.Errorf("holder is %d (%t), want this process, %d", pid, live, os.Getpid())
	}
}

func TestLiveSocketIsNeverTaken(t *testing.T) {
	for _, path := range []string{filepath.Join(directory(t), "s"), "@aep-live-" + strconv.Itoa(os.Getpid())} {
		t.Run(path[:1], func(t *testing.T) {
			p := holding(t, path)
			var log logBook
			o := options(path, &log)
			began := time.Now()
			_, err := claim(t.Context(), o)
			if took := time.Since(began); took < o.time.holderWait {
				t.Errorf("gave up after %s, want to wait for %s", took, o.time.holderWait)
			}
			want := fmt.Sprintf("listening on %s: the process with pid %d serves it; stop that process, or give this one another --listen", path, p.pid())
			if err == nil || err.Error() != want {
				t.Errorf("claim: %v\nwant %s", err, want)
			}
			if n := strings.Count(log.String(), "waiting"); n != 1 {
				t.Errorf("the wait is logged %d times, want once:\n%s", n, &log)
			}
			if pid, live := holder(context.Background(), path); !live || pid != p.pid() {
				t.Errorf("holder is %d (%t) now, want still %d", pid, live, p.pid())
			}
		})
	}
}

func TestSocketIsTakenOverWhenItsHolderLeaves(t *testing.T) {
	for name, leave := range map[string]func(*process){"in good order": (*process).leave, "killed": (*process).kill} {
		for _, path := range []string{filepath.Join(directory(t), "s"), "@aep-over-" + strconv.Itoa(os.Getpid())} {
			t.Run(name+" "+path[:1], func(t *testing.T) {
				p := holding(t, path)
				var log logBook
				o := options(path, &log)
				o.time.holderWait = patience
				claimed := make(chan error, 1)
				go func() {
					s, err := claim(t.Context(), o)
					if err == nil {
						s.close()
					}
					claimed <- err
				}()
				until(t, "the second waits", func() bool { return log.has("waiting") })
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
				path := filepath.Join(directory(t), "s")
				if stale {
					holding(t, path).kill()
				}
				processes := make([]*process, n)
				for i := range processes {
					processes[i] = another(t, role{Do: "claim", Path: path, Mode: 0o600, Group: -1, Wait: 300 * time.Millisecond}, os.Getuid())
					processes[i].expect("", "ready")
				}
				for _, p := range processes {
					p.ask("go")
				}
				winners, refusals := []int{}, []string{}
				for _, p := range processes {
					if said := p.line(); said == "claimed" {
						winners = append(winners, p.pid())
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
			path := filepath.Join(directory(t), "s")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = claim(t.Context(), options(path, &logBook{}))
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
	dir := directory(t)
	if err := os.Symlink(dir, filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	mustClaim(t, filepath.Join(dir, "s"))
	path := filepath.Join(dir, "alias", "s")
	o := options(path, &logBook{})
	o.time.holderWait = patience
	began := time.Now()
	_, err := claim(t.Context(), o)
	want := "listening on " + path + ": another --listen of this process is the same socket; each key needs one of its own"
	if err == nil || err.Error() != want {
		t.Errorf("claim: %v\nwant %s", err, want)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("said after %s, want at once", took)
	}
}

func TestClosingRemovesOnesOwnFileAndNoOther(t *testing.T) {
	t.Run("own", func(t *testing.T) {
		path := filepath.Join(directory(t), "s")
		mustClaim(t, path).close()
		if exists(path) {
			t.Error("the file is still there")
		}
	})
	t.Run("another's", func(t *testing.T) {
		path := filepath.Join(directory(t), "s")
		s := mustClaim(t, path)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		p := holding(t, path)
		s.close()
		if pid, live := holder(context.Background(), path); !live || pid != p.pid() {
			t.Errorf("holder is %d (%t), want still %d", pid, live, p.pid())
		}
	})
	t.Run("twice", func(t *testing.T) {
		path := filepath.Join(directory(t), "s")
		s := mustClaim(t, path)
		s.close()
		p := holding(t, path)
		s.close()
		if pid, live := holder(context.Background(), path); !live || pid != p.pid() {
			t.Errorf("holder is %d (%t), want still %d", pid, live, p.pid())
		}
	})
}

func TestSocketThatCannotBeMadeIsExplained(t *testing.T) {
	file := filepath.Join(directory(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(file, "s")
	_, err := claim(t.Context(), options(path, &logBook{}))
	if err == nil || !strings.HasPrefix(err.Error(), "listening on "+path+": ") || !strings.Contains(err.Error(), syscall.ENOTDIR.Error()) {
		t.Errorf("claim: %v, want the path and %q", err, syscall.ENOTDIR.Error())
	}
}

func TestRestoringRacesWithClosing(t *testing.T) {
	dir := directory(t)
	for i := range 200 {
		path := filepath.Join(dir, strconv.Itoa(i))
		s, err := claim(t.Context(), options(path, &logBook{}))
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
		s.close()
		<-restored
		if exists(path) {
			t.Fatalf("round %d: the socket was put back after it had been closed, and stays for ever", i)
		}
	}
}
