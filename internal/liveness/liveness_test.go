package liveness

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asked is an Answering whose questions are answered by ask, in a bubble.
func asked(t *testing.T, ask func(context.Context) error) (a *Answering, p *bounded.Pauses) {
	t.Helper()
	p = bounded.NewPauses()
	a = &Answering{pauses: p}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go a.Watch(ctx, 5*time.Second, ask, (&testkit.LogBook{}).Logger())
	synctest.Wait()
	return a, p
}

// runs lets the process run for a while.
func runs(p *bounded.Pauses, while time.Duration) {
	for range while / time.Second {
		time.Sleep(time.Second)
		p.Turn()
	}
}

func TestLoopThatAsksNoMoreIsSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		defer close(hung)
		a, p := asked(t, func(context.Context) error { <-hung; return nil })
		runs(p, 20*time.Second)
		if err := a.Problem(); err != nil {
			t.Errorf("silent after 20s: %v", err)
		}
		runs(p, 2*time.Second)
		if err := a.Problem(); err == nil || !strings.Contains(err.Error(), "has not asked its own socket for 22s") {
			t.Errorf("after 22s: %v, want that nobody asks", err)
		}
	})
}

// After SIGSTOP all limits have run out at once, and the ticker has been silent.
func TestPauseOfTheProcessIsNoSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var paused atomic.Bool
		silent := errors.New("silent")
		a, p := asked(t, func(context.Context) error {
			if paused.Swap(false) {
				time.Sleep(10 * time.Minute) // without a turn
			}
			return silent
		})
		runs(p, 11*time.Second) // two misses
		paused.Store(true)
		runs(p, 4*time.Second) // the third question is asked as the process stops
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if err := a.Problem(); err != nil {
			t.Errorf("right after the pause: %v, want none", err)
		}
		runs(p, 6*time.Second) // one was asked at once, the next four seconds later
		if err := a.Problem(); err != nil {
			t.Errorf("two questions after the pause: %v, want none", err)
		}
		runs(p, 6*time.Second)
		if err := a.Problem(); !errors.Is(err, silent) {
			t.Errorf("three questions after the pause: %v, want %v", err, silent)
		}
	})
}

func TestWhatWasBelievedBeforeAPauseIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &Answering{pauses: bounded.NewPauses(), every: 5 * time.Second}
		for range 3 {
			a.note(time.Now(), errors.New("silent"))
		}
		if a.Problem() == nil {
			t.Fatal("not silent after three misses")
		}
		time.Sleep(10 * time.Minute) // without a turn
		if err := a.Problem(); err != nil {
			t.Errorf("right after the pause: %v, want none", err)
		}
		if misses := a.note(time.Now(), errors.New("silent")); misses != 1 {
			t.Errorf("%d misses after the first question, want 1", misses)
		}
	})
}

func TestSilenceIsBelievedAfterThreeQuestionsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Answering
		silent := errors.New("silent")
		answers := []error{nil, silent, silent, nil, silent, silent, silent, silent, nil}
		believed := []bool{false, false, false, false, false, false, true, true, false}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var asked atomic.Int64
		go a.Watch(ctx, 5*time.Second, func(context.Context) error { return answers[asked.Add(1)-1] }, (&testkit.LogBook{}).Logger())
		time.Sleep(time.Second)
		for i, want := range believed {
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if asked.Load() != int64(i+1) {
				t.Fatalf("asked %d times after %d intervals", asked.Load(), i+1)
			}
			if got := a.Problem(); (got != nil) != want {
				t.Errorf("after answer %d: %v, want a problem: %t", i+1, got, want)
			}
		}
	})
}
