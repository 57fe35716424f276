package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// shown is what a reading shows that takes nearly a second for each of 25 keys.
func shown(t *testing.T, terminal, sized bool) string {
	t.Helper()
	var b strings.Builder
	synctest.Test(t, func(t *testing.T) {
		s, err := audittest.Parse("backup.db", strings.Repeat("/registry/secrets/default/a plaintext\n", 25), true)
		if err != nil {
			t.Fatal(err)
		}
		p := &audit.Progress{}
		s.Each = func(_ context.Context, i int) error {
			time.Sleep(990 * time.Millisecond) // no tick at the same moment
			if sized {
				p.Part(int64(i), 25)
			}
			return nil
		}
		_, err = read(t.Context(), Streams{Err: &b, ErrTerminal: terminal}, []place{{audit.Place{Reader: s}, "backup.db"}}, audit.Options{Progress: p})
		if err != nil {
			t.Fatal(err)
		}
	})
	return b.String()
}

func TestProgressInAPipeIsALineEveryTenSeconds(t *testing.T) {
	t.Parallel()
	want := "kubectl kms: backup.db: 36%, 10 keys, 0 MB, 1 keys/s, 18s left\nkubectl kms: backup.db: 76%, 20 keys, 0 MB, 1 keys/s, 6s left\n"
	if got := shown(t, false, true); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := shown(t, false, false); !strings.HasPrefix(got, "kubectl kms: backup.db: 10 keys, 0 MB, 1 keys/s") || strings.Contains(got, "left") {
		t.Errorf("%q: want no time where nobody knows how much there is", got)
	}
}

func TestProgressOnATerminalIsABarThatGoesAway(t *testing.T) {
	t.Parallel()
	got := shown(t, true, true)
	if !strings.Contains(got, "\r\x1b[K[##########..........] 52%, 14 keys, 0 MB, 1 keys/s, 13s left") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("%.300q", got)
	}
	for bar := range strings.SplitSeq(got, "\r\x1b[K") {
		if len(bar) >= report.Columns {
			t.Errorf("%q has %d columns", bar, len(bar))
		}
	}
}

// A slowOpener takes nearly four seconds for each DEK.
type slowOpener struct{}

func (slowOpener) String() string { return "a test" }

func (slowOpener) Keys(ctx context.Context) ([]verify.Key, error) { return nil, ctx.Err() }

func (slowOpener) Open(ctx context.Context, _ verify.Wrapped) (verify.Unwrapped, error) {
	t := time.NewTimer(3990 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return verify.Unwrapped{}, ctx.Err()
	case <-t.C:
		return verify.Unwrapped{Secret: make([]byte, 32)}, nil
	}
}

// proving is what verify shows of 30 DEKs, each of which takes seconds.
func proving(ctx context.Context, t *testing.T, terminal bool) (shown string, err error) {
	t.Helper()
	var text, b strings.Builder
	for i := range 30 {
		fmt.Fprintf(&text, "/registry/secrets/default/%d v1 old wrapped=1w%d\n", i, i)
	}
	s, err := audittest.Parse("backup.db", text.String(), true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = proven(ctx, Streams{Err: &b, ErrTerminal: terminal}, []place{{audit.Place{Reader: s}, "backup.db"}}, verify.Options{Opener: slowOpener{}, Progress: &verify.Progress{}})
	return b.String(), err
}

func TestProgressOfVerify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got, err := proving(t.Context(), t, false)
		want := "kubectl kms: DEKs and seeds: 26%, 8 of 30 DEKs and seeds, 0.8/s, 28s left\nkubectl kms: DEKs and seeds: 66%, 20 of 30 DEKs and seeds, 1.0/s, 10s left\nkubectl kms: DEKs and seeds: 93%, 28 of 30 DEKs and seeds, 0.9/s, 2s left\n"
		if err != nil || got != want {
			t.Errorf("%v, %q, want %q", err, got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		got, err := proving(t.Context(), t, true)
		if err != nil || !strings.Contains(got, "\r\x1b[K[#####...............] 26%, 8 of 30 DEKs and seeds") || !strings.HasSuffix(got, "\r\x1b[K") {
			t.Errorf("%v, %.900q", err, got)
		}
	})
}

// Ctrl-C ends the wait for KMS, and says what was done.
func TestCtrlCOfVerify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithTimeout(t.Context(), 9*time.Second)
		defer interrupt()
		began := time.Now()
		_, err := proving(ctx, t, false)
		want := "interrupted: 30 keys had been read, and 8 DEKs and seeds asked for; nothing was changed; there is no verdict on a part: run it again"
		if err == nil || err.Error() != want || time.Since(began) != 9*time.Second {
			t.Errorf("%v after %s, want %s", err, time.Since(began), want)
		}
	})
}

// A status that is interrupted ends at once and says that nothing was changed, also while
// an API server is silent.
func TestCtrlCEndsAStatus(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"users":[{"name":"a"}],"clusters":[{"name":"a","cluster":{"server":"https://` + l.Addr().String() + `"}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	go func() { // ends with the first connection, or the listener
		if conn, err := l.Accept(); err == nil {
			interrupt()
			_ = conn.Close()
		}
	}()
	var out, errs strings.Builder
	code := Main(ctx, []string{"kubectl-kms", "status", "--kubeconfig", file, "--wait", "1h"}, Streams{Out: &out, Err: &errs, LookupEnv: os.LookupEnv})
	if code != Failed || out.String() != "" || !strings.Contains(errs.String(), "interrupted: nothing was changed") {
		t.Errorf("exit code %d, %q, %q", code, out.String(), errs.String())
	}
}

// While it waits, a pipe gets a line now and then, and a terminal one that it can hold.
func TestWaitingIsShown(t *testing.T) {
	t.Parallel()
	why := "not converged: " + strings.Repeat("of provider aws ", 20)
	synctest.Test(t, func(t *testing.T) {
		var pipe, terminal strings.Builder
		for _, w := range []*waiting{{w: &pipe, start: time.Now(), limit: time.Minute, each: waitPause}, {w: &terminal, terminal: true, start: time.Now(), limit: time.Minute, each: waitPause}} {
			for range 6 { // 30 seconds
				if err := w.pause(t.Context(), why); err != nil {
					t.Fatal(err)
				}
			}
			w.end()
		}
		if n := strings.Count(pipe.String(), "\n"); n < 3 || n > 4 { // the last may fall on the end
			t.Errorf("%d lines in 30 seconds:\n%s", n, pipe.String())
		}
		if !strings.HasSuffix(terminal.String(), "\r\x1b[K") {
			t.Error("the line stays on the terminal")
		}
		for line := range strings.SplitSeq(terminal.String(), "\r\x1b[K") {
			if len(line) >= report.Columns {
				t.Errorf("%d columns: %s", len(line), line)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := (&waiting{w: &pipe, start: time.Now(), limit: time.Minute, each: waitPause}).pause(ctx, why); err == nil {
			t.Error("an interruption does not end it")
		}
	})
}
