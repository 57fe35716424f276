package unixsocket

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// greeting is the length of what an HTTP/2 client says first: the preface and
// the head of its SETTINGS. A server answers nothing before.
const greeting = 24 + 9

// handling is the longest that gRPC may take from being given a connection to
// beginning with it: a goroutine's start.
const handling = time.Second

// Connections are those of one socket, over all the listeners that it has had.
// gRPC waits for ten seconds for a connection that says nothing, and waits
// for that at the end too: so they are known here, to be closed then. The zero value has
// none. It is safe for concurrent use.
type Connections struct {
	mu      sync.Mutex
	open    map[*trackedConn]struct{}
	counted int
}

// admit takes a connection in, and returns nil where there are too many. The
// process's own do not count.
func (c *Connections) admit(conn net.Conn, own bool) *trackedConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !own {
		if c.counted >= MaxConnections {
			return nil
		}
		c.counted++
	}
	if c.open == nil {
		c.open = map[*trackedConn]struct{}{}
	}
	t := &trackedConn{Conn: conn, all: c, own: own}
	c.open[t] = struct{}{}
	return t
}

func (c *Connections) remove(t *trackedConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[t]; !ok {
		return
	}
	delete(c.open, t)
	if !t.own {
		c.counted--
	}
}

// WaitUntilHandled waits the moment that gRPC's server needs to begin with each
// connection that it was given.
func (c *Connections) WaitUntilHandled() {
	limit := time.NewTimer(handling)
	defer limit.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !c.allHandled() {
		select {
		case <-poll.C:
		case <-limit.C:
			return
		}
	}
}

func (c *Connections) allHandled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.open {
		if !t.handled.Load() {
			return false
		}
	}
	return true
}

// CloseSilent closes those that have not yet greeted. One that is new needs a
// moment before: gRPC's client may send a call together with its greeting.
func (c *Connections) CloseSilent() {
	c.close(func(t *trackedConn) bool { return t.heard.Load() < greeting })
}

// CloseAll closes all.
func (c *Connections) CloseAll() { c.close(func(*trackedConn) bool { return true }) }

func (c *Connections) close(which func(*trackedConn) bool) {
	c.mu.Lock()
	var chosen []*trackedConn
	for t := range c.open {
		if which(t) {
			chosen = append(chosen, t)
		}
	}
	c.mu.Unlock()
	for _, t := range chosen {
		_ = t.Close()
	}
}

// Count returns how many are open, but for the process's own.
func (c *Connections) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counted
}

// A trackedConn gives its place back when it is closed.
type trackedConn struct {
	net.Conn

	all   *Connections
	own   bool
	heard atomic.Int64 // bytes, as long as they are fewer than a greeting

	handled atomic.Bool // gRPC has begun with it
}

// SetDeadline is what gRPC's server does first with a connection that it keeps.
func (t *trackedConn) SetDeadline(when time.Time) error {
	t.handled.Store(true)
	return t.Conn.SetDeadline(when)
}

// Read reads from the connection.
func (t *trackedConn) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if t.heard.Load() < greeting {
		t.heard.Add(int64(n))
	}
	return n, err
}

// Close closes the connection.
func (t *trackedConn) Close() error {
	t.all.remove(t)
	return t.Conn.Close()
}
