package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// writers write secrets one after the other until they are stopped, each with
// names of its own, and remember what was acknowledged. They do not repeat a
// write that failed.
type writers struct {
	s      *stage
	cancel context.CancelFunc
	done   sync.WaitGroup
	failed atomic.Int64

	mu      sync.Mutex
	book    ledger
	last    time.Time // of the newest acknowledgement
	lastErr error     // of the newest failure
}

// startWriters starts n writers. Each pauses for this long after each write.
func startWriters(ctx context.Context, s *stage, a *cluster.APIServer, n int, pause time.Duration) *writers {
	writing, cancel := context.WithCancel(ctx)
	w := &writers{s: s, cancel: cancel, book: ledger{}}
	for i := range n {
		w.done.Go(func() {
			for j := 0; writing.Err() == nil; j++ {
				name := fmt.Sprintf("writer-%d-%d", i, j)
				// The request outlives the stop, so that its end is known.
				err := a.CreateSecret(ctx, name, value(name))
				w.enter(name, err)
				select {
				case <-writing.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	s.t.Cleanup(func() { w.cancel(); w.done.Wait() })
	return w
}

func (w *writers) enter(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed.Add(1)
		w.lastErr = err
		return
	}
	w.book[name] = value(name)
	w.last = time.Now()
}

func (w *writers) acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.book)
}

// lastWrite is when the newest write was acknowledged.
func (w *writers) lastWrite() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// failure is the newest failure.
func (w *writers) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastErr
}

// waitFor waits for n more acknowledged writes.
func (w *writers) waitFor(n int) {
	w.s.t.Helper()
	goal := w.acknowledged() + n
	err := cluster.Poll(w.s.t.Context(), 10*time.Millisecond, 2*time.Minute, nil, func(context.Context) error {
		if got := w.acknowledged(); got < goal {
			return errors.Join(fmt.Errorf("%d of %d writes were acknowledged", got, goal), w.failure())
		}
		return nil
	})
	w.s.must(err)
}

// stop ends the writers and adds what was acknowledged to book.
func (w *writers) stop(book ledger) {
	w.cancel()
	w.done.Wait()
	maps.Copy(book, w.book)
	w.s.t.Logf("%d writes were acknowledged, %d failed", len(w.book), w.failed.Load())
}
