package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestPromisedTimes(t *testing.T) {
	u := usualTiming()
	if u.holderWait != 10*time.Second {
		t.Errorf("a holder is waited for for %s, want 10s", u.holderWait)
	}
	if u.drain != 5*time.Second {
		t.Errorf("running calls may take %s, want 5s", u.drain)
	}
	if u.rest > 500*time.Millisecond {
		t.Errorf("what hangs after that has %s, want the process to end within 6s and its log to be written", u.rest)
	}
	if u.Keep+time.Second >= 5*time.Second { // a second for whom to ask who is there
		t.Errorf("a socket file is looked after every %s, want it back within 5s", u.Keep)
	}
}

// underWay starts an Encrypt and returns when KMS has it.
func (r *running) underWay() <-chan error {
	r.t.Helper()
	c, before := r.client(), r.kms.Calls("Encrypt")
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
		defer cancel()
		_, err := c.Encrypt(ctx, &v2.EncryptRequest{Plaintext: bytes.Repeat([]byte("k"), 32)})
		done <- err
	}()
	testkit.Until(r.t, "KMS has the call", func() bool { return r.kms.Calls("Encrypt") > before })
	return done
}

// stopped fails the test when the daemon takes longer than a limit to stop.
func (r *running) stopped(hurry context.Context, limit time.Duration) {
	r.t.Helper()
	began := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.down.Do(func() { r.Shutdown(hurry) })
	}()
	select {
	case <-done:
	case <-time.After(limit):
		r.t.Errorf("not stopped within %s", limit)
		<-done
		r.t.Logf("stopped after %s", time.Since(began))
	}
}

func TestShutdownLetsRunningCallsFinishAndRefusesNewOnes(t *testing.T) {
	t.Parallel()
	r := run(t, setup{args: []string{"--kms-timeout=1m"}}).ready()
	conn := connectTo(t, r.path)
	r.encrypts(v2.NewKeyManagementServiceClient(conn)) // so that it is connected
	r.kms.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Latency, Delay: time.Second})
	running := r.underWay()
	down := make(chan struct{})
	go func() {
		defer close(down)
		r.stopped(context.Background(), testkit.Patience)
	}()
	testkit.Until(t, "the socket is gone", func() bool { return !r.exists() })
	testkit.Until(t, "new calls are refused", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
		defer cancel()
		_, err := v2.NewKeyManagementServiceClient(conn).Status(ctx, &v2.StatusRequest{}, grpc.WaitForReady(false))
		return status.Code(err) == codes.Unavailable
	})
	select {
	case err := <-running:
		t.Fatalf("the running call has ended (%v) before new ones were refused: the test shows nothing", err)
	default:
	}
	if err := <-running; err != nil {
		t.Errorf("the running call: %v, want it finished", err)
	}
	<-down
}

func TestShutdownCutsWhatHangs(t *testing.T) {
	for name, c := range map[string]struct {
		drain time.Duration
		hurry bool
	}{"after the time to drain": {100 * time.Millisecond, false}, "at once when in a hurry": {10 * testkit.Patience, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timing := shortTiming()
			timing.drain = c.drain
			r := run(t, setup{time: timing, args: []string{"--kms-timeout=10m"}}).ready()
			r.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
			running := r.underWay()
			hurry, cancel := context.WithCancel(context.Background())
			defer cancel()
			if c.hurry {
				cancel()
			}
			r.stopped(hurry, testkit.Patience/2)
			if err := <-running; err == nil {
				t.Error("a call that hangs in KMS has succeeded")
			}
			if r.exists() {
				t.Error("the socket is still there")
			}
		})
	}
}

func TestCallerThatSaysNothingDoesNotHoldUpShutdown(t *testing.T) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	never := 10 * testkit.Patience
	for name, c := range map[string]struct {
		said  string
		drain time.Duration
	}{
		"nothing":               {"", never},
		"half a preface":        {preface[:12], never},
		"a preface":             {preface, never},
		"all but some settings": {preface + "\x00\x00\x06\x04\x00\x00\x00\x00\x00", 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timing := shortTiming()
			timing.drain = c.drain
			r := run(t, setup{time: timing}).serving()
			conn, err := dialUnix(r.path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write([]byte(c.said)); err != nil {
				t.Fatal(err)
			}
			testkit.Until(t, "a later connection is served", func() bool { return ask(context.Background(), r.path) == nil })
			r.stopped(context.Background(), testkit.Patience/2)
		})
	}
}

func TestShutdownAtAnyMomentLeavesNoSocket(t *testing.T) {
	t.Parallel()
	dir := testkit.Directory(t)
	for i := range 40 {
		path := filepath.Join(dir, fmt.Sprint(i))
		d := start(parse(t, []string{"--key=alias/k", "--region=us-west-2", "--listen=" + path, "--kms-endpoint=http://127.0.0.1:1", "--health-port=127.0.0.1:0"}),
			Options{Log: (&testkit.LogBook{}).Logger()}, shortTiming(), usualFiles())
		time.Sleep(time.Duration(i) * 30 * time.Microsecond) // a different moment each time
		d.Shutdown(context.Background())
		if exists(path) {
			t.Fatalf("round %d: the socket outlives the process", i)
		}
	}
}

func TestShutdownWhileWaitingForAHolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testkit.Directory(t), "s")
	p := holding(t, path)
	timing := shortTiming()
	timing.holderWait = 10 * testkit.Patience
	r := run(t, setup{listen: path, time: timing})
	testkit.Until(t, "it waits", func() bool { return r.log.Has("waiting for its holder") })
	r.stopped(context.Background(), testkit.Patience/2)
	select {
	case err := <-r.Failed():
		t.Errorf("failed with %v, want no failure of a process that was told to end", err)
	default:
	}
	if pid, live := holder(context.Background(), path); !live || pid != p.PID() {
		t.Errorf("holder is %d (%t), want still %d", pid, live, p.PID())
	}
}

