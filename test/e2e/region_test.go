package e2e

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestReplicaTakesOverWhenItsRegionIsDown: a multi-Region key's Region fails. Its
// replica in another one is moved to the top of the file; then the API server
// starts cold, reads what the first wrote and writes, under the key_id of before.
func TestReplicaTakesOverWhenItsRegionIsDown(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	home, err := s.kms.CreateKey(cluster.Region, kmsemulator.KeyOptions{MultiRegion: true})
	s.must(err)
	replica, err := s.kms.ReplicateKey(home, "eu-west-1")
	s.must(err)
	n := s.nodes(1, home, replica)[0]
	book := ledger{}
	s.write(n.server, book, "before", 10)
	before := slices.Collect(maps.Keys(s.storedKeyIDs()))

	restore := s.kms.Inject(kmsemulator.Fault{Key: home, Kind: kmsemulator.Unavailable})
	s.eventually(2*time.Minute, "the plugin is not ready", func(ctx context.Context) error {
		if n.plugin.WaitReady(ctx, time.Second) == nil {
			return errors.New("it still is")
		}
		return nil
	})
	n.hold(replica, home)
	s.must(n.server.Kill())
	s.must(n.server.Start(t.Context()))
	s.readsAll(n.server, book)
	s.write(n.server, book, "amid", 5)
	if got := slices.Collect(maps.Keys(s.storedKeyIDs())); len(before) != 1 || !slices.Equal(got, before) {
		t.Errorf("etcd holds secrets under key_ids %q, and %q before the Region was down: want one and the same", got, before)
	}

	restore()
	n.hold(home)
	coldStart([]*node{n})
	s.readsAll(n.server, book)
}
