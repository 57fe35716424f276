package awskms_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A mute is an emulator whose connections can go silent: they take requests and
// answer none, as behind a firewall that has forgotten them.
type mute struct {
	url      string
	accepted atomic.Int64 // connections so far
	silent   atomic.Int64 // those up to this one
	closes   atomic.Bool  // the silent ones are closed at their next request instead
	attempts atomic.Int64 // calls of KMS, repeated ones too
}

func startMute(t *testing.T, s *kmstest.Server) *mute {
	t.Helper()
	m := &mute{}
	type number struct{}
	server := s.Server()
	connContext, handler := server.ConnContext, server.Handler
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return connContext(context.WithValue(ctx, number{}, m.accepted.Add(1)), c)
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			m.attempts.Add(1)
		}
		if n, _ := r.Context().Value(number{}).(int64); n <= m.silent.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			if m.closes.Load() {
				panic(http.ErrAbortHandler)
			}
			<-r.Context().Done()
			return
		}
		handler.ServeHTTP(w, r)
	})
	m.url = serve(t, server)
	return m
}

// hush makes all connections that there are go silent.
func (m *mute) hush() { m.silent.Store(m.accepted.Load()) }

// fill makes a Client keep many connections.
func (m *mute) fill(t *testing.T, s *kmstest.Server, c *awskms.Client, key string, n int) {
	t.Helper()
	defer s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Latency, Delay: 200 * time.Millisecond})()
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() { mustSeal(t, c, key) })
	}
	wait.Wait()
	settled(t, func() int { return int(m.accepted.Load()) })
}

// hangTime is the limit of a call: half of it is lost by each hang.
const hangTime = 6 * time.Second

func TestOneHangEmptiesAPoolThatWentSilent(t *testing.T) {
	s, key := startBeside(t)
	m := startMute(t, s)
	c := newClient(t, awskms.Options{Endpoint: m.url, Timeout: hangTime})
	m.fill(t, s, c, key, 137)
	if n := m.accepted.Load(); n < 50 {
		t.Fatalf("%d connections, want many that are kept", n)
	}
	for round := range 2 {
		m.hush()
		kept, before := m.accepted.Load(), m.attempts.Load()
		mustSeal(t, c, key)
		if n := m.attempts.Load() - before; n != 2 {
			t.Errorf("round %d: the first call took %d attempts, want one that hung and one on a new connection", round, n)
		}
		before = m.attempts.Load()
		for range 50 {
			mustSeal(t, c, key)
		}
		if n := m.attempts.Load() - before; n != 50 {
			t.Errorf("round %d: the 50 calls after it took %d attempts", round, n)
		}
		if round == 0 { // and not each time at once: that is what an outage would ask for
			eventually(t, "connections that are not opened ahead yet", 0, func() int { return int(kept + 5 - m.accepted.Load()) })
		}
	}
}

func TestAPoolOfStaleConnectionsIsNoError(t *testing.T) {
	s, key := startBeside(t)
	m := startMute(t, s)
	m.closes.Store(true)
	c := newClient(t, awskms.Options{Endpoint: m.url, Timeout: hangTime, Retry: awskms.RetryBudget{Tokens: 1}}) // too few for the SDK's own retry
	m.fill(t, s, c, key, 50)
	m.hush()
	before := m.attempts.Load()
	mustSeal(t, c, key)
	if n := m.attempts.Load() - before; n != 3 {
		t.Errorf("the first call took %d attempts, want two on stale connections and one on a new one", n)
	}
	before = m.attempts.Load()
	for range 20 {
		mustSeal(t, c, key)
	}
	if n := m.attempts.Load() - before; n != 20 {
		t.Errorf("the 20 calls after it took %d attempts", n)
	}
}

func TestHangsAtTheSameTimeAreOne(t *testing.T) {
	s, key := startBeside(t)
	m := startMute(t, s)
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := newClient(t, awskms.Options{Connections: conns, Endpoint: m.url, Timeout: hangTime})
	m.fill(t, s, c, key, 64)
	m.hush()
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() { mustSeal(t, c, key) })
	}
	wait.Wait()
	if n := conns.Stats().Hangs; n != 1 {
		t.Errorf("what was idle was closed %d times, want once", n)
	}
}

// What is in use and well is not cut, and is kept.
func TestAHangHurtsNoConnectionInUse(t *testing.T) {
	s, key := startBeside(t)
	m := startMute(t, s)
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := newClient(t, awskms.Options{Connections: conns, Endpoint: m.url, Timeout: hangTime})
	patient := newClient(t, awskms.Options{Connections: conns, Endpoint: m.url, Timeout: 10 * time.Minute})
	m.fill(t, s, c, key, 8)
	blob := mustSeal(t, c, key).Blob
	remove := s.Inject(kmsemulator.Fault{Operation: "Decrypt", Kind: kmsemulator.Latency, Delay: hangTime})
	defer remove()
	before := s.Calls("Decrypt")
	done := make(chan error)
	go func() {
		_, err := patient.Decrypt(t.Context(), awskms.Call{}, key, blob)
		done <- err
	}()
	eventually(t, "calls that are not there yet", 0, func() int { return before + 1 - s.Calls("Decrypt") })
	m.hush()
	mustSeal(t, c, key)
	if n := conns.Stats().Hangs; n != 1 {
		t.Errorf("%d hangs, want one", n)
	}
	if err := <-done; err != nil || s.Calls("Decrypt") != before+1 {
		t.Errorf("the call on a connection in use: %v, %d attempts; want one", err, s.Calls("Decrypt")-before)
	}
}

// Nor does a caller that leaves no time to answer in, or that leaves.
func TestACallerInAHurryClosesNothing(t *testing.T) {
	s, key := startBeside(t)
	m := startMute(t, s)
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := newClient(t, awskms.Options{Connections: conns, Endpoint: m.url, Timeout: hangTime})
	m.fill(t, s, c, key, 8)
	defer s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang})()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), awskms.Reply+100*time.Millisecond)
		if _, err := c.Encrypt(ctx, awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.TooLittleTime {
			t.Errorf("got %v, want %s", err, cause.TooLittleTime)
		}
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel)
		if _, err := c.Encrypt(ctx, awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.CallerLeft {
			t.Errorf("got %v, want %s", err, cause.CallerLeft)
		}
	}
	if n := conns.Stats().Hangs; n != 0 {
		t.Errorf("what was idle was closed %d times because of callers in a hurry", n)
	}
}
