package awskms_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

func TestHangingAttemptIsRepeatedOnANewConnection(t *testing.T) {
	s, key := startBeside(t)
	c := newClient(t, awskms.Options{Endpoint: s.URL, Timeout: usualLimit})
	mustSeal(t, c, key)
	before := s.Connections()
	defer s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang, Count: 1})()
	began := time.Now()
	mustSeal(t, c, key)
	if took := time.Since(began); took < 1200*time.Millisecond {
		t.Errorf("took %v: want the first attempt to have had half of 2.5 s", took)
	}
	if s.Connections() <= before {
		t.Errorf("connections before and after: %d, %d; want a new one", before, s.Connections())
	}
}

func TestTransientFailureIsRepeatedOnce(t *testing.T) {
	s, key := start(t)
	c := newClient(t, awskms.Options{})
	for _, kind := range []kmsemulator.FaultKind{kmsemulator.Throttle, kmsemulator.Internal, kmsemulator.Unavailable, kmsemulator.Reset} {
		remove := s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kind, Count: 1})
		mustSeal(t, c, key)
		remove()
		before := s.Calls("Encrypt")
		remove = s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kind})
		_, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		remove()
		most := 2
		if kind == kmsemulator.Reset {
			most = 6 // net/http repeats what met a closed connection, within an attempt
		}
		if calls := s.Calls("Encrypt") - before; err == nil || calls < 2 || calls > most {
			t.Errorf("%s for good: error %v after %d attempts, want one after 2, at most %d", kind, err, calls, most)
		}
	}
}

func TestRetriesDrawFromTheBudgetAndRequestsDoNot(t *testing.T) {
	s, key := start(t)
	c := newClient(t, awskms.Options{Retry: awskms.RetryBudget{Tokens: 3, Flat: true}})
	defer s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Internal})()
	before := s.Calls("Encrypt")
	for range 10 {
		_, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		if cause.Of(err).Code != cause.KMSInternal {
			t.Fatalf("got %v, want %s also when the budget is empty", err, cause.KMSInternal)
		}
	}
	if calls := s.Calls("Encrypt") - before; calls != 13 {
		t.Errorf("%d attempts of 10 requests with 3 retry tokens, want 13", calls)
	}
}

func TestHundredCallersShareKeptConnections(t *testing.T) {
	s, key := startBeside(t)
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	clients := []*awskms.Client{
		newClient(t, awskms.Options{Connections: conns, Endpoint: s.URL}), newClient(t, awskms.Options{Connections: conns, Endpoint: s.URL}),
	}
	defer s.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 5 * time.Millisecond})()
	round := func(calls int) {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for range calls {
					if _, err := clients[i%2].Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	round(5)
	settled(t, s.Connections) // those that are opened ahead too
	before := s.Connections()
	round(10)
	if after := s.Connections(); after != before {
		t.Errorf("connections in steady state: %d, want none", after-before)
	}
}

func TestConnectionsAreOpenedAheadOfCallers(t *testing.T) {
	s, key := start(t)
	c := newClient(t, awskms.Options{})
	mustSeal(t, c, key)
	for deadline := time.Now().Add(20 * time.Second); s.Connections() < 2; {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections after the first call, want more than it needs", s.Connections())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestStaleConnectionIsNoError(t *testing.T) {
	s, key := start(t)
	var mu sync.Mutex
	var open []net.Conn
	server := s.Server()
	inner := server.ConnContext
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
		return inner(ctx, c)
	}
	c := newClient(t, awskms.Options{Endpoint: serve(t, server), Retry: awskms.RetryBudget{Tokens: 1}}) // too few for the SDK's own retry
	for range 3 {
		mustSeal(t, c, key)
		mu.Lock()
		for _, conn := range open {
			_ = conn.Close()
		}
		open = nil
		mu.Unlock()
		mustSeal(t, c, key)
	}
}
