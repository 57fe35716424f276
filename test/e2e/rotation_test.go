package e2e

import (
	"maps"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestRotationToTheLetter follows the guide's change to another key: a second
// provider with its own key and socket, the order swapped, everything rewritten,
// the first provider removed. Every API server is restarted at each step.
func TestRotationToTheLetter(t *testing.T) {
	t.Parallel()
	for _, v := range versions() {
		t.Run(v.version, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			before := cluster.Provider{Name: "aws-encryption-provider", Version: v.version, Socket: s.socket("socket.sock")}
			after := cluster.Provider{Name: "aws-encryption-provider-2", Version: v.version, Socket: s.socket("socket2.sock")}
			oldKey := s.key()
			oldPlugin := s.plugin(oldKey, before.Socket)
			a := s.apiServer(false, before)
			book := ledger{}
			s.write(a, book, "old", 10)

			s.plugin(s.key(), after.Socket)
			s.restart(a, before, after)
			s.readsAll(a, book)
			s.write(a, book, "second-known", 5)
			s.storedUnder(book, before)

			s.restart(a, after, before)
			s.readsAll(a, book)
			fresh := ledger{}
			s.write(a, fresh, "second-first", 5)
			s.storedUnder(fresh, after)
			maps.Copy(book, fresh)
			s.must(a.RewriteSecrets(t.Context()))
			s.storedUnder(book, after)

			// Nothing may need the old key any more, so it goes as well.
			s.must(oldPlugin.Stop(stopLimit))
			s.must(s.kms.DisableKey(oldKey))
			s.restart(a, after)
			s.readsAll(a, book)
			s.check(a, v.check)
		})
	}
}

// TestMigratesV1ToV2OnOneSocket: the guide's three steps for an API server that
// reloads nothing and is restarted for each: reader, writer, rewrite.
func TestMigratesV1ToV2OnOneSocket(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	v1 := cluster.Provider{Name: "aws-v1", Version: "v1", Socket: s.socket("socket.sock")}
	v2 := cluster.Provider{Name: "aws-v2", Version: "v2", Socket: v1.Socket}
	s.plugin(s.key(), v1.Socket)
	a := s.apiServer(false, v1)
	book := ledger{}
	s.write(a, book, "v1", 20)

	s.restart(a, v1, v2)
	s.write(a, book, "reader", 5)
	s.readsAll(a, book)
	s.storedUnder(book, v1)

	s.restart(a, v2, v1)
	s.readsAll(a, book)
	s.storedUnder(book, v1) // reading moves nothing
	s.must(a.RewriteSecrets(t.Context()))
	s.storedUnder(book, v2)
	s.readsAll(a, book)

	s.restart(a, v2)
	s.readsAll(a, book)
	s.check(a, cluster.KMSCheck)
}
