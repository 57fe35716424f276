package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// An obstacle keeps a process from a socket, until it is taken away.
type obstacle struct {
	path   string
	why    string // in the error
	remove func()
}

// obstacles are the ways in which a socket in dir cannot be had.
func obstacles() map[string]func(t *testing.T, dir string) obstacle {
	return map[string]func(t *testing.T, dir string) obstacle{
		"another process serves it": func(t *testing.T, dir string) obstacle {
			t.Helper()
			held := holding(t, dir+"/held")
			return obstacle{dir + "/held", fmt.Sprintf("the process with pid %d serves it", held.PID()), held.Leave}
		},
		"its directory cannot be made": func(t *testing.T, dir string) obstacle {
			t.Helper()
			return inTheWay(t, dir+"/run", dir+"/run/s", "not a directory")
		},
		"something else is in its place": func(t *testing.T, dir string) obstacle {
			t.Helper()
			return inTheWay(t, dir+"/file", dir+"/file", "a file is in its place")
		},
	}
}

// inTheWay puts a file where no socket or directory can then be.
func inTheWay(t *testing.T, file, path, why string) obstacle {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return obstacle{path, why, func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}}
}

// A halved daemon has a provider that is served, and is to have one whose socket it
// cannot have.
type halved struct {
	*filed

	c        *caller
	first    providerText
	second   providerText
	obstacle obstacle
}

func newHalved(t *testing.T, meet func(t *testing.T, dir string) obstacle, start func(first, second providerText) string) *halved {
	t.Helper()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	h := &halved{obstacle: meet(t, dir)}
	h.first = providerText{name: "first", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	h.second = providerText{name: "second", listen: h.obstacle.path, keys: h.first.keys}
	h.filed = runFiled(t, filing{dir: dir}, start(h.first, h.second))
	h.c = newCaller(t, h.first.listen)
	h.c.keyID()
	return h
}

// goesOn demands that the first provider is served as ever, over one connection.
func (h *halved) goesOn() {
	h.t.Helper()
	h.c.opens(h.c.seals())
	if n := h.c.dials.Load(); n != 1 {
		h.t.Errorf("the caller of the first provider has connected %d times, want once", n)
	}
	h.waitFor("/readyz/first", http.StatusOK, "^provider first: ok")
	if code, body := h.get("/livez"); code != http.StatusOK {
		h.t.Errorf("/livez: %d %s, want 200: a restart mends no socket", code, body)
	}
	select {
	case err := <-h.Failed():
		h.t.Fatalf("the process ends: %v", err)
	default:
	}
}

// serves waits until the daemon says that it serves what can be served.
func (h *halved) serves() {
	h.t.Helper()
	select {
	case <-h.Serving():
	case <-time.After(testkit.Patience):
		h.t.Fatalf("it does not say that it serves:\n%s", h.log)
	}
}

func (h *halved) says(what, text string, wants ...string) {
	h.t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			h.t.Errorf("%s: %q, want in it %q", what, text, want)
		}
	}
}

func (h *halved) metrics(want map[string]string) {
	h.t.Helper()
	for series, value := range want {
		testkit.Until(h.t, series+" is "+value, func() bool { return h.metric(series) == value })
	}
}

const (
	servedFirst   = `aws_encryption_provider_socket_served{provider="first"}`
	servedSecond  = `aws_encryption_provider_socket_served{provider="second"}`
	causeOfSecond = `aws_encryption_provider_health_cause{code="KMS0602",provider="second"}`
	reloadSuccess = "aws_encryption_provider_config_reload_success"
)

func TestSocketThatCannotBeHadAtTheStartLeavesTheOtherServed(t *testing.T) {
	t.Parallel()
	for name, meet := range obstacles() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHalved(t, meet, func(first, second providerText) string { return fileText("", first, second) })
			h.serves()
			h.waitFor("/readyz", http.StatusServiceUnavailable, "(?s)^provider first: ok.*provider second: its socket is not served since .*: KMS0602: .*"+h.obstacle.why)
			h.goesOn()
			h.says("status line", h.States(), "provider first: healthy, ", "provider second: ", "its socket cannot be had (KMS0602)")
			h.metrics(map[string]string{servedFirst: "1", servedSecond: "0", causeOfSecond: "1", reloadSuccess: "1"})

			h.obstacle.remove()
			newCaller(t, h.second.listen).seals()
			h.ready()
			h.goesOn()
			h.metrics(map[string]string{servedSecond: "1", causeOfSecond: ""})
			if log := h.log.String(); strings.Count(log, "trying again in the background, the others") != 1 || strings.Count(log, "could be had at last") != 1 {
				t.Errorf("want one line of the beginning and one of the end:\n%s", log)
			}
		})
	}
}

