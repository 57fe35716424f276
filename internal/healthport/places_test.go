package healthport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A port of a test answers everything with 200.
type port struct {
	*Server

	t   testing.TB
	log *testkit.LogBook
}

// serve serves until the test ends.
func serve(t testing.TB) *port {
	t.Helper()
	r := &port{t: t, log: &testkit.LogBook{}}
	r.Server = New(Options{
		Address: "127.0.0.1:0", Retry: 20 * time.Millisecond, Log: r.log.Logger(),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { cancel(); serving.Wait() })
	testkit.Until(t, "it listens", func() bool { return r.Address() != "" })
	return r
}

// connects opens a connection to the port from this machine.
func (r *port) connects() net.Conn {
	r.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	conn, err := dialer.DialContext(context.Background(), "tcp", r.Address())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asks asks for a path on a connection, and returns why there is no answer.
func asks(conn net.Conn, path string) error {
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// keptAlive asks for /livez on a connection of its own and leaves that open.
func (r *port) keptAlive() net.Conn {
	r.t.Helper()
	conn := r.connects()
	if err := asks(conn, "/livez"); err != nil {
		r.t.Fatalf("a new connection is not answered: %v", err)
	}
	return conn
}

// open reports whether the other end may still hold the connection: what it has closed is
// not always seen at once.
func open(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 64))
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// stillOpen counts the connections that the other end still holds.
func stillOpen(conns []net.Conn) (n int) {
	for _, conn := range conns {
		if open(conn) {
			n++
		}
	}
	return n
}

func TestHealthPortHoldsFewConnectionsAndTheNewestAreAnswered(t *testing.T) {
	t.Parallel()
	r := serve(t)
	var conns []net.Conn
	for range 3 * MaxConnections {
		conns = append(conns, r.keptAlive())
		if n := r.places.count(); n > homePlaces/2 {
			t.Fatalf("%d connections of one address are held, want at most %d", n, homePlaces/2)
		}
	}
	testkit.Until(t, "the other end has closed all but the share of the address", func() bool { return stillOpen(conns) <= homePlaces/2 })
	if !open(conns[len(conns)-1]) {
		t.Error("the newest connection is closed, want the oldest to go")
	}
	if err := asks(r.connects(), "/readyz"); err != nil {
		t.Errorf("a newcomer: %v", err)
	}
	if n := strings.Count(r.log.String(), "too many are open"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

// A flood is clients that open connections from addresses of their own, as fast as
// they can. Some say nothing on them, some ask and go on.
func (r *port) flood(addresses int) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range addresses {
		clients.Go(func() {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}}
			var kept []net.Conn
			for n := 0; ctx.Err() == nil; n++ {
				conn, err := dialer.DialContext(ctx, "tcp", r.Address())
				if err != nil {
					continue
				}
				if n%3 == 0 {
					_, _ = conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"))
				}
				if kept = append(kept, conn); len(kept) > 2*strangerPlaces/4 {
					_ = kept[0].Close()
					kept = kept[1:]
				}
			}
			for _, conn := range kept {
				_ = conn.Close()
			}
		})
	}
	return func() { cancel(); clients.Wait() }
}

func TestProbesAreAnsweredBesideAFlood(t *testing.T) {
	for _, addresses := range []int{1, 3, 8, 200} { // the last are more than there are places
		t.Run(fmt.Sprintf("%d addresses", addresses), func(t *testing.T) {
			t.Parallel()
			r := serve(t)
			stop := r.flood(addresses)
			defer stop()
			testkit.Until(t, "the flood has used up its share", func() bool { return r.places.strangers.count() >= strangerPlaces/4 })
			for i := range 20 {
				if err := asks(r.connects(), "/livez"); err != nil {
					t.Fatalf("probe %d: %v", i, err)
				}
				if n := r.places.count(); n > MaxConnections {
					t.Errorf("%d connections are held, want at most %d", n, MaxConnections)
				}
			}
		})
	}
}

// slow is a connection whose request is being served for as long as the test
// likes: its answer does not go out.
func slow(c *connections, from string) *connection {
	conn, _ := net.Pipe()
	t := c.admit(addressed{Conn: conn, from: &net.TCPAddr{IP: net.ParseIP(from), Port: 1}})
	if t != nil {
		changed(t, http.StateActive)
	}
	return t
}

// addressed is a connection that comes from an address.
type addressed struct {
	net.Conn

	from, to net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }
func (a addressed) LocalAddr() net.Addr  { return a.to }

func TestWhatIsBeingServedIsNotClosed(t *testing.T) {
	const places, share = 128, 32
	synctest.Test(t, func(t *testing.T) {
		c := newConnections(slog.New(slog.DiscardHandler), places, share)
		var served []*connection
		for i := range share {
			if s := slow(c, "10.0.0.1"); s != nil {
				served = append(served, s)
			} else {
				t.Fatalf("connection %d is refused, want its address to have a share of %d", i, share)
			}
		}
		if slow(c, "10.0.0.1") != nil {
			t.Error("an address whose share is being served gets another connection")
		}
		for _, s := range served {
			if s.place == nil {
				t.Fatal("a connection is closed while its request is served")
			}
		}
		for i := range 10 { // more addresses that never read their answers
			for range share {
				slow(c, fmt.Sprintf("10.0.1.%d", i))
			}
		}
		if slow(c, "10.0.0.2") == nil {
			t.Error("an address without a connection is refused, want places that are kept for it")
		}
		changed(served[3], http.StateIdle)
		if s := slow(c, "10.0.0.1"); s == nil || served[3].place != nil {
			t.Error("a newcomer does not get the place of an idle connection of its address")
		}
		time.Sleep(servedFor + time.Second)
		if slow(c, "10.0.0.1") == nil || served[0].place != nil {
			t.Errorf("an answer that nobody takes keeps its place for longer than %s", servedFor)
		}
		if c.count() > places {
			t.Errorf("%d connections are held, want at most %d", c.count(), places)
		}
	})
}

// A flood from many addresses, each with one connection, must not close a probe's
// before its request was read: the one goes that said nothing for longest.
func TestANewConnectionIsTheLastToGo(t *testing.T) {
	const places, share = 128, 32
	synctest.Test(t, func(t *testing.T) {
		c := newConnections(slog.New(slog.DiscardHandler), places, share)
		n := 0
		silent := func() *connection {
			time.Sleep(time.Millisecond)
			n++
			conn, _ := net.Pipe()
			return c.admit(addressed{Conn: conn, from: &net.TCPAddr{IP: net.IPv4(10, 0, byte(n>>8), byte(n)), Port: 1}})
		}
		for range 2 * places {
			silent()
		}
		for range 20 {
			probe := silent()
			for i := range places - 1 {
				silent()
				if probe == nil || probe.place == nil {
					t.Fatalf("the probe's connection is closed for newcomer %d, want it held for %d", i+1, places-1)
				}
			}
		}
	})
}

func TestThisMachineIsToldByItsAddress(t *testing.T) {
	t.Parallel()
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	for _, c := range []struct {
		from, to string
		home     bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"10.0.0.1", "10.0.0.1", true}, // the kubelet asks a pod of the host's network
		{"10.0.0.1", "::ffff:10.0.0.1", true},
		{"2001:db8::1", "2001:db8::1", true},
		{"10.0.0.1", "10.0.0.2", false},
		{"127.0.1.1", "127.0.0.1", false},
	} {
		if got := isHome(addressed{from: tcp(c.from), to: tcp(c.to)}); got != c.home {
			t.Errorf("from %s to %s: of this machine %t, want %t", c.from, c.to, got, c.home)
		}
	}
}

