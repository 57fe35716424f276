package transport

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

// A Contact is the way that a call took to KMS.
type Contact struct {
	Host     string // and port, of the endpoint; "": no call was sent
	Address  string // of the other side, or of a proxy; "": no connection
	TLS      string // version; "": none
	Group    string // of the key exchange
	Answered bool   // there was an answer of HTTP
	Date     time.Time
	At       time.Time // when that answer came
}

// Skew is how far this node's clock is ahead of the other side's, which tells
// whole seconds; 0 where that is not known.
func (c Contact) Skew() time.Duration {
	if c.Date.IsZero() {
		return 0
	}
	return c.At.Sub(c.Date).Truncate(time.Second)
}

// Traced returns a context for one call, and what says afterwards which way that call
// took, whether it failed or not.
func Traced(ctx context.Context) (traced context.Context, way func() Contact) {
	t := &trace{}
	ctx = httptrace.WithClientTrace(context.WithValue(ctx, traceKey{}, t), &httptrace.ClientTrace{GetConn: t.getConn, GotConn: t.gotConn})
	return ctx, t.contact
}