func TestSocketThatCannotBeHadAtAReloadLeavesTheOtherServed(t *testing.T) {
	t.Parallel()
	for name, meet := range obstacles() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHalved(t, meet, func(first, _ providerText) string { return fileText("", first) })
			text := fileText("", h.first, h.second)
			h.refuses(text, "KMS0602: the socket cannot be had: listening on "+h.obstacle.path+": ")
			h.waitFor("/readyz?verbose", http.StatusOK, "configuration not reloaded since .* it is tried again: KMS0602: .*"+h.obstacle.why)
			h.goesOn()
			h.says("status line", h.States(), "configuration not reloaded, the running one goes on: KMS0602: ", h.obstacle.why, "; provider first: healthy")
			h.metrics(map[string]string{servedFirst: "1", servedSecond: "", reloadSuccess: "0"})

			h.obstacle.remove()
			h.loaded(text) // without a change of the file
			newCaller(t, h.second.listen).seals()
			h.goesOn()
			h.metrics(map[string]string{servedSecond: "1", reloadSuccess: "1"})
			if states := h.States(); strings.Contains(states, "not reloaded") {
				t.Errorf("status line: %s", states)
			}
		})
	}
}

// runMissing starts a daemon whose second socket is held, with a pause between tries
// that no test outlasts.
func runMissing(t *testing.T) (*halved, *testkit.Process) {
	t.Helper()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	held := holding(t, dir+"/held")
	h := &halved{}
	h.first = providerText{name: "first", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	h.second = providerText{name: "second", listen: dir + "/held", keys: h.first.keys}
	timing := shortTiming()
	timing.retry, timing.retryMost = 10*testkit.Patience, 10*testkit.Patience
	h.filed = runFiled(t, filing{dir: dir, time: timing}, fileText("", h.first, h.second))
	h.serves()
	return h, held
}

func TestMissingSocketIsTriedAtOnceAfterAReload(t *testing.T) {
	t.Parallel()
	h, held := runMissing(t)
	held.Leave()
	h.loads(fileText("kmsTimeout: 9s\n", h.first, h.second))
	newCaller(t, h.second.listen).seals()
	h.ready()
}

func TestMissingSocketThatIsTakenOutIsNotMissed(t *testing.T) {
	t.Parallel()
	h, held := runMissing(t)
	h.loads(fileText("", h.first))
	h.settled()
	h.ready()
	h.metrics(map[string]string{servedFirst: "1", servedSecond: ""})
	if pid, live := holder(context.Background(), h.second.listen); !live || pid != held.PID() {
		t.Errorf("holder is %d (%t), want still %d", pid, live, held.PID())
	}
}

// A file of which nothing could be served does not take the place of one that is.
func TestReloadThatLeavesOnlyMissingSocketsIsNotDone(t *testing.T) {
	t.Parallel()
	h, _ := runMissing(t)
	h.refuses(fileText("", h.second), "KMS0602")
	newCaller(t, h.first.listen).seals()
	select {
	case err := <-h.Failed():
		t.Errorf("the process ends: %v", err)
	default:
	}
}

// A socket whose file system hung is taken as soon as what was begun with it has ended.
func TestMissingSocketWhoseFileSystemHungIsTaken(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	h := &halved{}
	h.first = providerText{name: "first", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	h.second = providerText{name: "second", listen: dir + "/hangs", keys: h.first.keys}
	free := make(chan struct{})
	ops := usualFiles()
	ops.Listen = func(ctx context.Context, path string, mode uint32) (net.Listener, error) {
		if path == h.second.listen {
			<-free
		}
		return unixsocket.System().Listen(ctx, path, mode)
	}
	timing := shortTiming()
	timing.File = 50 * time.Millisecond
	h.filed = runFiled(t, filing{dir: dir, time: timing, files: &ops}, fileText("", h.first, h.second))
	h.waitFor("/readyz/second", http.StatusServiceUnavailable, "KMS0602: .* did not end within 50ms")
	h.serves()
	h.c = newCaller(t, h.first.listen)
	h.goesOn()
	close(free)
	newCaller(t, h.second.listen).seals()
	h.ready()
}
