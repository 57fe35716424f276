package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
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
	r := &apiservers.Report{Verdict: apiservers.Verdict{Answer: apiservers.NotConverged, Reasons: []apiservers.Reason{{Kind: apiservers.Differ, Text: strings.Repeat("of provider aws ", 20)}}}}
	synctest.Test(t, func(t *testing.T) {
		var pipe, terminal strings.Builder
		for _, w := range []*waiting{{w: &pipe, start: time.Now(), limit: time.Minute}, {w: &terminal, terminal: true, start: time.Now(), limit: time.Minute}} {
			for range 6 { // 30 seconds
				if err := w.pause(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			w.end()
		}
		if n := strings.Count(pipe.String(), "\n"); n != 3 {
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
		if err := (&waiting{w: &pipe, start: time.Now(), limit: time.Minute}).pause(ctx, r); err == nil {
			t.Error("an interruption does not end it")
		}
	})
}
