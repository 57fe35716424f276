package bounded

import "sync"

// mostIdle is how many goroutines Workers keep: more calls than these wait for KMS
// at the same time only where starting a goroutine costs nothing beside it.
const mostIdle = 32

// Workers are goroutines that are used again, by [DoOn]. A call of the AWS SDK needs
// a deep stack, and a new goroutine copies its own several times to get there. The
// zero value is ready; Close ends what is idle. It is safe for concurrent use.
type Workers struct {
	mu     sync.Mutex
	idle   []chan func() // one for each goroutine that waits, the last used last
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

// run starts work, which must not panic, on a goroutine that is idle, or a new one.
// Nil Workers keep none.
func (w *Workers) run(work func()) {
	if w == nil {
		go work() // ends with the work, whenever that is
		return
	}
	if next := w.take(); next != nil {
		next <- work // it has room: its goroutine waits for nothing else
		return
	}
	go w.serve(work) // ends when enough are idle, or by Close
}

func (w *Workers) take() chan func() {
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

func (w *Workers) serve(work func()) {
	next := make(chan func(), 1)
	for work != nil {
		work()
		work = nil // what it holds is not kept while idle
		if !w.keep(next) {
			return
		}
		work = <-next
	}
}

func (w *Workers) keep(next chan func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.idle) >= mostIdle {
		return false
	}
	w.idle = append(w.idle, next)
	return true
}
