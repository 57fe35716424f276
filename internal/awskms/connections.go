package awskms

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
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

	dialTimeout = 2 * time.Second
)

// MaxIdle is how many connections to a host of KMS are kept. More are open while
// more calls are under way.
const MaxIdle = idlePerHost

// Connections are the process's connections to KMS, shared by all Clients: a
// pool for each host, which is closed with the last Client that uses it. Close
// ends its goroutines. It is safe for concurrent use.
type Connections struct {
	ctx  context.Context //nolint:containedctx // ends the goroutines that open connections ahead
	stop context.CancelFunc
	wait sync.WaitGroup

	refreshes atomic.Uint64 // how often Refresh was called

	mu    sync.Mutex
	trust *trust // nil until the SDK's settings are known
	pools map[origin]*pool
}

// trust is what the SDK's settings say of connections: CA bundle and proxy.
type trust struct {
	builder  *awshttp.BuildableClient
	unshared *transports // never keep a connection, so that all hosts can share them
	asOf     time.Time   // when the settings began to be read
}

// origin is where connections lead.
type origin struct{ scheme, host string }

// A pool is the connections to one host.
type pool struct {
	origin     origin
	transports atomic.Pointer[transports]

	// Guarded by Connections.mu.
	users  int       // Clients that have called the host and are not closed
	openAt time.Time // when connections may be opened ahead
}

type transports struct {
	pooled  *http.Transport
	fresh   *http.Transport // never reuses a connection
	retired atomic.Bool     // nothing new is sent
}

// NewConnections returns no connections yet.
func NewConnections() *Connections {
	ctx, stop := context.WithCancel(context.Background())
	return &Connections{ctx: ctx, stop: stop, pools: map[origin]*pool{}}
}

// Refresh makes each Client read the SDK's settings, credentials and CA bundle
// anew, beside its next call. Calls go on with what there is until that has been
// found, and where it cannot be read.
func (c *Connections) Refresh() { c.refreshes.Add(1) }

// Close closes idle connections and waits for the goroutines of its own and of
// the Clients. Calls under way are not cut; what they use is closed behind them.
func (c *Connections) Close() {
	c.mu.Lock()
	c.stop()
	for _, p := range c.pools {
		p.transports.Load().retire()
	}
	c.mu.Unlock()
	c.wait.Wait()
}

// background runs work beside the calls, for at most limit, until Close. After
// Close work still runs, to find its context ended.
func (c *Connections) background(limit time.Duration, work func(ctx context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backgroundLocked(limit, work)
}

func (c *Connections) backgroundLocked(limit time.Duration, work func(ctx context.Context)) {
	bounded := func() {
		ctx, cancel := context.WithTimeout(c.ctx, limit)
		defer cancel()
		work(ctx)
	}
	if c.ctx.Err() != nil { // Close waits, or has waited, for those before
		go bounded()
		return
	}
	c.wait.Go(bounded)
}

// offer takes over what settings that were read anew trust, where it is not what
// counts already. Of two that were read side by side the later one counts.
func (c *Connections) offer(cfg aws.Config, asOf time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	offered := newTrust(cfg, asOf)
	if c.trust != nil {
		if asOf.Before(c.trust.asOf) {
			return
		}
		if offered.roots().Equal(c.trust.roots()) {
			c.trust.asOf = asOf
			return
		}
	}
	c.trust = offered
	for _, p := range c.pools {
		p.transports.Swap(offered.transports()).retire()
		p.openAt = time.Time{}
	}
}

// trusted is what counts now; it is another pointer after a change.
func (c *Connections) trusted() *trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}

func newTrust(cfg aws.Config, asOf time.Time) *trust {
	builder, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		builder = awshttp.NewBuildableClient()
	}
	t := &trust{builder: builder, asOf: asOf}
	fresh := t.transports().fresh
	t.unshared = &transports{pooled: fresh, fresh: fresh}
	return t
}

// roots are the CA certificates of the bundle; nil: the system's.
func (t *trust) roots() *x509.CertPool { return t.unshared.fresh.TLSClientConfig.RootCAs }

func (t *trust) transports() *transports {
	pooled := t.builder.WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).GetTransport()
	pooled.DisableKeepAlives = false // which it is for the SDK's own calls
	pooled.MaxIdleConns = 0          // per host counts
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
	return &transports{pooled: pooled, fresh: fresh}
}

// retire closes what is idle. What is under way closes its connection itself
// when it has ended.
func (t *transports) retire() {
	t.retired.Store(true)
	t.pooled.CloseIdleConnections()
}

// A line is one Client's way to the connections: the SDK's HTTP client.
type line struct {
	conns *Connections

	// Guarded by conns.mu.
	pools  map[origin]*pool // those that it uses: of one host, with few exceptions
	closed bool
}

func newLine(c *Connections) *line { return &line{conns: c, pools: map[origin]*pool{}} }

// transports returns those of a host. A line that is closed keeps nothing open.
func (l *line) transports(u *url.URL) *transports {
	c := l.conns
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.closed || c.ctx.Err() != nil {
		return c.trust.unshared
	}
	at := origin{u.Scheme, u.Host}
	p := l.pools[at]
	if p == nil {
		p = c.poolLocked(at)
		p.users++
		l.pools[at] = p
	}
	c.openAheadLocked(p)
	return p.transports.Load()
}

func (c *Connections) poolLocked(at origin) *pool {
	p := c.pools[at]
	if p == nil {
		p = &pool{origin: at}
		p.transports.Store(c.trust.transports())
		c.pools[at] = p
	}
	return p
}

// close gives up what the line uses, and closes what no other uses.
func (l *line) close() {
	c := l.conns
	c.mu.Lock()
	defer c.mu.Unlock()
	l.closed = true
	for at, p := range l.pools {
		if p.users--; p.users == 0 {
			delete(c.pools, at)
			p.transports.Load().retire()
		}
	}
	clear(l.pools)
}

// openAheadLocked opens connections to a host when it is first called, so that
// later callers find them. What the host answers does not matter. Where it could
// not be reached, a later call tries again. They stay open like those that calls
// have opened: until they were idle for long, or the pool ends.
func (c *Connections) openAheadLocked(p *pool) {
	now := time.Now()
	if now.Before(p.openAt) {
		return
	}
	p.openAt = now.Add(openAheadPause)
	for range openAhead {
		c.backgroundLocked(2*dialTimeout, func(ctx context.Context) { c.openOne(ctx, p) })
	}
}

func (c *Connections) openOne(ctx context.Context, p *pool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.origin.scheme+"://"+p.origin.host+"/", nil)
	if err != nil {
		return
	}
	t := p.transports.Load()
	resp, err := t.roundTrip(t.pooled, req)
	if err != nil {
		return
	}
	_ = resp.Body.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.transports.Load() == t {
		p.openAt = time.Now().Add(forever)
	}
}
