package bounded_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// stuck is work that ignores its context until the test releases it.
func stuck(release <-chan struct{}) func(context.Context) (int, error) {
	return func(context.Context) (int, error) {
		<-release
		return 1, nil
	}
}

func TestWorkThatIgnoresItsContextIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := bounded.Do(ctx, nil, bounded.Call, stuck(release))
		left, ok := errors.AsType[*bounded.AbandonedError](err)
		if !ok || left.Wait != bounded.Call || !left.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want an AbandonedError of a call that ran out of time", err)
		}
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("the wait took %s", took)
		}
	})
}

func TestWorkThatEndsJustAfterItsContextSaysWhyItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		own := errors.New("the work's own words")
		err := bounded.Run(ctx, nil, bounded.Call, func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond)
			return own
		})
		if !errors.Is(err, own) {
			t.Errorf("got %v, want %v", err, own)
		}
	})
}

func TestReturnsWhatTheWorkReturns(t *testing.T) {
	t.Parallel()
	want := errors.New("no")
	got, err := bounded.Do(t.Context(), &bounded.Observer{}, bounded.Check, func(context.Context) (int, error) { return 7, want })
	if got != 7 || !errors.Is(err, want) {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestAPanicOfTheWorkIsOneOfItsCaller(t *testing.T) {
	t.Parallel()
	defer func() {
		if got := recover(); got != "broken" {
			t.Errorf("recovered %v, want the work's panic", got)
		}
	}()
	_ = bounded.Run(t.Context(), nil, bounded.Call, func(context.Context) error { panic("broken") })
	t.Error("no panic")
}

// After the wait nobody is there for a panic, and it must not end the process.
func TestALatePanicIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := bounded.Run(ctx, nil, bounded.Call, func(context.Context) error {
			time.Sleep(time.Minute)
			panic("broken")
		})
		if err == nil {
			t.Error("no error")
		}
		time.Sleep(2 * time.Minute)
	})
}

func TestEachIsCountedAndOneLineIsWrittenUntilOneEndsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		var log bytes.Buffer
		counted := map[bounded.Wait]int{}
		o := &bounded.Observer{Log: slog.New(slog.NewTextHandler(&log, nil)), Left: func(w bounded.Wait) { counted[w]++ }}
		do := func(wait bounded.Wait, work func(context.Context) (int, error)) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _ = bounded.Do(ctx, o, wait, work)
		}
		well := func(context.Context) (int, error) { return 0, nil }
		for range 3 {
			do(bounded.File, stuck(release))
		}
		do(bounded.Close, well) // of another kind
		do(bounded.File, stuck(release))
		if lines := strings.Count(log.String(), "wait=file"); lines != 1 || counted[bounded.File] != 4 {
			t.Errorf("%d lines for %d left behind, want 1 for 4:\n%s", lines, counted[bounded.File], &log)
		}
		time.Sleep(time.Minute)
		do(bounded.File, well)
		do(bounded.File, stuck(release))
		if lines := strings.Count(log.String(), "wait=file"); lines != 2 {
			t.Errorf("%d lines after one that ended in time, want 2:\n%s", lines, &log)
		}
		for range 20 { // what comes and goes, as under load
			do(bounded.File, well)
			do(bounded.File, stuck(release))
		}
		if lines := strings.Count(log.String(), "wait=file"); lines != 2 {
			t.Errorf("%d lines within a minute, want 2:\n%s", lines, &log)
		}
	})
}
