package bounded_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// tries work every ten seconds for a while.
func tries(t *testing.T, l *bounded.Lane, while time.Duration, work func(context.Context) error) {
	t.Helper()
	for began := time.Now(); time.Since(began) < while; {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err := bounded.RunIn(ctx, l, work)
		cancel()
		if _, ok := errors.AsType[*bounded.AbandonedError](err); !ok {
			t.Fatalf("got %v, want it left behind", err)
		}
		time.Sleep(10 * time.Second)
	}
}

func TestWhatALaneLeavesBehindDoesNotPileUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		alone bool
		while time.Duration
		most  int64
	}{
		"a minute":          {false, time.Minute, 4},
		"ten minutes":       {false, 10 * time.Minute, 7},
		"a day":             {false, 24 * time.Hour, 15},
		"a day, one by one": {true, 24 * time.Hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				var begun atomic.Int64
				l := &bounded.Lane{Wait: bounded.File, Alone: c.alone}
				tries(t, l, c.while, func(context.Context) error {
					begun.Add(1)
					<-release
					return nil
				})
				if n := begun.Load(); n < c.most/2 || n > c.most {
					t.Errorf("%d were begun, want up to %d", n, c.most)
				}
				close(release)
				synctest.Wait()
				select {
				case <-l.Ended():
				default:
					t.Error("nobody is told that they have returned")
				}
				if err := bounded.RunIn(t.Context(), l, func(context.Context) error { return nil }); err != nil {
					t.Errorf("after they have returned: %v", err)
				}
			})
		})
	}
}

func TestALaneIsNotHeldBackByOneThatNeverReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		l := &bounded.Lane{Wait: bounded.File}
		tries(t, l, time.Second, func(context.Context) error { <-release; return nil })
		for range 1000 {
			if err := bounded.RunIn(t.Context(), l, func(context.Context) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	})
}
