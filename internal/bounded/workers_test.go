package bounded_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatComesLateIsGivenToLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, tt := range map[string]struct {
			takes time.Duration
			want  string
		}{
			"in time":         {500 * time.Millisecond, "returned"},
			"within a grace":  {1050 * time.Millisecond, "returned"},
			"at its very end": {1100 * time.Millisecond, "either"},
			"late":            {time.Hour, "late"},
		} {
			var mu sync.Mutex
			var got []string
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			value, err := bounded.DoOn(ctx, nil, nil, bounded.Call, func(context.Context) (string, error) {
				time.Sleep(tt.takes)
				return "secret", nil
			}, func(late string) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, "late")
				if late != "secret" {
					t.Errorf("%s: late got %q", name, late)
				}
			})
			cancel()
			if err == nil && value == "secret" {
				mu.Lock()
				got = append(got, "returned")
				mu.Unlock()
			}
			time.Sleep(2 * time.Hour)
			mu.Lock()
			if len(got) != 1 || tt.want != "either" && got[0] != tt.want {
				t.Errorf("%s: the value was %v, want it once: %s", name, got, tt.want)
			}
			mu.Unlock()
		}
	})
}

// goroutine returns the text that names the goroutine which calls it.
func goroutine() string {
	b := make([]byte, 32)
	return string(b[:runtime.Stack(b, false)])
}

func TestWorkersAreUsedAgain(t *testing.T) {
	t.Parallel()
	var w bounded.Workers
	defer w.Close()
	seen := map[string]int{}
	for range 100 {
		name, err := bounded.DoOn(t.Context(), &w, nil, bounded.Call, func(context.Context) (string, error) { return goroutine(), nil }, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		seen[name]++
	}
	if len(seen) != 1 {
		t.Errorf("%d goroutines for 100 pieces of work one after the other", len(seen))
	}
}

// One that is left behind takes no worker from the work that comes after it.
func TestStuckWorkHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w bounded.Workers
		release := make(chan struct{})
		var wait sync.WaitGroup
		for range 100 {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := bounded.DoOn(ctx, &w, nil, bounded.Call, stuck(release), func(int) {}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		}
		wait.Wait()
		if got, err := bounded.DoOn(t.Context(), &w, nil, bounded.Call, func(context.Context) (int, error) { return 7, nil }, func(int) {}); got != 7 || err != nil {
			t.Errorf("got %d, %v", got, err)
		}
		w.Close()
		close(release)
		synctest.Wait()
		if got, err := bounded.DoOn(t.Context(), &w, nil, bounded.Call, func(context.Context) (int, error) { return 8, nil }, func(int) {}); got != 8 || err != nil {
			t.Errorf("after Close: got %d, %v", got, err)
		}
	}) // which fails where a worker is still there
}

// As t.FailNow does in a test's round tripper.
func TestWorkThatEndsItsGoroutineIsAPanic(t *testing.T) {
	t.Parallel()
	var w bounded.Workers
	defer w.Close()
	for _, workers := range []*bounded.Workers{nil, &w, &w} {
		func() {
			defer func() { recover() }() //nolint:errcheck // nil, which is a panic all the same
			_, err := bounded.DoOn(t.Context(), workers, nil, bounded.Call, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil }, func(int) {})
			t.Errorf("no panic, but %v", err)
		}()
	}
}

func TestAWorkerOutlivesAPanic(t *testing.T) {
	t.Parallel()
	var w bounded.Workers
	defer w.Close()
	for range 3 {
		func() {
			defer func() {
				if got := recover(); got != "broken" {
					t.Errorf("recovered %v", got)
				}
			}()
			_, _ = bounded.DoOn(t.Context(), &w, nil, bounded.Call, func(context.Context) (int, error) { panic("broken") }, func(int) {})
		}()
	}
}
