package daemon

import (
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestFileThatIsAwayIsAFailureAfterAWhile(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
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
	dir := testkit.Directory(t)
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
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	without := usualFiles()
	without.notify = func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }
	timing := shortTiming()
	timing.poll = 20 * time.Millisecond
	f := runFiled(t, filing{dir: dir, time: timing, files: &without}, fileText("", p))
	f.ready()
	testkit.Until(t, "it is told", func() bool { return f.log.Has("cannot be watched") })
	p.epoch = 1
	f.loads(fileText("", p))
	if n := strings.Count(f.log.String(), "cannot be watched"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
}

// Nothing happens to a directory whose parent gets another name.
func TestWhatEventsDoNotTellIsNoticedByTheSlowLook(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
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
	timing.poll, timing.missing = 500*time.Millisecond, testkit.Patience
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
