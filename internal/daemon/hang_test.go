package daemon

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// A hang is what does not return until it is released, which its test does.
type hang struct {
	on      atomic.Bool
	waiting atomic.Int64
	free    chan struct{}
	release func()
}

func newHang(t testing.TB) *hang {
	t.Helper()
	h := &hang{free: make(chan struct{})}
	h.release = sync.OnceFunc(func() { h.on.Store(false); close(h.free) })
	t.Cleanup(func() {
		h.release()
		testkit.Until(t, "all that hung has returned", func() bool { return h.waiting.Load() == 0 })
	})
	return h
}

func (h *hang) here() {
	if !h.on.Load() {
		return
	}
	h.waiting.Add(1)
	defer h.waiting.Add(-1)
	<-h.free
}

// hangingFiles are those of usualFiles, of which every one hangs.
func (h *hang) hangingFiles() *files {
	usual, hanging := usualFiles(), usualFiles()
	hanging.read = func(path string) ([]byte, error) { h.here(); return usual.read(path) }
	hanging.Mkdir = func(path string, mode fs.FileMode) error { h.here(); return usual.Mkdir(path, mode) }
	hanging.Chmod = func(path string, file unixsocket.FileID, mode fs.FileMode) error {
		h.here()
		return usual.Chmod(path, file, mode)
	}
	hanging.Remove = func(path string) error { h.here(); return usual.Remove(path) }
	hanging.Lock = func(ctx context.Context, path string) (func(), error) { h.here(); return usual.Lock(ctx, path) }
	return &hanging
}

// stuckProvider is one whose calls do not return, whatever their context says.
type stuckProvider struct {
	kmsserver.Provider

	hang *hang
}

func (p stuckProvider) Encrypt(context.Context, secret.Bytes) (provider.Encrypted, error) {
	p.hang.here()
	return provider.Encrypted{}, errors.New("late")
}

// one is a filed daemon with one provider, whose files may hang.
func one(t *testing.T, h *hang, timing timing, globals string) (p providerText, f *filed) {
	t.Helper()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	p = providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	f = runFiled(t, filing{dir: dir, time: timing, files: h.hangingFiles()}, fileText(globals, p))
	f.ready()
	return p, f
}

func TestEndHasABoundAndNamesWhatHangs(t *testing.T) {
	for name, c := range map[string]struct {
		hangs func(f *filed, h *hang)
		want  string
	}{
		"a call that does not return": {func(f *filed, h *hang) {
			at := f.current.Load().providers[0].at
			at.server.Set(kmsserver.NewTarget(kmsserver.TargetOptions{
				Name: "stuck", Key: "k", Provider: stuckProvider{hang: h}, Metrics: f.metrics, Log: f.Daemon.log,
			}))
			h.on.Store(true)
			c := f.client()
			go func() { _, _ = c.Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: []byte("k")}) }() // ends with the socket
			testkit.Until(f.t, "the call is there", func() bool { return h.waiting.Load() > 0 })
		}, "calls of socket "},
		"files of the socket": {func(_ *filed, h *hang) { h.on.Store(true) }, "the file of socket "},
		"the file of --config": {func(f *filed, h *hang) {
			h.on.Store(true)
			f.Reload()
			testkit.Until(f.t, "the file is read", func() bool { return h.waiting.Load() > 0 })
		}, "the file of socket "},
		"checks": {func(f *filed, h *hang) {
			h.on.Store(true)
			f.current.Load().providers[0].running.Go(h.here)
		}, "checks of provider aws"},
		"a change of what is served": {func(f *filed, h *hang) {
			h.on.Store(true)
			f.changing.Lock()
			go func() { h.here(); f.changing.Unlock() }() // ends with the hang
		}, "a change of what is served"},
		"a Close": {func(f *filed, h *hang) {
			h.on.Store(true)
			f.work.Go(h.here)
		}, "the health port"},
	} {
		for hurry, drain := range map[bool]time.Duration{false: 100 * time.Millisecond, true: 10 * testkit.Patience} {
			t.Run(name+map[bool]string{true: ", in a hurry"}[hurry], func(t *testing.T) {
				t.Parallel()
				h := newHang(t)
				timing := shortTiming()
				timing.drain, timing.rest = drain, usualTiming().rest
				_, f := one(t, h, timing, "")
				c.hangs(f, h)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				if hurry {
					cancel()
				}
				f.stopped(ctx, testkit.Patience/2)
				if lines := strings.Count(f.log.String(), "the process ends although this has not ended"); lines != 1 || !f.log.Has(c.want) {
					t.Errorf("%d lines name what hangs, want one with %q:\n%s", lines, c.want, f.log)
				}
				h.release()
				testkit.Until(t, "what hung ends", func() bool { return f.ending.Hanging() == "" })
			})
		}
	}
}

