// Package transport is the way to KMS over HTTP: connections that all clients share, the
// attempts of a call, answers that no AWS service gives, and what was secret in a request
// and must not come back in anybody's words.
//
// It knows nothing of credentials, and does not decide what a failure means.
package transport

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

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

const forever = 100 * 365 * 24 * time.Hour

const (
	// idlePerHost is how many connections are kept: the SDK's ten would make
	// 128 callers pay for a TLS handshake most of the time.
	idlePerHost = 256
	// openAhead is how many connections are opened beside the first request: a
	// v1 list decrypts ten objects at a time.
	openAhead = 16
)

// MaxIdle is how many connections to a host of KMS are kept. More are open while
// more calls are under way.
const MaxIdle = idlePerHost

// Connections are the process's connections to KMS, shared by all Clients: a
// pool for each host, which is closed with the last Client that uses it. Close
// ends its goroutines. It is safe for concurrent use.
type Connections struct {
	// Waits is told of what Close leaves behind, since it does not end; nil: nobody
	// is. It is set before the first use.
	Waits *bounded.Observer
	// Dial makes the connections to KMS, or to a proxy; nil: the SDK's dialer does. It
	// is set before the first use.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Timing is how long connections wait for what; zero: the usual. It is set before
	// the first use.
	Timing Timing

	// Proxy says by which proxy a request of KMS goes; nil: by that of the environment.
	// It is set before the first use.
	Proxy func(*http.Request) (*url.URL, error)

	ctx  context.Context //nolint:containedctx // ends the goroutines that open connections ahead
	stop context.CancelFunc
	wait sync.WaitGroup

	workers   bounded.Workers // that make the calls
	refreshes atomic.Uint64   // how often Refresh was called

	mu    sync.Mutex
	trust *Trust // nil until the SDK's settings are known
	pools map[origin]*pool
}

// A Trust is what the SDK's settings say of connections: CA bundle and proxy.
type Trust struct {
	builder  *awshttp.BuildableClient
	dial     dial        // nil: the builder's
	unshared *transports // never keep a connection, so that all hosts can share them
	asOf     time.Time   // when the settings began to be read
	timing   Timing
	proxy    func(*http.Request) (*url.URL, error) // nil: the builder's
}

// origin is where connections lead.
type origin struct{ scheme, host string }

// address is what net/http dials for it where there is no proxy.
func (o origin) address() string {
	u := url.URL{Scheme: o.scheme, Host: o.host}
	port := u.Port()
	switch {
	case port != "":
	case o.scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// A pool is the connections to one host.
type pool struct {
	origin     origin
	transports atomic.Pointer[transports]

	// Guarded by Connections.mu.
	users    int       // Clients that have called the host and are not closed
	openAt   time.Time // when connections may be opened ahead
	hangs    int       // how often what was idle was closed because of a hang
	reopenAt time.Time // when a hang may make connections be opened ahead at once
}

type transports struct {
	pooled  *http.Transport
	fresh   *http.Transport // never reuses a connection
	retired atomic.Bool     // nothing new is sent
}

// New returns no connections yet.
func New() *Connections {
	ctx, stop := context.WithCancel(context.Background())
	return &Connections{ctx: ctx, stop: stop, pools: map[origin]*pool{}}
}

func (c *Connections) timing() Timing { return c.Timing.orUsual() }

// Workers are the goroutines that make the calls.
func (c *Connections) Workers() *bounded.Workers { return &c.workers }

// Ended reports whether Close was called.
func (c *Connections) Ended() bool { return c.ctx.Err() != nil }

// Refreshes is how often Refresh was called.
func (c *Connections) Refreshes() uint64 { return c.refreshes.Load() }

// Stats are what Connections amount to.
type Stats struct {
	Hosts int // that have connections, or had them and are remembered
	Hangs int // how often what was idle was closed because of a hang, over all hosts
}

// Stats counts.
func (c *Connections) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Hosts: len(c.pools)}
	for _, p := range c.pools {
		s.Hangs += p.hangs
	}
	return s
}

