package daemon

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// keptAlive asks for /livez on a connection of its own and leaves that open.
func (r *running) keptAlive() net.Conn {
	r.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.HealthAddress())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.t.Fatalf("a new connection is not answered: %v", err)
	}
	_ = resp.Body.Close()
	return conn
}

// open says whether the other end still holds the connection.
func open(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 64))
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

func TestHealthPortHoldsFewConnectionsAndTheNewestAreAnswered(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).ready()
	var conns []net.Conn
	for range 3 * maxHealthConnections {
		conns = append(conns, r.keptAlive())
	}
	held := 0
	for _, conn := range conns {
		if open(conn) {
			held++
		}
	}
	if held == 0 || held > maxHealthConnections {
		t.Errorf("%d connections are held, want some and at most %d", held, maxHealthConnections)
	}
	if !open(conns[len(conns)-1]) {
		t.Error("the newest connection is closed, want the oldest to go")
	}
	if code, _ := r.get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d, want 200", code)
	}
	if n := strings.Count(r.log.String(), "too many are open"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

func TestHealthPortForgetsClosedConnections(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).ready()
	first := r.keptAlive()
	for range 3 * maxHealthConnections {
		_ = r.keptAlive().Close()
	}
	until(t, "closed connections are forgotten", func() bool { return r.http.conns.count() == 1 })
	if !open(first) {
		t.Error("an open connection went for others that had gone")
	}
}

func TestHealthPortHoldsAnIdleConnectionForSecondsOnly(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).ready()
	if got := r.http.server.IdleTimeout; got > 10*time.Second {
		t.Errorf("an idle connection is held for %s, want at most 10s", got)
	}
}

func TestErrorsOfTheHealthPortAreLoggedSeldom(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).ready()
	for range 100 {
		r.http.server.ErrorLog.Printf("http: Accept error: too many open files")
	}
	if n := strings.Count(r.log.String(), "too many open files"); n == 0 || n > 10 {
		t.Errorf("100 errors are %d lines of the log, want a few", n)
	}
}