func TestFileThatHangsLeavesWhatIsServedAndIsReadAgainLater(t *testing.T) {
	t.Parallel()
	h := newHang(t)
	timing := shortTiming()
	timing.File, timing.poll = 50*time.Millisecond, 20*time.Millisecond
	p, f := one(t, h, timing, "")
	h.on.Store(true)
	f.waitFor("/readyz?verbose", http.StatusOK, `configuration not reloaded since .*: reading the configuration did not end within 50ms`)
	if got := f.metric("aws_encryption_provider_config_reload_success"); got != "0" {
		t.Errorf("the metric of the reload is %q, want 0", got)
	}
	if got := f.metric(`aws_encryption_provider_waits_abandoned_total{wait="file"}`); got == "" || got == "0" {
		t.Errorf("%q waits were abandoned", got)
	}
	f.encrypts(f.client())
	p.epoch = 7
	f.write(fileText("", p))
	testkit.Until(t, "several reads hang", func() bool { return h.waiting.Load() == 4 })
	h.release()
	testkit.Until(t, "the file is served", func() bool { return strings.Contains(newCaller(t, p.listen).keyID(), "7") })
	f.waitFor("/readyz?verbose", http.StatusOK, `configuration .* loaded at`)
	if n := strings.Count(f.log.String(), "configuration not reloaded"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, f.log)
	}
}

func TestReloadGoesOnAfterTheDirectoriesOfSocketsHung(t *testing.T) {
	t.Parallel()
	h := newHang(t)
	timing := shortTiming()
	timing.File = 50 * time.Millisecond
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	usual, hanging := usualFiles(), usualFiles()
	hanging.follow = func(path string) { h.here(); usual.follow(path) }
	f := runFiled(t, filing{dir: dir, time: timing, files: &hanging}, fileText("", p))
	f.ready()
	h.on.Store(true)
	p.epoch = 7
	f.write(fileText("", p))
	f.refused("looking at the directories of sockets did not end within 50ms")
	f.encrypts(f.client())
	h.release()
	f.loaded(fileText("", p))
}

func TestSocketWhoseFileSystemHangsIsLookedAfterLater(t *testing.T) {
	t.Parallel()
	h := newHang(t)
	timing := shortTiming()
	timing.File = 50 * time.Millisecond
	p, f := one(t, h, timing, "")
	h.on.Store(true)
	f.must(os.Remove(p.listen))
	f.waitFor("/readyz", http.StatusServiceUnavailable, `its socket file cannot be looked at since .*: what was begun with the file did not end within 50ms`)
	if code, body := f.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s, want 200: a restart mends no file system", code, body)
	}
	h.release()
	testkit.Until(t, "the socket is back", func() bool { return ask(context.Background(), p.listen) == nil })
	f.encrypts(f.client())
	f.ready()
}

func TestStartWhoseSocketHangsNamesIt(t *testing.T) {
	t.Parallel()
	h := newHang(t)
	h.on.Store(true)
	timing := shortTiming()
	timing.File = 50 * time.Millisecond
	path := filepath.Join(testkit.Directory(t), "s")
	d := start(parse(t, []string{"--key=alias/k", "--region=us-west-2", "--listen=" + path, "--kms-endpoint=" + nowhere, "--health-port=127.0.0.1:0"}),
		Options{Log: (&testkit.LogBook{}).Logger()}, timing, *h.hangingFiles())
	select {
	case err := <-d.Failed():
		if want := "listening on " + path + ": what was begun with the file did not end within 50ms"; !strings.Contains(err.Error(), want) {
			t.Errorf("failed with %v, want %s", err, want)
		}
	case <-time.After(testkit.Patience):
		t.Error("no failure")
	}
	h.release()
	d.Shutdown(context.Background())
	testkit.Until(t, "no socket is left", func() bool { return !exists(path) })
}