// Refresh makes each Client read the SDK's settings, credentials and CA bundle
// anew, beside its next call. Calls go on with what there is until that has been
// found, and where it cannot be read.
func (c *Connections) Refresh() { c.refreshes.Add(1) }

// Close closes idle connections and ends the goroutines of its own and of the
// Clients. It waits about a second for those that do not end. Calls under way are
// not cut; what they use is closed behind them.
func (c *Connections) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), c.timing().Close)
	defer cancel()
	_ = bounded.Run(ctx, c.Waits, bounded.Close, func(context.Context) error { // what is left behind is told by it
		c.workers.Close()
		for _, t := range c.end() {
			t.retire()
		}
		c.wait.Wait()
		return nil
	})
}

// end tells the goroutines to end, and returns what is to be closed.
func (c *Connections) end() []*transports {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
	var all []*transports
	for _, p := range c.pools {
		all = append(all, p.transports.Load())
	}
	return all
}

// Background runs work beside the calls, for at most limit, until Close. After
// Close work still runs, to find its context ended.
func (c *Connections) Background(limit time.Duration, work func(ctx context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backgroundLocked(limit, work)
}

func (c *Connections) backgroundLocked(limit time.Duration, work func(ctx context.Context)) {
	run := func() {
		ctx, cancel := context.WithTimeout(c.ctx, limit)
		defer cancel()
		work(ctx)
	}
	if c.ctx.Err() != nil { // Close waits, or has waited, for those before
		go run()
		return
	}
	c.wait.Go(run)
}

// Offer takes over what newly read settings trust, where that differs from what counts
// already. Of two that were read side by side the later one counts.
func (c *Connections) Offer(cfg aws.Config, asOf time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	offered := c.newTrust(cfg, asOf)
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
		p.transports.Swap(offered.transportsTo(p.origin)).retire()
		p.openAt = time.Time{}
	}
}

// Trusted is what counts now; it is another pointer after a change, and nil while no
// settings were read.
func (c *Connections) Trusted() *Trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}

func (c *Connections) newTrust(cfg aws.Config, asOf time.Time) *Trust {
	builder, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		builder = awshttp.NewBuildableClient()
	}
	t := &Trust{builder: builder, dial: c.Dial, asOf: asOf, timing: c.timing(), proxy: c.Proxy}
	fresh := t.transports().fresh
	t.unshared = &transports{pooled: fresh, fresh: fresh}
	return t
}

// roots are the CA certificates of the bundle; nil: the system's.
func (t *Trust) roots() *x509.CertPool { return t.unshared.fresh.TLSClientConfig.RootCAs }

func (t *Trust) transports() *transports { return t.transportsTo(origin{}) }

func (t *Trust) transportsTo(to origin) *transports {
	pooled := t.builder.WithDialerOptions(func(d *net.Dialer) { d.Timeout = t.timing.Dial }).GetTransport()
	if t.proxy != nil {
		pooled.Proxy = t.proxy
	}
	if t.dial != nil {
		pooled.DialContext = t.dial
	}
	pooled.DialContext = boundByProxy(pooled.DialContext, to.address(), t.timing.Proxy)
	pooled.DisableKeepAlives = false // which it is for the SDK's own calls
	pooled.MaxIdleConns = 0          // per host counts
	pooled.MaxIdleConnsPerHost = idlePerHost
	pooled.IdleConnTimeout = t.timing.Idle
	pooled.MaxConnsPerHost = 0 // a limit would queue callers behind hanging calls
	pooled.TLSHandshakeTimeout = t.timing.Dial
	pooled.MaxResponseHeaderBytes = maxHeaders
	// One multiplexed connection that went silent would hang every caller at once.
	pooled.ForceAttemptHTTP2 = false
	pooled.Protocols = new(http.Protocols)
	pooled.Protocols.SetHTTP1(true)
	fresh := pooled.Clone()
	fresh.DisableKeepAlives = true
	return &transports{pooled: pooled, fresh: fresh}
}

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

