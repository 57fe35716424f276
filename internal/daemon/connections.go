package daemon

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

// connections are those of one socket, over all the listeners that it has had.
// gRPC waits for ten seconds for a connection that says nothing, and waits
// for that at the end too: so they are known here, to be closed then.
type connections struct {
	mu      sync.Mutex
	open    map[*trackedConn]struct{}
	counted int
}

// admit takes a connection in, and returns nil where there are too many. The
// process's own do not count.
func (c *connections) admit(conn net.Conn, own bool) *trackedConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !own {
		if c.counted >= maxConnections {
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

func (c *connections) remove(t *trackedConn) {
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

// waitUntilHandled waits the moment that gRPC's server needs to begin with each
// connection that it was given.
func (c *connections) waitUntilHandled() {
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

func (c *connections) allHandled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.open {
		if !t.handled.Load() {
			return false
		}
	}
	return true
}

// closeSilent closes those that have not yet greeted. One that is new needs a
// moment before: gRPC's client may send a call together with its greeting.
func (c *connections) closeSilent() {
	c.close(func(t *trackedConn) bool { return t.heard.Load() < greeting })
}

func (c *connections) closeAll() { c.close(func(*trackedConn) bool { return true }) }

func (c *connections) close(which func(*trackedConn) bool) {
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

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counted
}

// A trackedConn gives its place back when it is closed.
type trackedConn struct {
	net.Conn

	all   *connections
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
