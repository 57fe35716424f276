package cli

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
