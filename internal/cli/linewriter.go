package cli

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

const (
	lineQueue = 1024 // lines that wait for a slow reader
	// lineFlush is for what is left at the end: the process has to end in time.
	lineFlush = 300 * time.Millisecond
)

// A lineWriter writes in the background, so that nobody who logs waits for
// whoever reads: a stalled reader of standard error must not hold up a call. What
// does not fit is dropped and counted.
type lineWriter struct {
	to      io.Writer
	tell    func(dropped int64) // writes to to how many were dropped
	lines   chan []byte
	dropped atomic.Int64
	ending  chan struct{} // closed by Close
	ended   chan struct{} // closed when all is written
}

func newLineWriter(to io.Writer, tell func(dropped int64)) *lineWriter {
	w := &lineWriter{to: to, tell: tell, lines: make(chan []byte, lineQueue), ending: make(chan struct{}), ended: make(chan struct{})}
	go w.run() // ends with Close, or where a write hangs beyond that, with the write
	return w
}

// Write takes a line in. It never waits and never fails.
func (w *lineWriter) Write(line []byte) (int, error) {
	select {
	case w.lines <- bytes.Clone(line):
	default:
		w.dropped.Add(1)
	}
	return len(line), nil
}

// Close writes what has been taken in, for as long as lineFlush. There must be
// no Write after it.
func (w *lineWriter) Close() {
	close(w.ending)
	timer := time.NewTimer(lineFlush)
	defer timer.Stop()
	select {
	case <-w.ended:
	case <-timer.C:
	}
}

func (w *lineWriter) run() {
	defer close(w.ended)
	written := 0 // since the last report of dropped lines
	for {
		select {
		case line := <-w.lines:
			written = w.put(line, written)
			continue
		default:
		}
		select {
		case line := <-w.lines:
			written = w.put(line, written)
		case <-w.ending:
			if len(w.lines) == 0 {
				return
			}
		}
	}
}

// put writes a line. Behind those that were waiting when lines were dropped, it
// says how many those were.
func (w *lineWriter) put(line []byte, written int) int {
	_, _ = w.to.Write(line) // there is nowhere else to say that it fails
	written++
	if len(w.lines) > 0 && written < lineQueue {
		return written
	}
	if n := w.dropped.Swap(0); n > 0 {
		w.tell(n)
	}
	return 0
}
