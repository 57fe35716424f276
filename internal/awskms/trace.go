package awskms

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// traceKey is the context key of a trace.
type traceKey struct{}

// A trace takes down the way of one call: that of its last attempt.
type trace struct {
	mu   sync.Mutex
	seen Contact
}

func (t *trace) contact() Contact {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}

func (t *trace) getConn(hostPort string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.Host = hostPort
}

// gotConn looks at the connection itself: another request may have opened it.
func (t *trace) gotConn(info httptrace.GotConnInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.Address = info.Conn.RemoteAddr().String()
	if conn, ok := info.Conn.(*tls.Conn); ok {
		state := conn.ConnectionState()
		t.seen.TLS = tls.VersionName(state.Version)
		if state.CurveID != 0 {
			t.seen.Group = state.CurveID.String()
		}
	}
}

func (t *trace) answered(resp *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.Answered, t.seen.At = true, time.Now()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		t.seen.Date = date
	}
}

// traced tells the trace of a call, if it has one, of its answer.
func traced(ctx context.Context, resp *http.Response) {
	if t, ok := ctx.Value(traceKey{}).(*trace); ok {
		t.answered(resp)
	}
}