func TestNoSocketEndsTheProcessAndNothingElseBefore(t *testing.T) {
	t.Parallel()
	dir := testkit.Directory(t)
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	holders := []*testkit.Process{holding(t, one), holding(t, two)}
	timing := shortTiming()
	timing.holderWait = 2 * time.Second
	r := run(t, setup{listen: one, time: timing, args: []string{"--key=alias/other", "--listen=" + two}})
	if code, body := r.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez while it waits: %d %s, want 200", code, body)
	}
	if code, body := r.get("/readyz/1"); code != http.StatusServiceUnavailable || !strings.HasPrefix(body, "provider 1: its socket is not served yet, since the start at ") {
		t.Errorf("/readyz/1 while it waits: %d %s, want 503 and that its socket is not served yet", code, body)
	}
	select {
	case err := <-r.Failed():
		for i, path := range []string{one, two} {
			if want := fmt.Sprintf("listening on %s: the process with pid %d serves it", path, holders[i].PID()); !strings.Contains(err.Error(), want) {
				t.Errorf("failed with %v, want in it %s", err, want)
			}
		}
	case <-r.Serving():
		t.Error("it says that it serves, and serves nothing")
	case <-time.After(testkit.Patience):
		t.Error("that no socket can be had is no failure")
	}
}

func TestSocketFileIsPutBackAndServes(t *testing.T) {
	for name, remove := range map[string]func(path string) error{
		"file removed":      os.Remove,
		"file moved away":   func(p string) error { return os.Rename(p, p+".old") },
		"directory removed": func(p string) error { return os.RemoveAll(filepath.Dir(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(testkit.Directory(t), "run")
			r := run(t, setup{listen: filepath.Join(dir, "s"), args: []string{"--socket-mode=0660"}}).ready()
			for range 2 {
				if err := remove(r.path); err != nil {
					t.Fatal(err)
				}
				testkit.Until(t, "the socket is back", func() bool { return ask(context.Background(), r.path) == nil })
				r.encrypts(r.client())
				if got := testkit.Permissions(t, r.path); got != 0o660 {
					t.Errorf("back with mode %04o, want 0660", got)
				}
			}
			select {
			case err := <-r.Failed():
				t.Errorf("failed: %v", err)
			default:
			}
			r.shutdown()
			if r.exists() {
				t.Error("the file that was put back is not removed at the end")
			}
		})
	}
}

func TestNameThatAnotherProcessTookIsLeftToIt(t *testing.T) {
	t.Parallel()
	timing := shortTiming()
	timing.Keep = time.Second // the other process is faster
	r := run(t, setup{time: timing}).ready()
	other := testkit.Another(t, role{Do: "claim", Path: r.path, Wait: testkit.Patience}, os.Getuid())
	other.Expect("", "ready")
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	other.Expect("go", "claimed")
	testkit.Until(t, "the loss is logged", func() bool { return r.log.Has("socket file is gone and cannot be put back") })
	want := fmt.Sprintf("the process with pid %d serves it", other.PID())
	if !r.log.Has(want) {
		t.Errorf("log without %q:\n%s", want, r.log)
	}
	if pid, live := holder(context.Background(), r.path); !live || pid != other.PID() {
		t.Errorf("holder is %d (%t), want still %d", pid, live, other.PID())
	}
	gone := regexp.MustCompile(`its socket file is gone since [0-9TZ:-]{20}: ` + want)
	testkit.Until(t, "/readyz says so", func() bool {
		code, body := r.get("/readyz")
		return code == http.StatusServiceUnavailable && gone.MatchString(body)
	})
	time.Sleep(20 * timing.answer) // enough for the process to give up on itself
	if code, body := r.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s, want 200: a restart gives no socket back", code, body)
	}
	other.Leave()
	testkit.Until(t, "the socket is back", func() bool { return ask(context.Background(), r.path) == nil })
	r.encrypts(r.client())
	r.ready()
	if n := strings.Count(r.log.String(), "cannot be put back"); n != 1 {
		t.Errorf("the loss is logged %d times, want once:\n%s", n, r.log)
	}
}

// gRPC's clients take a connection for good once the server has spoken, and send
// their first call together with the greeting.
func TestCallerThatGreetsDuringShutdownIsSentAway(t *testing.T) {
	t.Parallel()
	timing := shortTiming()
	timing.silence, timing.drain = 10*testkit.Patience, 10*testkit.Patience
	r := run(t, setup{time: timing}).ready()
	conn, err := dialUnix(r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	testkit.Until(t, "a later connection is served", func() bool { return ask(context.Background(), r.path) == nil })
	down := make(chan struct{})
	go func() {
		defer close(down)
		r.stopped(context.Background(), testkit.Patience)
	}()
	testkit.Until(t, "the socket is gone", func() bool { return !r.exists() })
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, err = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	const goAway = 7 // https://www.rfc-editor.org/rfc/rfc9113#name-goaway
	for kind := byte(0); err == nil && kind != goAway; {
		head := make([]byte, 9)
		if _, err = io.ReadFull(conn, head); err == nil {
			kind = head[3]
			_, err = io.CopyN(io.Discard, conn, int64(head[1])<<8|int64(head[2]))
		}
	}
	if err != nil {
		t.Errorf("no GOAWAY: %v", err)
	}
	_ = conn.Close()
	<-down
}
