package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// followLimit is within which API servers write under another key_id.
const followLimit = 3 * time.Minute

// TestRotatesToANewKeyByFile: a control plane of two nodes moves to another key
// by edits of one file, in the guide's order, under 16 who read and write. No
// request fails and nothing is restarted. Then the old key is gone from the file
// and disabled, and everything starts cold.
func TestRotatesToANewKeyByFile(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	oldKey, newKey := s.key(), s.key()
	oldID, newID := s.keyID(oldKey), s.keyID(newKey)
	nodes := s.nodes(2, oldKey)
	pids := lives(nodes)
	book := ledger{}
	s.write(nodes[0].server, book, "before", 20)
	u := startUsers(t.Context(), s, 16, time.Second, servers(nodes)...)
	// The other API server, whose health nobody asks, asks its plugin seldom.
	check := watchCheck(t.Context(), s, nodes[0].server, cluster.KMSCheck)
	u.waitFor(32)
	if got := s.storedKeyIDs(); len(got) != 1 || got[oldID] == 0 {
		t.Fatalf("before the rotation etcd holds secrets by key_id %v, want all under %s", got, oldID)
	}

	for _, n := range nodes {
		n.hold(oldKey, newKey)
	}
	u.waitFor(32)
	if got := s.storedKeyIDs(); len(got) != 1 {
		t.Fatalf("with the new key below the old one etcd holds secrets by key_id %v, want all under %s", got, oldID)
	}
	nodes[0].hold(newKey, oldKey)
	u.waitFor(32) // two nodes, two files for a while
	moved := time.Now()
	nodes[1].hold(newKey, oldKey)
	for _, n := range nodes {
		s.eventually(time.Until(moved.Add(followLimit)), "an API server writes under the new key", func(ctx context.Context) error {
			return n.writesUnder(ctx, newID)
		})
	}

	under := func() (old []float64) {
		for _, n := range nodes {
			count, err := n.writes(t.Context(), oldID)
			s.must(err)
			old = append(old, count)
		}
		return old
	}
	before := under()
	s.must(nodes[0].server.RewriteSecrets(t.Context()))
	if got := s.storedKeyIDs(); len(got) != 1 || got[newID] == 0 {
		t.Fatalf("after the rewrite etcd holds secrets by key_id %v, want all under %s", got, newID)
	}

	for _, n := range nodes {
		n.hold(newKey)
	}
	u.waitFor(32)
	s.must(s.kms.DisableKey(oldKey))
	u.waitFor(32)
	u.stop(book)
	check.stop()
	if after := under(); !slices.Equal(after, before) {
		t.Errorf("the API servers wrote %v objects under the old key, and %v in the end: want none after the new key_id was seen", before, after)
	}
	if now := lives(nodes); !slices.Equal(now, pids) {
		t.Errorf("process ids were %v and are %v: want nothing restarted", pids, now)
	}

	coldStart(nodes)
	for _, n := range nodes {
		s.readsAll(n.server, book)
		s.check(n.server, cluster.KMSCheck)
	}
	if got := s.storedKeyIDs(); len(got) != 1 || got[newID] != len(book) {
		t.Errorf("in the end etcd holds secrets by key_id %v, want %d, all under %s", got, len(book), newID)
	}
}

// TestFollowsKMSRotation: the key gets new material in a KMS that shows it to
// each connection at another time. Both nodes' plugins change their key_id once,
// to the same, and their API servers follow.
func TestFollowsKMSRotation(t *testing.T) {
	t.Parallel()
	const (
		propagation = 30 * time.Second
		looksEvery  = time.Minute
	)
	o := propagatingKMS(t, propagation)
	s := newStageWith(t, o)
	key := s.key()
	s.kms.Settle()
	nodes := s.nodes(2, key)
	pids := lives(nodes)
	book := ledger{}
	s.write(nodes[0].server, book, "before", 10)
	u := startUsers(t.Context(), s, 4, time.Second, servers(nodes)...)
	u.waitFor(16)
	before := s.keyID(key)

	// The plugins look once a minute. When they look next, some connections are
	// to show the new material, and some not yet.
	decrypts := s.kms.Calls("Decrypt")
	s.eventually(3*looksEvery, "a plugin has looked at the key", func(context.Context) error {
		if s.kms.Calls("Decrypt") == decrypts {
			return errors.New("no Decrypt arrived at KMS")
		}
		return nil
	})
	pause := looksEvery - 3*time.Second - rand.N(propagation/2) //nolint:gosec // not a secret
	watches := make([]*statusWatch, len(nodes))
	for i, n := range nodes {
		watches[i] = watchStatus(t.Context(), s, n.ring.Socket)
	}
	select {
	case <-t.Context().Done():
	case <-time.After(pause):
	}

	s.must(s.kms.RotateKey(key))
	rotated := time.Now()
	after := s.keyID(key)
	if after == before {
		t.Fatalf("the rotation left the material as it was: the test is wrong")
	}
	for _, w := range watches {
		s.eventually(time.Until(rotated.Add(followLimit)), "a plugin shows the new material", func(context.Context) error {
			return w.last(after)
		})
	}
	for _, n := range nodes {
		s.eventually(followLimit, "its API server writes under the new material", func(ctx context.Context) error {
			return n.writesUnder(ctx, after)
		})
	}
	// A change back would be seen by now, on whatever connection.
	s.eventually(2*followLimit, "the time to change once has passed", func(context.Context) error {
		if time.Since(rotated) < followLimit {
			return errors.New("not yet")
		}
		return nil
	})
	for i, w := range watches {
		w.stop()
		t.Logf("plugin %d: Status took %v at most; Encrypts by key_id: %v", i, w.longest, w.sealed())
		if got := w.keyIDs(); !slices.Equal(got, []string{before, after}) {
			t.Errorf("plugin %d answered Status with key_ids %q in this order, want %q and then %q", i, got, before, after)
		}
		if got := w.sealed(); got[before] == 0 || got[after] == 0 || len(got) != 2 {
			t.Errorf("plugin %d answered Encrypt with key_ids %v, want both of these and no other: %q, %q", i, got, before, after)
		}
	}
	s.must(nodes[1].server.RewriteSecrets(t.Context()))
	if got := s.storedKeyIDs(); len(got) != 1 || got[after] == 0 {
		t.Errorf("after the rewrite etcd holds secrets by key_id %v, want all under %s", got, after)
	}
	u.stop(book)
	if now := lives(nodes); !slices.Equal(now, pids) {
		t.Errorf("process ids were %v and are %v: want nothing restarted", pids, now)
	}
	coldStart(nodes)
	for _, n := range nodes {
		s.readsAll(n.server, book)
	}
}
