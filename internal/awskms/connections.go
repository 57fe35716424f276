package awskms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsarn "github.com/aws/aws-sdk-go-v2/aws/arn"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

const (
	// idlePerHost is how many connections are kept: the SDK's ten would make
	// 128 callers pay for a TLS handshake most of the time.
	idlePerHost = 256
	// openAhead is how many connections are opened beside the first request: a
	// v1 list decrypts ten objects at a time.
	openAhead = 16
	// openAheadPause is the time between tries while the host cannot be reached.
	openAheadPause = 30 * time.Second
	// idleTime keeps connections through the quiet of a v2 cluster, whose next
	// burst is its cold start. KMS closes them when it likes.
	idleTime = 15 * time.Minute
	forever  = 100 * 365 * 24 * time.Hour
	// maxAnswer bounds what is read of an answer. KMS's are below 20 kB.
	maxAnswer = 1 << 20

	// maxReplays bounds how many closed connections one attempt may meet:
	// net/http alone would try each idle one in turn.
	maxReplays = 2

	dialTimeout = 2 * time.Second
)

// Connections are the process's connections to KMS, shared by all Clients and
// kept per endpoint. Close ends its goroutines. It is safe for concurrent use.
type Connections struct {
	ctx  context.Context //nolint:containedctx // ends the goroutines that open connections ahead
	stop context.CancelFunc
	wait sync.WaitGroup

	mu         sync.Mutex
	transports atomic.Pointer[transports] // nil until the SDK's settings (CA bundle, proxy) are known
	distrusted bool                       // the next client's settings replace the transports
	opened     map[string]time.Time       // scheme://host → when connections were last opened ahead
}

type transports struct {
	from   aws.HTTPClient // of the settings that they were made of
	pooled *http.Transport
	fresh  *http.Transport // never reuses a connection
}

// NewConnections returns an empty pool.
func NewConnections() *Connections {
	ctx, stop := context.WithCancel(context.Background())
	return &Connections{ctx: ctx, stop: stop, opened: map[string]time.Time{}}
}

// Close closes idle connections and waits for the pool's own goroutines. Calls
// under way are not cut.
func (c *Connections) Close() {
	c.stop()
	c.wait.Wait()
	if t := c.transports.Load(); t != nil {
		t.pooled.CloseIdleConnections()
		t.fresh.CloseIdleConnections()
	}
}

// background runs work beside the calls, for at most limit, until Close.
func (c *Connections) background(limit time.Duration, work func(ctx context.Context)) {
	c.wait.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, limit)
		defer cancel()
		work(ctx)
	})
}

// distrust makes the next client bring new CA certificates.
func (c *Connections) distrust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.distrusted = true
}

// client returns the pool as the SDK's HTTP client. The settings of the first
// caller count, as they come from one environment, until what they trust failed.
func (c *Connections) client(cfg aws.Config) aws.HTTPClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.transports.Load()
	if old != nil && (!c.distrusted || old.from == cfg.HTTPClient) {
		return c
	}
	c.distrusted = false
	c.transports.Store(newTransports(cfg))
	if old != nil {
		old.pooled.CloseIdleConnections()
	}
	return c
}

func newTransports(cfg aws.Config) *transports {
	builder, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		builder = awshttp.NewBuildableClient()
	}
	pooled := builder.WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).GetTransport()
	pooled.MaxIdleConns = 0 // per host counts
	pooled.MaxIdleConnsPerHost = idlePerHost
	pooled.IdleConnTimeout = idleTime
	pooled.MaxConnsPerHost = 0 // a limit would queue callers behind hanging calls
	pooled.TLSHandshakeTimeout = dialTimeout
	// One multiplexed connection that went silent would hang every caller at once.
	pooled.ForceAttemptHTTP2 = false
	pooled.Protocols = new(http.Protocols)
	pooled.Protocols.SetHTTP1(true)
	fresh := pooled.Clone()
	fresh.DisableKeepAlives = true
	return &transports{from: cfg.HTTPClient, pooled: pooled, fresh: fresh}
}

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
func (c *Connections) Do(req *http.Request) (*http.Response, error) {
	ctx, cancel, transport, state := c.attempt(req)
	defer cancel()
	out, err := inMemory(req.Clone(ctx)) //nolint:contextcheck // ctx is the request's own, shortened
	if err != nil {
		return nil, err
	}
	c.openAhead(req) //nolint:contextcheck // outlives the call, and ends with the pool
	resp, err := roundTrip(transport, out)
	if err != nil && state != nil && state.made == 1 && errors.Is(ctx.Err(), context.DeadlineExceeded) && req.Context().Err() == nil {
		state.hung = true
		return nil, errAttemptHung
	}
	return resp, err
}

func (c *Connections) attempt(req *http.Request) (context.Context, context.CancelFunc, *http.Transport, *attempts) {
	t := c.transports.Load()
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

func roundTrip(transport http.RoundTripper, req *http.Request) (*http.Response, error) {
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

// openAhead opens connections to a host when it is first called, so that later
// callers find them. What the host answers does not matter. Where it could not
// be reached, a later call tries again.
func (c *Connections) openAhead(req *http.Request) {
	host := req.URL.Scheme + "://" + req.URL.Host
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.opened[host]) < openAheadPause || c.ctx.Err() != nil {
		return
	}
	c.opened[host] = time.Now()
	for range openAhead {
		c.background(2*dialTimeout, func(ctx context.Context) { c.openOne(ctx, host) })
	}
}

func (c *Connections) openOne(ctx context.Context, host string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+"/", nil) //nolint:gosec // the endpoint that the SDK chose
	if err != nil {
		return
	}
	resp, err := roundTrip(c.transports.Load().pooled, req)
	if err != nil {
		return
	}
	_ = resp.Body.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened[host] = time.Now().Add(forever)
}

func setHeaders(request any, headers map[string]string) {
	req, ok := request.(*smithyhttp.Request)
	if !ok {
		return
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
}

// accountOf returns the account of an ARN, "" where it is none: the
// configuration has refused that already.
func accountOf(s string) string {
	parsed, err := awsarn.Parse(s)
	if err != nil {
		return ""
	}
	return parsed.AccountID
}
