package healthport

import (
	"container/list"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// MaxConnections bounds the connections of the health port: whoever can
	// reach it must not take the files that the KMS sockets need. Probes and scrapes
	// need a few.
	MaxConnections = 128
	// homePlaces are those that only this machine gets, from the address that it asks:
	// so the kubelet asks a pod of the host's network. However many strangers come, and
	// from however many addresses, liveness is answered.
	homePlaces = MaxConnections / 4
	// strangerPlaces are those of all others.
	strangerPlaces = MaxConnections - homePlaces
	// servedFor is how long a request is left alone while it is served: longer than
	// any probe waits for its answer.
	servedFor = 10 * time.Second
	// silentEvery bounds how often, beyond its share, the newcomers of one address take
	// the place of connections that have said nothing. To refuse costs little; to serve
	// a flood would keep the probes of others waiting behind it.
	silentEvery = 20 * time.Millisecond
)

// connections are those of the health port. Each address has a share, and what
// is being served is not closed. A newcomer takes the place of a connection of its
// own address when its share is used up; when all places are taken, that of a
// connection of the address that holds the most. Where there is none to take, the
// newcomer is refused. So an address without a connection gets in beside any that
// flood the port.
type connections struct {
	log    *slog.Logger
	quiet  *rate.Limiter
	places int
	// share bounds those of one address, so that a client that opens many leaves room
	// for others. As many again are kept for addresses without a connection: what is
	// being served is not closed, and slow readers can make that last.
	share int

	mu   sync.Mutex
	held int
	of   map[netip.Prefix]*addressShare // address → what it holds; none that holds nothing
}

// An addressShare is what one address holds.
type addressShare struct {
	conns  list.List // of *connection, the one that changed last at the back
	silent *rate.Limiter
}

// A connection is one connection of the health port.
type connection struct {
	net.Conn

	all     *connections
	from    netip.Prefix
	place   *list.Element // in all.of[from]; nil: it has given its place back
	spoke   bool          // a request was served
	busy    time.Time     // since when a request is served; zero: none is
	closed  bool          // by evict
	changed time.Time     // when it began, or a request on it began or ended
	using   sync.RWMutex  // held for reading by reads and writes
}

func newConnections(log *slog.Logger, places, share int) *connections {
	return &connections{
		log: log, quiet: rate.NewLimiter(rate.Every(time.Minute), 1), places: places, share: share,
		of: map[netip.Prefix]*addressShare{},
	}
}

// allPlaces are all connections of the health port: this machine's and others'.
type allPlaces struct {
	home, strangers *connections
}

func newPlaces(log *slog.Logger) allPlaces {
	return allPlaces{
		home:      newConnections(log.With("from", "this machine"), homePlaces, homePlaces/2),
		strangers: newConnections(log, strangerPlaces, strangerPlaces/4),
	}
}

// admit takes a connection in, and returns nil where all places are taken.
func (p allPlaces) admit(conn net.Conn) *connection {
	if isHome(conn) {
		return p.home.admit(conn)
	}
	return p.strangers.admit(conn)
}

func (p allPlaces) count() int { return p.home.count() + p.strangers.count() }

// isHome reports whether a connection comes from the very address that it asks,
// which no other machine can have.
func isHome(conn net.Conn) bool {
	from, ok := conn.RemoteAddr().(*net.TCPAddr)
	to, too := conn.LocalAddr().(*net.TCPAddr)
	return ok && too && from.IP.Equal(to.IP)
}

// A gate is a listener that refuses what finds no place.
type gate struct {
	net.Listener

	places allPlaces
}

// Accept returns the next connection that is let in.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if in := g.places.admit(conn); in != nil {
			return in, nil
		}
		_ = conn.Close()
	}
}

