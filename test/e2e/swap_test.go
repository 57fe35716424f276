package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// stopLimit is how long a plugin may take to end: 5 s for its running calls,
// and as much again for a busy machine, several times over.
const stopLimit = 30 * time.Second

// TestSwap exchanges the predecessor for ours and ours for the predecessor on
// one socket, under an API server that is never restarted: its check stays ok,
// key_id changes once each way, and everything that either wrote reads. The last is proved by another API server on the same
// etcd, which starts cold at each step and has no key in memory.
func TestSwap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, version, check string
		alias                bool // --key names an alias
	}{
		{name: "v1", version: "v1", check: cluster.KMSv1Check},
		{name: "v2 by ARN", version: "v2", check: cluster.KMSCheck},
		{name: "v2 by alias", version: "v2", check: cluster.KMSCheck, alias: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			provider := cluster.Provider{Name: "aws-encryption-provider", Version: c.version, Socket: s.socket("socket.sock")}
			arn := s.key()
			key := arn
			if c.alias {
				key = "alias/K8sKMSKey"
				s.must(s.kms.CreateAlias(cluster.Region, key, arn))
			}
			wantKeyIDs := []string{key, s.keyID(arn), key}

			// v1 clusters can be older than the mark in front of the blob.
			theirs := s.predecessor(key, provider.Socket, "--bare")
			a := s.apiServer(false, provider)
			serverPID := a.PID()
			book := ledger{}
			s.write(a, book, "first-releases", 5)
			if c.version == "v1" {
				for name, stored := range s.stored(t.Context(), book) {
					if stored.WrappedKey[0] == '1' {
						t.Fatalf("the DEK of %s has the mark of later releases: the test is wrong", name)
					}
				}
			}
			s.must(theirs.Stop(stopLimit))
			theirs = s.predecessor(key, provider.Socket)

			d := startDiary(t.Context(), s, a)
			watch := watchCheck(t.Context(), s, a, c.check)
			readsAll := func(prefix string) {
				t.Helper()
				s.write(a, book, prefix, 5)
				s.readsAll(a, book)
				cold := s.apiServer(false, provider)
				s.readsAll(cold, book)
				s.must(cold.Kill())
			}
			d.waitForKeyID(provider, key)
			readsAll("predecessor")

			s.must(theirs.Stop(stopLimit))
			ours := s.plugin(key, provider.Socket)
			d.waitForKeyID(provider, s.keyID(arn))
			readsAll("ours")

			s.must(ours.Stop(stopLimit))
			s.predecessor(key, provider.Socket)
			d.waitForKeyID(provider, key)
			readsAll("predecessor-again")

			watch.stop()
			d.stop()
			if !a.Running() || a.PID() != serverPID {
				t.Errorf("the API server was restarted: pid %d, then %d", serverPID, a.PID())
			}
			maps.Copy(book, d.book())
			s.readsAll(a, book)
			if c.version == "v2" {
				if d.failures != 0 {
					t.Errorf("%d writes failed, want none: a v2 API server has its DEK seed in memory", d.failures)
				}
				if got := d.keyIDs(t.Context()); !slices.Equal(got, wantKeyIDs) {
					t.Errorf("key_ids in the order of the writes: %q, want %q", got, wantKeyIDs)
				}
			}
		})
	}
}

// A diary writes one secret after the other and keeps their order.
type diary struct {
	s      *stage
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	names    []string // acknowledged, in this order
	failures int
}

func startDiary(ctx context.Context, s *stage, a *cluster.APIServer) *diary {
	writing, cancel := context.WithCancel(ctx)
	d := &diary{s: s, cancel: cancel}
	d.done.Go(func() {
		for i := 0; writing.Err() == nil; i++ {
			name := fmt.Sprintf("diary-%d", i)
			err := a.CreateSecret(ctx, name, value(name))
			d.mu.Lock()
			if err == nil {
				d.names = append(d.names, name)
			} else {
				d.failures++
			}
			d.mu.Unlock()
			select {
			case <-writing.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	})
	s.t.Cleanup(d.stop)
	return d
}

func (d *diary) stop() {
	d.cancel()
	d.done.Wait()
}

func (d *diary) book() ledger {
	d.mu.Lock()
	defer d.mu.Unlock()
	book := ledger{}
	for _, name := range d.names {
		book[name] = value(name)
	}
	return book
}

// waitForKeyID waits until the newest entry lies under this key_id. For a v1
// provider, which has none, it waits for a new entry.
func (d *diary) waitForKeyID(p cluster.Provider, want string) {
	d.s.t.Helper()
	before := len(d.book())
	d.s.eventually(3*time.Minute, "a write under key_id "+want, func(ctx context.Context) error {
		d.mu.Lock()
		n := len(d.names)
		d.mu.Unlock()
		if n == before {
			return fmt.Errorf("no write was acknowledged")
		}
		if p.Version == "v1" {
			return nil
		}
		ids := d.keyIDs(ctx)
		if got := ids[len(ids)-1]; got != want {
			return fmt.Errorf("the newest secret lies under key_id %q, want %q", got, want)
		}
		return nil
	})
}

// keyIDs are those of the entries in their order, repetitions left out.
func (d *diary) keyIDs(ctx context.Context) []string {
	d.s.t.Helper()
	d.mu.Lock()
	names := slices.Clone(d.names)
	d.mu.Unlock()
	book := ledger{}
	for _, name := range names {
		book[name] = ""
	}
	stored := d.s.stored(ctx, book)
	ids := make([]string, len(names))
	for i, name := range names {
		ids[i] = stored[name].KeyID
	}
	return slices.Compact(ids)
}

// A checkWatch asks an API server's health all the time.
type checkWatch struct {
	s      *stage
	cancel context.CancelFunc
	done   sync.WaitGroup
	asked  int
	failed []string
}

// watchCheck begins to demand that the check and /livez be ok. Whether etcd answers in
// time is up to the machine.
func watchCheck(ctx context.Context, s *stage, a *cluster.APIServer, check string) *checkWatch {
	watching, cancel := context.WithCancel(ctx)
	w := &checkWatch{s: s, cancel: cancel}
	start := time.Now()
	w.done.Go(func() {
		for watching.Err() == nil {
			for _, path := range []string{check, "/livez?exclude=etcd"} {
				w.asked++
				if err := expectCheck(ctx, a, path, http.StatusOK); err != nil && len(w.failed) < 10 {
					w.failed = append(w.failed, fmt.Sprintf("after %v: %v", time.Since(start).Round(time.Millisecond), err))
				}
			}
			select {
			case <-watching.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	})
	s.t.Cleanup(func() { w.cancel(); w.done.Wait() })
	return w
}

// stop ends the watch and fails the test if anything was not ok.
func (w *checkWatch) stop() {
	w.s.t.Helper()
	w.cancel()
	w.done.Wait()
	if len(w.failed) != 0 {
		w.s.t.Errorf("of %d health requests these failed: %q", w.asked, w.failed)
	}
	if w.asked < 10 {
		w.s.t.Errorf("only %d health requests were made: the test is wrong", w.asked)
	}
}
