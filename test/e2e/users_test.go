package e2e

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// users write secrets and read them, each through an API server of its own and
// through all others, until they are stopped. They do nothing twice and keep
// every failure.
type users struct {
	s       *stage
	servers []*cluster.APIServer
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu       sync.Mutex
	book     ledger // acknowledged, and read back through every API server
	requests int
	failed   int
	failures []string // the first of them
}

// startUsers starts n users. Each pauses for this long after each round, which
// is one write and a read or two through each API server.
func startUsers(ctx context.Context, s *stage, n int, pause time.Duration, servers ...*cluster.APIServer) *users {
	working, cancel := context.WithCancel(ctx)
	u := &users{s: s, servers: servers, cancel: cancel, book: ledger{}}
	for i := range n {
		u.done.Go(func() {
			for j := 0; working.Err() == nil; j++ {
				u.round(ctx, i, j) // outlives the stop, so that its end is known
				select {
				case <-working.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	s.t.Cleanup(func() { u.cancel(); u.done.Wait() })
	return u
}

// round is one new secret, and another of any age.
func (u *users) round(ctx context.Context, user, n int) {
	name := fmt.Sprintf("user-%d-%d", user, n)
	home := u.servers[user%len(u.servers)]
	if !u.enter("writing "+name, home, home.CreateSecret(ctx, name, value(name))) {
		return
	}
	u.mu.Lock()
	other := u.book.any()
	u.mu.Unlock()
	well := true
	for _, a := range u.servers {
		well = u.read(ctx, a, name) && well
		if other != "" {
			u.read(ctx, a, other)
		}
	}
	if well {
		u.mu.Lock()
		u.book[name] = value(name)
		u.mu.Unlock()
	}
}

func (u *users) read(ctx context.Context, a *cluster.APIServer, name string) (well bool) {
	got, err := a.Secret(ctx, name)
	if err == nil && got != value(name) {
		err = fmt.Errorf("it is %q", got)
	}
	return u.enter("reading "+name, a, err)
}

func (u *users) enter(what string, a *cluster.APIServer, err error) (well bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests++
	if err == nil {
		return true
	}
	u.failed++
	if len(u.failures) < 10 {
		u.failures = append(u.failures, fmt.Sprintf("%s %s through %s: %v", time.Now().Format(time.StampMilli), what, a.URL(), err))
	}
	return false
}

// waitFor waits for n more secrets, and demands that nothing has failed.
func (u *users) waitFor(n int) {
	u.s.t.Helper()
	u.mu.Lock()
	goal := len(u.book) + n
	u.mu.Unlock()
	err := cluster.Poll(u.s.t.Context(), pollInterval, 2*time.Minute, nil, func(context.Context) error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if len(u.book) < goal && u.failed == 0 {
			return fmt.Errorf("%d of %d secrets were written", len(u.book), goal)
		}
		return nil
	})
	u.s.must(err)
	u.well()
}

// well demands that nothing has failed so far.
func (u *users) well() {
	u.s.t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed != 0 {
		u.s.t.Fatalf("%d of %d requests failed, want none; the first of them: %q", u.failed, u.requests, u.failures)
	}
}

// stop ends the users, demands that nothing has failed, and adds what they wrote
// to book.
func (u *users) stop(book ledger) {
	u.s.t.Helper()
	u.cancel()
	u.done.Wait()
	u.well()
	maps.Copy(book, u.book)
	u.s.t.Logf("%d secrets were written, no request of %d failed", len(u.book), u.requests)
}
