package bounded_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

func TestAProcessThatRunsHasNoPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := bounded.NewPauses()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go p.Run(ctx)
		for range 100 {
			time.Sleep(time.Minute)
			if last := p.Last(); !last.IsZero() {
				t.Fatalf("a pause ended at %s, want none", last)
			}
		}
	})
}

// Without its turns the process has not run: a test cannot stop a bubble.
func TestATurnThatIsTenSecondsLateIsAPause(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		away time.Duration
		want bool
	}{"ten seconds": {11 * time.Second, false}, "more": {11*time.Second + 1, true}, "ten minutes": {10 * time.Minute, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := bounded.NewPauses()
				began := time.Now()
				time.Sleep(c.away)
				p.Turn()
				if got := p.Since(began); got != c.want {
					t.Errorf("a pause since the beginning: %t, want %t", got, c.want)
				}
			})
		})
	}
}

// When the process goes on, whoever counts failures may run before Run does.
func TestWhoAsksFirstAfterAPauseLearnsOfIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := bounded.NewPauses()
		began := time.Now()
		time.Sleep(10 * time.Minute)
		if !p.Since(began) {
			t.Error("no pause")
		}
		ended := p.Last()
		p.Turn()
		time.Sleep(5 * time.Second)
		if p.Since(ended) || !p.Last().Equal(ended) {
			t.Errorf("another pause, until %s", p.Last())
		}
	})
}

func TestNobodysPausesHasNone(t *testing.T) {
	t.Parallel()
	var p *bounded.Pauses
	if p.Since(time.Time{}) {
		t.Error("a pause")
	}
}
