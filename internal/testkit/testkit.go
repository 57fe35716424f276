// Package testkit is what tests of several rooms need: a log that can be read while it
// is written, a directory for sockets, patience, and another process to meet.
//
// Only tests import it.
package testkit

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience is how long a test waits for what should take moments.
const Patience = time.Minute

// Until polls until something holds.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !holds(); time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // a test polls
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", Patience, what)
		}
	}
}

// Directory makes a directory whose name is short enough for sockets, which
// t.TempDir's may not be, and that every user can enter.
func Directory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "aep")
	if err == nil {
		err = os.Chmod(dir, 0o755) //nolint:gosec // on purpose
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Exists reports whether there is something at a path.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// A LogBook is a log that a test can read while it is written. The zero value is
// ready, and takes every level. It is safe for concurrent use.
type LogBook struct {
	Level slog.Level // above debug, which stands for the zero value

	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements [io.Writer].
func (b *LogBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String is all that was written.
func (b *LogBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Has reports whether s was written.
func (b *LogBook) Has(s string) bool { return strings.Contains(b.String(), s) }

// Logger returns a logger that writes into the book, as JSON.
func (b *LogBook) Logger() *slog.Logger {
	level := b.Level
	if level == 0 {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: level}))
}
