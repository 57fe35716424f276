package daemon

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestFileThatIsAwayIsAFailureAfterAWhile(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	text := fileText("", p)
	timing := shortTiming()
	timing.missing = 2 * time.Second
	f := runFiled(t, filing{dir: dir, time: timing}, text)
	f.ready()
	gone := time.Now()
	if err := os.Remove(f.file); err != nil {
		t.Fatal(err)
	}
	f.refused("no such file")
	if took := time.Since(gone); took < timing.missing {
		t.Errorf("told after %s, want not before %s", took, timing.missing)
	}
	newCaller(t, p.listen).keyID()
	f.loads(text) // the same that is served
}

func TestFileThatCannotBeReadIsTriedAgain(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	var broken atomic.Bool
	failing := usualFiles()
	failing.read = func(path string) ([]byte, error) {
		if broken.Load() {
			return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EIO}
		}
		return usualFiles().read(path)
	}
	timing := shortTiming()
	timing.poll = 20 * time.Millisecond
	f := runFiled(t, filing{dir: dir, time: timing, files: &failing}, fileText("", p))
	f.ready()
	broken.Store(true)
	f.refused("input/output error")
	time.Sleep(5 * timing.retryMost)
	if n := strings.Count(f.log.String(), "not reloaded"); n != 1 {
		t.Errorf("the same failure is told %d times, want once", n)
	}
	broken.Store(false)
	f.loaded(fileText("", p))
}

func TestWithoutInotifyTheFileIsLookedAtFromTimeToTime(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	without := usualFiles()
	without.notify = func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }
	timing := shortTiming()
	timing.poll = 20 * time.Millisecond
	f := runFiled(t, filing{dir: dir, time: timing, files: &without}, fileText("", p))
	f.ready()
	until(t, "it is told", func() bool { return f.log.has("cannot be watched") })
	p.epoch = 1
	f.loads(fileText("", p))
	if n := strings.Count(f.log.String(), "cannot be watched"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
}

func TestPathsAreFollowedAsTheKernelDoes(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(directory(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, made), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"a/up": "../c", "c/file": "real", "abs": dir + "/a", "loop": "loop", "a/b/dangling": "../none/file", "empty": "c/./../a/up/./file",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/c/real", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"c/real":        "c/real",
		"c/file":        "c/file c/real",
		"a/up/file":     "a/up c/file c/real",
		"abs/up/real":   "a/up abs c/real",
		"empty":         "a/up c/file c/real empty",
		"loop":          "loop",
		"none/file":     "none",
		"a/b/dangling":  "a/b/dangling a/none",
		"a/b/../up/x/y": "a/up c/x",
		"c/real/x":      "c/real",
	} {
		p := placesOf(filepath.Join(dir, "") + "/" + path)
		var got []string
		for name := range p.names {
			rel, err := filepath.Rel(dir, name)
			if err != nil || !p.dirs[filepath.Dir(name)] {
				t.Errorf("%s: %s is not watched, or outside: %v", path, name, err)
			}
			got = append(got, rel)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s leads through %v, want %s", path, got, want)
		}
	}
}

// Nothing happens to a directory whose parent gets another name.
func TestWhatEventsDoNotTellIsNoticedByTheSlowLook(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	write := func() {
		t.Helper()
		err := os.MkdirAll(dir+"/a/b", 0o755)
		if err == nil {
			err = os.WriteFile(dir+"/a/b/config.yaml", []byte(fileText("", p)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write()
	timing := shortTiming()
	timing.poll, timing.missing = 500*time.Millisecond, patience
	f := runFiled(t, filing{dir: dir, file: dir + "/a/b/config.yaml", time: timing}, "")
	f.ready()
	f.must(os.Rename(dir+"/a", dir+"/old"))
	p.epoch = 1
	write()
	f.loaded(fileText("", p))
	p.epoch = 2
	write()
	f.loaded(fileText("", p))
}
