package daemon

import (
	"container/list"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxHealthConnections bounds the connections of the health port: whoever can
// reach it must not take the files that the KMS sockets need. Probes and scrapes
// need a few.
const maxHealthConnections = 128

// httpConnections are those of the health port. Of too many, the one goes that
// has been longest as it is: a probe, which is newer, is still answered.
type httpConnections struct {
	log   *slog.Logger
	quiet *rate.Limiter

	mu    sync.Mutex
	order list.List // of net.Conn, the one that changed last at the back
	place map[net.Conn]*list.Element
}

func newHTTPConnections(log *slog.Logger) *httpConnections {
	return &httpConnections{log: log, quiet: rate.NewLimiter(rate.Every(time.Minute), 1), place: map[net.Conn]*list.Element{}}
}

// changed is the server's ConnState.
func (c *httpConnections) changed(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		c.admit(conn)
	case http.StateActive, http.StateIdle:
		c.mu.Lock()
		if e := c.place[conn]; e != nil {
			c.order.MoveToBack(e)
		}
		c.mu.Unlock()
	case http.StateClosed, http.StateHijacked:
		c.mu.Lock()
		c.remove(conn)
		c.mu.Unlock()
	}
}

func (c *httpConnections) admit(conn net.Conn) {
	c.mu.Lock()
	var oldest net.Conn
	if front := c.order.Front(); front != nil && c.order.Len() >= maxHealthConnections {
		oldest, _ = front.Value.(net.Conn)
		c.remove(oldest)
	}
	c.place[conn] = c.order.PushBack(conn)
	c.mu.Unlock()
	if oldest == nil {
		return
	}
	_ = oldest.Close()
	if c.quiet.Allow() {
		c.log.Warn("connections of the health port are closed: too many are open", "limit", maxHealthConnections)
	}
}

// remove forgets a connection. The caller holds the lock.
func (c *httpConnections) remove(conn net.Conn) {
	if e := c.place[conn]; e != nil {
		c.order.Remove(e)
		delete(c.place, conn)
	}
}

func (c *httpConnections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

// A seldomWriter drops what comes too often: strangers can make errors.
type seldomWriter struct {
	io.Writer

	quiet *rate.Limiter
}

// Write implements [io.Writer].
func (w *seldomWriter) Write(p []byte) (int, error) {
	if !w.quiet.Allow() {
		return len(p), nil
	}
	return w.Writer.Write(p)
}
