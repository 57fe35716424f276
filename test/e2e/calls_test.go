package e2e

import (
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestCallsOfKMSGrowWithSeedsNotWithObjects holds the table of docs/capacity.md:
// a v1 API server asks KMS for each object, at a write and after a start; a v2
// one asks for DEK seeds. It makes one at each start, and a rewrite leaves them as
// they are while the key_id stays. At a start ten of its decoders may ask for one
// and the same seed, each before another has the answer (k8s.io/apiserver's
// processEventConcurrency in pkg/storage/etcd3/watcher.go).
func TestCallsOfKMSGrowWithSeedsNotWithObjects(t *testing.T) {
	t.Parallel()
	const (
		objects  = 60
		decoders = 10
	)
	for _, v := range versions() {
		t.Run(v.version, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			provider := cluster.Provider{Name: "aws-encryption-provider", Version: v.version, Socket: s.socket("socket.sock")}
			key := s.key()
			plugin := s.plugin(key, provider.Socket)
			a := s.apiServer(false, provider)
			book := ledger{}

			written := s.calls(func() { s.write(a, book, "first", objects/2) })
			s.seeds(book, v.version, 1)
			s.restart(a, provider)
			s.write(a, book, "second", objects/2)
			s.seeds(book, v.version, 2)
			s.must(a.RewriteSecrets(t.Context()))
			s.seeds(book, v.version, 2)

			started := s.calls(func() {
				s.restart(a, provider)
				s.readsAll(a, book)
			})
			t.Logf("KMS calls: %d for %d writes; %d for a start that reads %d objects", written.made, objects/2, started.made, objects)
			switch {
			case v.version == "v1" && (written.made < objects/2 || started.made < objects):
				t.Errorf("the writes and the start made %d and %d calls of KMS, want at least one for each of the %d and %d objects", written.made, started.made, objects/2, objects)
			case v.version == "v2" && written.made > written.checks:
				t.Errorf("the writes made %d calls of KMS, want only the plugin's own checks, at most %d", written.made, written.checks)
			case v.version == "v2" && started.made > 1+2*decoders+started.checks:
				t.Errorf("the start made %d calls of KMS, want at most one for its seed, %d for each of 2 stored ones, and %d checks", started.made, decoders, started.checks)
			}

			// New material is a new key_id, and under that a rewrite leaves one seed.
			s.must(s.kms.RotateKey(key))
			s.must(plugin.Kill())
			s.must(plugin.Start(t.Context()))
			s.restart(a, provider)
			s.must(a.RewriteSecrets(t.Context()))
			s.seeds(book, v.version, 1)
		})
	}
}

// kmsCalls are what something cost.
type kmsCalls struct {
	made   int
	checks int // of these, how many may be the plugin's own
}

// calls counts the calls that arrive at KMS while something is done. The plugin
// makes four a minute by itself.
func (s *stage) calls(do func()) kmsCalls {
	s.t.Helper()
	before, start := s.kms.Calls("*"), time.Now()
	do()
	return kmsCalls{s.kms.Calls("*") - before, 4 * (int(time.Since(start)/time.Minute) + 1)}
}

// seeds demands that the secrets of the ledger lie in etcd under this many DEK
// seeds; under v1, each has a DEK of its own.
func (s *stage) seeds(book ledger, version string, want int) {
	s.t.Helper()
	if version == "v1" {
		want = len(book)
	}
	found := map[string]bool{}
	for _, stored := range s.stored(s.t.Context(), book) {
		found[string(stored.WrappedKey)] = true
	}
	if len(found) != want {
		s.t.Fatalf("%d secrets lie under %d wrapped keys, want %d", len(book), len(found), want)
	}
}