// admit takes a connection in, in the place of another where that is needed, and
// returns nil where all places are taken. Only its gate calls it.
func (c *connections) admit(conn net.Conn) *connection {
	from := addressOf(conn)
	c.mu.Lock()
	victim, full := c.victim(from, time.Now())
	if victim != nil {
		victim.closed = true
	}
	c.mu.Unlock()
	if full && c.quiet.Allow() {
		c.log.Warn("connections of the health port are closed: too many are open", "limit", c.places, "limit_of_an_address", c.share, "address", from.String())
	}
	switch {
	case victim != nil:
		victim.evict()
	case full:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &connection{Conn: conn, all: c, from: from, changed: time.Now()}
	if c.of[from] == nil {
		c.of[from] = &addressShare{silent: rate.NewLimiter(rate.Every(silentEvery), c.share)}
	}
	t.place = c.of[from].conns.PushBack(t)
	c.held++
	return t
}

// victim returns whose place a newcomer takes, and whether it needs that of
// another. The caller holds the lock.
func (c *connections) victim(from netip.Prefix, now time.Time) (victim *connection, full bool) {
	share, own, limit := c.of[from], 0, c.places
	if share != nil {
		own, limit = share.conns.Len(), c.places-c.share
	}
	switch {
	case own >= c.share:
		victim = share.free(now)
	case c.held < limit:
		return nil, false
	default:
		victim = c.ofTheLargest(own, now)
		if victim == nil && share != nil {
			victim = share.free(now)
		}
	}
	if victim != nil && !victim.spoke && share != nil && !share.silent.AllowN(now, 1) {
		return nil, true
	}
	return victim, true
}

// ofTheLargest returns a connection of the address that holds the most, of those
// that hold more than the newcomer's. Of several such addresses it is the connection
// that has been left alone for longest: a request may be on its way on a new one.
func (c *connections) ofTheLargest(own int, now time.Time) (victim *connection) {
	most := own + 1
	for _, share := range c.of {
		held := share.conns.Len()
		if held < most {
			continue
		}
		free := share.free(now)
		if free != nil && (victim == nil || held > most || free.changed.Before(victim.changed)) {
			victim, most = free, held
		}
	}
	return victim
}

// free returns a connection on which no request is served, nil where there is
// none: the one that has been idle for longest, else the one that has said nothing
// for longest.
func (s *addressShare) free(now time.Time) (silent *connection) {
	for e := s.conns.Front(); e != nil; e = e.Next() {
		t, ok := e.Value.(*connection)
		switch {
		case !ok || t.closed || !t.busy.IsZero() && now.Sub(t.busy) <= servedFor:
		case t.spoke:
			return t
		case silent == nil:
			silent = t
		}
	}
	return silent
}

// evict closes a connection and gives its place back. The descriptor is there
// until the last reader or writer has noticed, so that is waited for: never more
// are held than are counted, and a flood is no faster than it is cleared away.
func (t *connection) evict() {
	if tcp, ok := t.Conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // at once: the other end need not wait for a reader here
	}
	_ = t.Conn.Close()
	t.using.Lock() // held by nobody for long: reads and writes of a closed connection end
	defer t.using.Unlock()
	t.leave()
}

// Read reads from the connection.
func (t *connection) Read(p []byte) (int, error) {
	t.using.RLock()
	defer t.using.RUnlock()
	return t.Conn.Read(p)
}

// Write writes to the connection.
func (t *connection) Write(p []byte) (int, error) {
	t.using.RLock()
	defer t.using.RUnlock()
	return t.Conn.Write(p)
}

// changed is the server's ConnState.
func changed(conn net.Conn, state http.ConnState) {
	t, ok := conn.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateNew:
	case http.StateActive: // a request's head has been read
		t.set(time.Now())
	case http.StateIdle:
		t.set(time.Time{})
	case http.StateClosed, http.StateHijacked:
		t.leave()
	}
}

// set notes since when a request is served.
func (t *connection) set(busy time.Time) {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.busy, t.spoke, t.changed = busy, true, time.Now()
	if t.place != nil {
		t.all.of[t.from].conns.MoveToBack(t.place)
	}
}

// leave gives the place back.
func (t *connection) leave() {
	c := t.all
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.place == nil {
		return
	}
	share := c.of[t.from]
	share.conns.Remove(t.place)
	t.place = nil
	c.held--
	if share.conns.Len() == 0 {
		delete(c.of, t.from)
	}
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

// addressOf returns whose share a connection uses: that of its IPv4 address, or of
// the /64 network of its IPv6 address, of which one host has as many as it likes.
func addressOf(conn net.Conn) netip.Prefix {
	const hostBits, networkBits = 32, 64
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := networkBits
	if addr.Is4() {
		bits = hostBits
	}
	return netip.PrefixFrom(addr, bits).Masked()
}
