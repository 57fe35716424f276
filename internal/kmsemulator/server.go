package kmsemulator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	contentType  = "application/x-amz-json-1.1"
	targetPrefix = "TrentService."

	// maxBody is KMS's own limit: larger requests get a 413 that names it.
	maxBody = 200_000
)

// connKey is the context key of a request's *connection.
type connKey struct{}

// A connection is what the emulator knows of one TCP connection.
type connection struct {
	delay time.Duration // until this connection sees a change
}

func (e *Emulator) connContext(ctx context.Context, _ net.Conn) context.Context {
	limit := e.options.PropagationDelay
	if limit <= 0 {
		return ctx
	}
	e.random.Lock()
	defer e.random.Unlock()
	return context.WithValue(ctx, connKey{}, &connection{delay: time.Duration(e.random.Int64N(int64(limit) + 1))})
}

func delayOf(ctx context.Context) time.Duration {
	if c, ok := ctx.Value(connKey{}).(*connection); ok {
		return c.delay
	}
	return 0
}

// A call is one request while it is answered.
type call struct {
	*Emulator
	caller
	operation string
	requestID string
	now       time.Time
	view      *world // what this connection sees
	params    params
}

// An operation answers one of KMS's API calls: it returns what to encode as
// the body, nil for an empty one, or an *apiError.
type operation func(*call) (any, error)

func (e *Emulator) serveKMS(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amzn-Requestid", requestID())
	w.Header().Set("Date", e.clock().UTC().Format(http.TimeFormat))
	// A KMS endpoint answers so to whatever is not an API call, and keeps the
	// connection; clients open connections ahead with a GET.
	if r.Method != http.MethodPost || r.URL.Path != "/" || !isJSON(r.Header.Get("Content-Type")) {
		drain(r)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<UnknownOperationException/>\n")
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return // the client has left
	}
	if len(body) > maxBody {
		writeError(w, &apiError{
			status:  http.StatusRequestEntityTooLarge,
			message: "HTTP content length exceeded " + strconv.Itoa(maxBody) + " bytes.",
		})
		return
	}
	answer, err := e.answer(w, r, body)
	switch {
	case errors.Is(err, errAnswered):
	case err != nil:
		writeError(w, asAPIError(err))
	default:
		writeJSON(w, answer)
	}
}

// errAnswered says that a fault has already written, or cut, the answer.
var errAnswered = errors.New("already answered")

// answer goes through KMS's checks in KMS's order: syntax, operation,
// signature, then the operation's own.
func (e *Emulator) answer(w http.ResponseWriter, r *http.Request, body []byte) (any, error) {
	fields, err := parseParams(body)
	if err != nil {
		return nil, err
	}
	name, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), targetPrefix)
	run := e.operations[name]
	if !ok || run == nil {
		return nil, refuse("UnknownOperationException", "")
	}
	e.calls[name].Add(1)
	e.allCalls.Add(1)
	scope, _ := scopeOf(r.Header.Get("Authorization"))
	if err := e.disturb(w, r, name, scope.region, fields); err != nil {
		return nil, err
	}
	now := e.clock()
	caller, err := e.authenticate(r, body, "kms", now)
	if err != nil {
		return nil, err
	}
	c := &call{
		Emulator: e, operation: name, requestID: w.Header().Get("X-Amzn-Requestid"), caller: caller, now: now, params: fields,
	}
	c.view, err = e.store.seen(now, delayOf(r.Context()))
	if err != nil {
		return nil, err
	}
	return run(c)
}

func isJSON(header string) bool {
	media, _, _ := strings.Cut(header, ";")
	return strings.EqualFold(strings.TrimSpace(media), contentType)
}

func asAPIError(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	return internal()
}

func writeError(w http.ResponseWriter, e *apiError) {
	member := e.member
	if member == "" {
		member = "message"
	}
	body := make(map[string]string, 2)
	if e.code != "" {
		body["__type"] = e.code
	}
	if e.message != "" {
		body[member] = e.message
	}
	writeStatus(w, e.status, body)
}

func writeJSON(w http.ResponseWriter, answer any) {
	if answer == nil {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", "0")
		return
	}
	writeStatus(w, http.StatusOK, answer)
}

func writeStatus(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // every answer is made of strings, numbers and bytes
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// requestID returns a random UUID.
func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return uuid(b)
}

// uuid writes 16 random bytes in the form of a version 4 UUID.
func uuid(b [16]byte) string {
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:36], b[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// discardLog silences net/http, which logs each connection that a fault resets.
func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
