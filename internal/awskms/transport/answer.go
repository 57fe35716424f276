package transport

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"
)

const (
	// maxAnswer bounds the body of an answer. KMS's are below 20 kB, and a thousand
	// calls may read one at the same time.
	maxAnswer = 256 << 10
	// maxHeaders bounds the headers of an answer, those of 1xx answers before it
	// included. net/http's own limit is 10 MB.
	maxHeaders = 64 << 10
)

// A StrangeError is an answer that no AWS service gives, so that something
// else stands at the endpoint or in between.
type StrangeError struct {
	what   string
	status int  // HTTP's, of an answer that came so far; 0: unknown
	again  bool // it may be left over from another answer, on this connection alone
}

func (e *StrangeError) Error() string {
	text := e.what + ", which no AWS service answers with"
	if e.status != 0 {
		return Status(e.status) + " with " + text
	}
	return text
}

// Once returns it as an answer on a connection that no other answer came on.
func (e *StrangeError) Once() *StrangeError {
	once := *e
	once.again = false
	return &once
}

// Status is a status of HTTP for a person to read.
func Status(status int) string {
	return strings.TrimSpace(fmt.Sprintf("HTTP status %d %s", status, http.StatusText(status)))
}

// of adds to an error for a strange answer which status that had.
func of(resp *http.Response, err error) error {
	if s := Strange(err); s != nil {
		s.status = resp.StatusCode
		return s
	}
	return err
}

// RetryableError tells the SDK whether to make another attempt.
func (e *StrangeError) RetryableError() bool { return e.again }

// Refuse closes an answer whose body may not be read: after HTTP 101 it is
// the connection itself, which net/http has given away, with no request and no
// context that could end a read of it. A body that is too long fails as it is read.
func Refuse(resp *http.Response) error {
	if resp.StatusCode < http.StatusOK {
		_ = resp.Body.Close()
		resp.Body = http.NoBody // for the SDK, which drains what it closes
		return &StrangeError{what: Status(resp.StatusCode)}
	}
	if resp.ContentLength > maxAnswer {
		_ = resp.Body.Close()
		resp.Body = http.NoBody
		return tooLong(resp.StatusCode)
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, status: resp.StatusCode, left: maxAnswer}
	return nil
}

func tooLong(status int) error {
	return &StrangeError{what: fmt.Sprintf("more than %d bytes", maxAnswer), status: status}
}

// A limitedBody is a body that fails, once, instead of ending when it is too long.
type limitedBody struct {
	io.ReadCloser

	status int // of the answer
	left   int // -1: it has failed
}

// Read implements [io.Reader].
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if n > b.left {
		b.left = -1
		return 0, tooLong(b.status)
	}
	b.left -= n
	return n, err
}

// Strange knows the errors of net/http for an answer that no AWS service gives. Most
// have no type. nil stands for all others.
func Strange(err error) *StrangeError {
	text := err.Error()
	switch {
	case strings.Contains(text, "server response headers exceeded"):
		return &StrangeError{what: fmt.Sprintf("more than %d bytes of headers", maxHeaders)}
	case strings.Contains(text, "malformed HTTP "), IsA[textproto.ProtocolError](err), strings.Contains(text, "chunked encoding"), strings.Contains(text, "chunk length"):
		return &StrangeError{what: "something else than HTTP", again: true}
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), IsA[flate.CorruptInputError](err):
		return &StrangeError{what: "a body that is not compressed as its headers say", again: true}
	}
	return nil
}

// OwnCalls bounds the SDK's own calls, of STS and of whoever else gives credentials.
// Their connections are used once, for so long at most. Each has an end, whatever
// happens on it: net/http has no limit for a SOCKS proxy that is silent, and none
// after HTTP 101.
func OwnCalls(limit time.Duration) func(*http.Transport) {
	return func(t *http.Transport) {
		t.DisableKeepAlives = true
		t.MaxResponseHeaderBytes = maxHeaders
		dial := t.DialContext
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return conn, conn.SetDeadline(time.Now().Add(limit))
		}
	}
}
