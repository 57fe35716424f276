package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// steady is a cluster in which every request takes a second.
type steady struct{ n, lists int }

func (s *steady) Judge(context.Context) (rewrite.Judgement, error) {
	return rewrite.Judgement{Converged: true}, nil
}

func (s *steady) List(context.Context, map[string]string) (*rewrite.Work, error) {
	w := &rewrite.Work{}
	if s.lists++; s.lists == 1 {
		for i := range s.n {
			w.Stale = append(w.Stale, rewrite.Object{Path: fmt.Sprintf("/registry/secrets/default/%d", i)})
		}
	}
	return w, nil
}

func (s *steady) Look(context.Context, rewrite.Object, int64, map[string]string) (rewrite.Sight, error) {
	return rewrite.Sight{}, nil
}
func (s *steady) Proves() bool                                    { return true }
func (s *steady) Learn(context.Context, []rewrite.Resource) error { return nil }
func (s *steady) Serves(rewrite.Resource) string                  { return "" }

func (s *steady) Patch(context.Context, rewrite.Object) (int64, error) {
	time.Sleep(990 * time.Millisecond) // no tick at the same moment
	return 1, nil
}

// migrated is what a migration of 25 objects shows.
func migrated(t *testing.T, terminal bool) string {
	t.Helper()
	var b strings.Builder
	synctest.Test(t, func(t *testing.T) {
		s := &steady{n: 25}
		bar := &migrateBar{of: &rewrite.Progress{}}
		m := &migration{s: Streams{Err: &b, ErrTerminal: terminal}}
		stop := m.show(t.Context(), bar)
		_, err := rewrite.Run(t.Context(), rewrite.Options{Workers: 1, Progress: bar.of}, s, s, s, nil)
		stop()
		if err != nil {
			t.Fatal(err)
		}
	})
	return b.String()
}

func TestAMigrationShowsRateAndTimeLeft(t *testing.T) {
	t.Parallel()
	want := "kubectl kms: round 1: 10 of 25, 1/s, 10 written, 0 failed, 15s left\nkubectl kms: round 1: 20 of 25, 1/s, 20 written, 0 failed, 5s left\n"
	if got := migrated(t, false); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	got := migrated(t, true)
	if !strings.Contains(got, "\r\x1b[K[########............] round 1: 10 of 25, 1/s, 10 written, 0 failed, 15s left") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("%.300q", got)
	}
	for bar := range strings.SplitSeq(got, "\r\x1b[K") {
		if len(bar) >= report.Columns {
			t.Errorf("%q has %d columns", bar, len(bar))
		}
	}
}