// boundByProxy gives connections that lead elsewhere, which is to a proxy, an end.
// It is lifted when a request takes the connection.
func boundByProxy(d dial, direct string, limit time.Duration) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d(ctx, network, address)
		if err == nil && address != direct {
			err = conn.SetDeadline(time.Now().Add(limit))
		}
		return conn, err
	}
}

// retire closes what is idle. What is under way closes its connection itself
// when it has ended.
func (t *transports) retire() {
	t.retired.Store(true)
	t.pooled.CloseIdleConnections()
	t.fresh.CloseIdleConnections() // it keeps none: this ends dials that nobody waits for
}

// A Client is one user's way to the connections, as the SDK asks for it. It is safe
// for concurrent use.
type Client struct {
	conns *Connections

	// Guarded by conns.mu.
	pools  map[origin]*pool // those that it uses: of one host, with few exceptions
	closed bool
}

// NewClient returns a Client that uses no connection yet.
func NewClient(c *Connections) *Client {
	return &Client{conns: c, pools: map[origin]*pool{}}
}

// A way is what one attempt uses.
type way struct {
	transports *transports
	conns      *Connections
	pool       *pool // nil: of no host
	hangs      int   // of the pool, when the attempt began
}

// way returns that to a host. A Client that is closed keeps nothing open.
func (l *Client) way(u *url.URL) way {
	c := l.conns
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.closed || c.ctx.Err() != nil {
		return way{transports: c.trust.unshared, conns: c}
	}
	at := origin{u.Scheme, u.Host}
	p := l.pools[at]
	if p == nil {
		p = c.poolLocked(at)
		p.users++
		l.pools[at] = p
	}
	c.openAheadLocked(p)
	return way{transports: p.transports.Load(), conns: c, pool: p, hangs: p.hangs}
}

// hung closes what is idle, since one of the kept connections did not answer, or
// several were found closed: what befell them may have befallen all that were open.
// Of the attempts that were under way together, only the first to hang closes them,
// so that what was opened since stays. What is in use stays as well. Then connections
// are opened ahead again, at most once in a while.
func (w way) hung() {
	if w.pool == nil || !w.conns.firstHang(w.pool, w.hangs) {
		return
	}
	w.transports.pooled.CloseIdleConnections()
	w.conns.reopen(w.pool)
}

// firstHang reports whether a pool has had no hang since it had so many.
func (c *Connections) firstHang(p *pool, hangs int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.hangs != hangs {
		return false
	}
	p.hangs++
	return true
}

// reopen makes the next attempt open connections ahead.
func (c *Connections) reopen(p *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	p.openAt = p.reopenAt
	if !now.Before(p.reopenAt) {
		p.openAt, p.reopenAt = now, now.Add(c.timing().OpenAheadPause)
	}
}

func (c *Connections) poolLocked(at origin) *pool {
	p := c.pools[at]
	if p == nil {
		p = &pool{origin: at}
		p.transports.Store(c.trust.transportsTo(at))
		c.pools[at] = p
	}
	return p
}

// Close gives up what the Client uses, and closes what no other uses.
func (l *Client) Close() {
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
	p.openAt = now.Add(c.timing().OpenAheadPause)
	hangs := p.hangs
	for range openAhead {
		c.backgroundLocked(2*c.timing().Dial, func(ctx context.Context) { c.openOne(ctx, p, hangs) })
	}
}

func (c *Connections) openOne(ctx context.Context, p *pool, hangs int) {
	got := noConnection
	req, err := http.NewRequestWithContext(got.noted(ctx), http.MethodGet, p.origin.scheme+"://"+p.origin.host+"/", nil)
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
	if p.transports.Load() == t && p.hangs == hangs {
		p.openAt = time.Now().Add(forever)
	}
}