func TestNetworksOfOneHostShare(t *testing.T) {
	t.Parallel()
	for _, pair := range []struct {
		a, b string
		same bool
	}{
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "::ffff:10.0.0.1", true},
		{"10.0.0.1", "10.0.0.2", false},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
	} {
		of := func(ip string) netip.Prefix { return addressOf(addressed{from: &net.TCPAddr{IP: net.ParseIP(ip)}}) }
		if got := of(pair.a) == of(pair.b); got != pair.same {
			t.Errorf("%s and %s share: %t, want %t", pair.a, pair.b, got, pair.same)
		}
	}
}

// A body is not waited for: whoever announces one and sends nothing would hold a
// connection that is being served.
func TestBodyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	r := serve(t)
	for _, head := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked"} {
		conn := r.connects()
		began := time.Now()
		if _, err := conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: h\r\n" + head + "\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, want 200", head, err)
		}
		_ = resp.Body.Close()
		if took := time.Since(began); took > r.server.ReadTimeout/2 {
			t.Errorf("%s: answered after %s, want at once", head, took)
		}
	}
}

func TestHealthPortForgetsClosedConnections(t *testing.T) {
	t.Parallel()
	r := serve(t)
	first := r.keptAlive()
	for range 3 * MaxConnections {
		_ = r.keptAlive().Close()
	}
	testkit.Until(t, "closed connections are forgotten", func() bool { return r.places.count() == 1 })
	if !open(first) {
		t.Error("an open connection went for others that had gone")
	}
}

func TestHealthPortHoldsAnIdleConnectionForSecondsOnly(t *testing.T) {
	t.Parallel()
	r := serve(t)
	if got := r.server.IdleTimeout; got > 10*time.Second {
		t.Errorf("an idle connection is held for %s, want at most 10s", got)
	}
}

func TestErrorsOfTheHealthPortAreLoggedSeldom(t *testing.T) {
	t.Parallel()
	r := serve(t)
	for range 100 {
		r.server.ErrorLog.Printf("http: Accept error: too many open files")
	}
	if n := strings.Count(r.log.String(), "too many open files"); n == 0 || n > 10 {
		t.Errorf("100 errors are %d lines of the log, want a few", n)
	}
}
