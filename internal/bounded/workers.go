package bounded

import "sync"

// mostIdle is how many goroutines Workers keep when they have nothing to do. It
// bounds the memory of their stacks, which the runtime shrinks while they are idle.
const mostIdle = 32

// Workers are goroutines that are used again, by [DoOn]. A call of the AWS SDK needs
// a deep stack, and a new goroutine copies its own several times to get there. The
// zero value is ready; Close ends what is idle. It is safe for concurrent use.
type Workers struct {
	mu     sync.Mutex
	idle   []chan task // one for each goroutine that waits, the last used last
	closed bool
}

// Close ends the goroutines that are idle. The others end with their work. Later
// work gets goroutines of its own.
func (w *Workers) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, next := range w.idle {
		close(next)
	}
	w.idle = nil
}

// A task is work and, as a step of its own, the handing over of what it returns.
type task interface {
	work()
	deliver()
}

// run starts a task, which must not panic, on a goroutine that is idle, or a new
// one. Nil Workers keep none.
func (w *Workers) run(t task) {
	if w == nil {
		go func() { // ends with the work, whenever that is
			defer t.deliver()
			t.work()
		}()
		return
	}
	if next := w.take(); next != nil {
		next <- t // it has room: its goroutine does nothing else any more
		return
	}
	go w.serve(t) // ends when enough are idle, or by Close
}

func (w *Workers) take() chan task {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.idle)
	if n == 0 {
		return nil
	}
	next := w.idle[n-1]
	w.idle = w.idle[:n-1]
	return next
}

func (w *Workers) serve(t task) {
	next := make(chan task, 1)
	defer func() {
		if t != nil { // the work has ended its goroutine
			t.deliver()
		}
	}()
	for t != nil {
		t.work()
		// Idle before the result is there: the next call, which may come at once,
		// shall not start another goroutine.
		kept := w.keep(next)
		t.deliver()
		t = nil
		if kept {
			t = <-next
		}
	}
}

func (w *Workers) keep(next chan task) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.idle) >= mostIdle {
		return false
	}
	w.idle = append(w.idle, next)
	return true
}
