package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"
)

const (
	// MaxAttempts is two: a third would only come after the API server left.
	MaxAttempts = 2
	// maxReplays bounds how many closed connections one attempt may meet before it
	// opens one: net/http alone would try each idle one in turn.
	maxReplays = 1
)

// attempts is the state of one call's attempts; it lives in their context.
type attempts struct {
	first time.Duration // limit of the first
	made  int
	hung  bool
	sent  [MaxAttempts]Sent
}

type attemptsKey struct{}

// WithAttempts returns a context for one call of the SDK, whose first attempt is given
// up after a time of its own. What the call sends is kept with it; see [SentBy].
func WithAttempts(ctx context.Context, first time.Duration) context.Context {
	return context.WithValue(ctx, attemptsKey{}, &attempts{first: first})
}

// ErrHung is a first attempt that was given up for a second.
var ErrHung error = hungError{}

type hungError struct{}

func (hungError) Error() string { return "no answer within half of the call's time" }

// Timeout makes it a time-out for whoever asks as net.Error does.
func (hungError) Timeout() bool { return true }

// RetryableError tells the SDK to make the second attempt.
func (hungError) RetryableError() bool { return true }

// Do sends one attempt. It reads the whole answer, so that the limit of the
// attempt covers the body too.
//
// The SDK's body is in memory, which net/http cannot see: handed over as bytes
// it goes out with the headers in one write, and with GetBody and an empty
// Idempotency-Key (which is not sent) net/http itself repeats a request that met
// a connection that the other side had closed.
func (l *Client) Do(req *http.Request) (*http.Response, error) {
	w := l.way(req.URL) //nolint:contextcheck // what it opens ahead outlives the call
	ctx, cancel, transport, state := attempt(req, w.transports)
	defer cancel()
	given, got := left(ctx), noConnection                 //nolint:contextcheck // ctx is the request's own, shortened
	out, body, err := inMemory(req.Clone(got.noted(ctx))) //nolint:contextcheck // ctx is the request's own, shortened
	if err != nil {
		return nil, err
	}
	state.keep(out, body)
	resp, err := w.transports.roundTrip(transport, replayable(out, body))
	if errors.Is(err, errClosedConnections) {
		w.hung() // what closed these may have closed all
		resp, err = w.transports.roundTrip(w.transports.fresh, replayable(out, body))
	}
	if err == nil {
		traced(req.Context(), resp)
		return resp, nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		if transport == w.transports.pooled && got == keptConnection && given >= l.conns.timing().LeastHang {
			w.hung()
		}
		if state != nil && state.made == 1 && req.Context().Err() == nil {
			state.hung = true
			return nil, ErrHung
		}
	}
	return nil, err
}

func left(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return time.Until(deadline)
}

// connection is what an attempt got to send its request on.
type connection int

const (
	noConnection connection = iota
	newConnection
	keptConnection
)

// noted returns a context under which net/http writes down what it took. It does
// so in the goroutine of the request, and again where it repeats the request. A
// connection that is taken is open, and no longer bound by proxyTime.
func (got *connection) noted(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		_ = info.Conn.SetDeadline(time.Time{}) // fails where it is closed, as the request then does
		*got = newConnection
		if info.Reused {
			*got = keptConnection
		}
	}})
}

func attempt(req *http.Request, t *transports) (context.Context, context.CancelFunc, *http.Transport, *attempts) {
	state, _ := req.Context().Value(attemptsKey{}).(*attempts)
	if state == nil {
		return req.Context(), func() {}, t.pooled, nil
	}
	state.made++
	switch {
	case state.made == 1:
		ctx, cancel := context.WithTimeout(req.Context(), state.first)
		return ctx, cancel, t.pooled, state
	case state.hung:
		// Whatever swallowed the first attempt may swallow all that the pool holds.
		return req.Context(), func() {}, t.fresh, state
	}
	return req.Context(), func() {}, t.pooled, state
}

// keep notes what an attempt sends.
func (a *attempts) keep(request *http.Request, body []byte) {
	if a != nil {
		a.sent[(a.made-1)%MaxAttempts] = Sent{request, body}
	}
}

var errClosedConnections = errors.New("one connection after the other was closed before it answered")

// inMemory returns a request and its body, read.
func inMemory(req *http.Request) (*http.Request, []byte, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil, nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the request's body: %w", err)
	}
	_ = req.Body.Close()
	req.ContentLength = int64(len(body))
	req.Header["Idempotency-Key"] = []string{}
	return req, body, nil
}

// replayable gives a request its body, which net/http may send again maxReplays
// times.
func replayable(req *http.Request, body []byte) *http.Request {
	if body == nil {
		return req
	}
	replays := -1 // the first is the request itself
	req.GetBody = func() (io.ReadCloser, error) {
		if replays++; replays > maxReplays {
			return nil, errClosedConnections
		}
		return io.NopCloser(bytes.NewReader(body)), nil
	}
	req.Body, _ = req.GetBody()
	return req
}

// roundTrip sends by one of the two, and leaves no connection open where they
// were retired meanwhile. It reads the whole answer.
func (t *transports) roundTrip(transport *http.Transport, req *http.Request) (*http.Response, error) {
	defer func() {
		if t.retired.Load() {
			t.pooled.CloseIdleConnections()
		}
	}()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		if transport == t.fresh {
			// It keeps none. This ends a dial that nobody waits for.
			transport.CloseIdleConnections()
		}
		return nil, orStrange(err)
	}
	if err := Refuse(resp); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	closeErr := resp.Body.Close()
	if err = errors.Join(err, closeErr); err != nil {
		return nil, of(resp, fmt.Errorf("reading the answer: %w", err))
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

func orStrange(err error) error {
	if s := Strange(err); s != nil {
		return s
	}
	return err
}
