package awskms

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
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

// A strangeAnswerError is an answer that no AWS service gives, so that something
// else stands at the endpoint or in between. To ask again would not help.
type strangeAnswerError struct{ what string }

func (e *strangeAnswerError) Error() string { return e.what + ", which no AWS service answers with" }

// RetryableError tells the SDK not to make another attempt.
func (*strangeAnswerError) RetryableError() bool { return false }

// refuseStrange closes an answer whose body may not be read: after HTTP 101 it is
// the connection itself, which net/http has given away, with no request and no
// context that could end a read of it. A body that is too long fails as it is read.
func refuseStrange(resp *http.Response) error {
	if resp.StatusCode < http.StatusOK {
		_ = resp.Body.Close()
		resp.Body = http.NoBody // for the SDK, which drains what it closes
		return &strangeAnswerError{fmt.Sprintf("HTTP status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))}
	}
	if resp.ContentLength > maxAnswer {
		_ = resp.Body.Close()
		resp.Body = http.NoBody
		return errTooLong
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxAnswer}
	return nil
}

var errTooLong error = &strangeAnswerError{fmt.Sprintf("more than %d bytes", maxAnswer)}

// A limitedBody is a body that fails, once, instead of ending when it is too long.
type limitedBody struct {
	io.ReadCloser

	left int // -1: it has failed
}

// Read implements [io.Reader].
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if n > b.left {
		b.left = -1
		return 0, errTooLong
	}
	b.left -= n
	return n, err
}

// headersError knows net/http's error for headers that are too long, which has no
// type.
func headersError(err error) error {
	if strings.Contains(err.Error(), "server response headers exceeded") {
		return &strangeAnswerError{fmt.Sprintf("more than %d bytes of headers", maxHeaders)}
	}
	return err
}

// ownCalls are the limits of the SDK's own calls, of STS and of whoever else gives
// credentials. Their connections are used once. Each has an end, whatever happens
// on it: net/http has no limit for a SOCKS proxy that is silent, and none after
// HTTP 101.
func ownCalls(t *http.Transport) {
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = maxHeaders
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn, conn.SetDeadline(time.Now().Add(answerTime))
	}
}
