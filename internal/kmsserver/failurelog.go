package kmsserver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// window is how long failures of one class and key share one line.
const window = time.Minute

// failureLog writes one line per class and key a minute: the first failure at
// once and whole, the others as a count when the minute is over. At debug level
// every failure has its line. It is safe for concurrent use.
type failureLog struct {
	log *slog.Logger

	mu   sync.Mutex
	open map[failureKey]*failureWindow
	done bool
}

type failureKey struct {
	class cause.Class
	key   string
}

type failureWindow struct {
	more  int
	last  *cause.Error
	timer *time.Timer
}

func newFailureLog(log *slog.Logger) *failureLog {
	return &failureLog{log: log, open: map[failureKey]*failureWindow{}}
}

func (f *failureLog) record(ctx context.Context, op operation, e *cause.Error, err error, took time.Duration) {
	if !f.first(e) { //nolint:contextcheck // the window that it opens outlives the call
		if f.log.Enabled(ctx, slog.LevelDebug) {
			f.write(ctx, slog.LevelDebug, op, e, err, took)
		}
		return
	}
	f.write(ctx, e.Class().Level(), op, e, err, took)
}

func (f *failureLog) write(ctx context.Context, level slog.Level, op operation, e *cause.Error, err error, took time.Duration) {
	api, name := op.words()
	f.log.Log(ctx, level, "call failed", "code", e.Code.String(), "class", e.Class(),
		"api", api, "operation", name, "took", took.String(), "error", textOf(err, e))
}

// first reports whether e opens a window, and counts it where it does not.
func (f *failureLog) first(e *cause.Error) bool {
	k := failureKey{e.Class(), e.Key}
	if e.Class() == cause.BadData {
		k.key = "" // its Key may be out of etcd: any number of them
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if w, ok := f.open[k]; ok {
		w.more++
		w.last = e
		return false
	}
	if !f.done {
		f.open[k] = &failureWindow{timer: time.AfterFunc(window, func() { f.end(k) })}
	}
	return true
}

func (f *failureLog) end(k failureKey) {
	f.mu.Lock()
	w, ok := f.open[k]
	delete(f.open, k)
	f.mu.Unlock()
	if ok && w.more > 0 {
		f.log.Log(context.Background(), k.class.Level(), "calls failed in the last minute",
			"code", w.last.Code.String(), "class", k.class, "count", w.more, "error", textOf(w.last, w.last))
	}
}

// close writes the counts that are still open, and starts no timer any more.
func (f *failureLog) close() {
	f.mu.Lock()
	f.done = true
	var open []failureKey
	for k, w := range f.open {
		w.timer.Stop()
		open = append(open, k)
	}
	f.mu.Unlock()
	for _, k := range open {
		f.end(k)
	}
}
