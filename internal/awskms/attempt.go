package awskms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// maxAnswer bounds what is read of an answer. KMS's are below 20 kB.
	maxAnswer = 1 << 20
	// maxReplays bounds how many closed connections one attempt may meet:
	// net/http alone would try each idle one in turn.
	maxReplays = 2
)

// attempts is the state of one call's attempts; it lives in their context.
type attempts struct {
	first time.Duration // limit of the first
	made  int
	hung  bool
}

type attemptsKey struct{}

func withAttempts(ctx context.Context, first time.Duration) context.Context {
	return context.WithValue(ctx, attemptsKey{}, &attempts{first: first})
}

// errAttemptHung is a first attempt that was given up for a second.
var errAttemptHung error = hungError{}

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
func (l *line) Do(req *http.Request) (*http.Response, error) {
	t := l.transports(req.URL) //nolint:contextcheck // what it opens ahead outlives the call
	ctx, cancel, transport, state := attempt(req, t)
	defer cancel()
	out, err := inMemory(req.Clone(ctx)) //nolint:contextcheck // ctx is the request's own, shortened
	if err != nil {
		return nil, err
	}
	resp, err := t.roundTrip(transport, out)
	if err != nil && state != nil && state.made == 1 && errors.Is(ctx.Err(), context.DeadlineExceeded) && req.Context().Err() == nil {
		state.hung = true
		return nil, errAttemptHung
	}
	if err == nil {
		traced(req.Context(), resp)
	}
	return resp, err
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

var errClosedConnections = errors.New("one connection after the other was closed before it answered")

func inMemory(req *http.Request) (*http.Request, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the request's body: %w", err)
	}
	_ = req.Body.Close()
	replays := -1 // the first is the request itself
	req.GetBody = func() (io.ReadCloser, error) {
		if replays++; replays > maxReplays {
			return nil, errClosedConnections
		}
		return io.NopCloser(bytes.NewReader(body)), nil
	}
	req.Body, _ = req.GetBody()
	req.ContentLength = int64(len(body))
	req.Header["Idempotency-Key"] = []string{}
	return req, nil
}

// roundTrip sends by one of the two, and leaves no connection open where they
// were retired meanwhile.
func (t *transports) roundTrip(transport *http.Transport, req *http.Request) (*http.Response, error) {
	defer func() {
		if t.retired.Load() {
			t.pooled.CloseIdleConnections()
		}
	}()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	closeErr := resp.Body.Close()
	if err = errors.Join(err, closeErr); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
