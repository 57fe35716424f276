package e2e

import (
	"maps"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestMovesV1DataOut: what lies under v1 is moved by a second provider name on
// the same socket of the same plugin, in the guide's three steps, each of which
// reaches every API server before the next: reader, writer, rewrite. API servers
// reload their EncryptionConfiguration, nothing is restarted, and no request of
// those who read and write throughout fails.
func TestMovesV1DataOut(t *testing.T) {
	t.Parallel()
	t.Run("to v2", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		key := s.key()
		before := cluster.Provider{Name: "aws-v1", Version: "v1", Socket: s.socket("socket.sock"), Timeout: patience}
		after := cluster.Provider{Name: "aws-v2", Version: "v2", Socket: before.Socket, Timeout: patience}
		plugin := s.pluginByFile(ring(before.Socket, key))
		m := startMove(s, plugin, before)
		m.to(after)
		m.stop()
		m.coldStart()
	})
	// Inside one v1 name nothing is ever rewritten, so another key needs
	// another name.
	t.Run("to another key in v1", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		oldKey, newKey := s.key(), s.key()
		before := cluster.Provider{Name: "aws-1", Version: "v1", Socket: s.socket("socket.sock"), Timeout: patience}
		after := cluster.Provider{Name: "aws-2", Version: "v1", Socket: before.Socket, Timeout: patience}
		plugin := s.pluginByFile(ring(before.Socket, oldKey))
		m := startMove(s, plugin, before)
		s.configure(plugin, ring(before.Socket, oldKey, newKey))
		s.configure(plugin, ring(before.Socket, newKey, oldKey))
		m.to(after)
		s.configure(plugin, ring(before.Socket, newKey))
		s.must(s.kms.DisableKey(oldKey))
		m.u.waitFor(16)
		m.stop()
		m.coldStart()
	})
}

func ring(socket string, keys ...string) cluster.Keyring {
	return cluster.Keyring{Name: "aws", Socket: socket, Keys: keys}
}

// A move is two API servers on one plugin, with users, amid a change of their
// EncryptionConfiguration.
type move struct {
	s       *stage
	plugin  *cluster.Plugin
	servers []*cluster.APIServer
	now     cluster.Provider
	u       *users
	checks  []*checkWatch
	pids    []int
	book    ledger
}

func startMove(s *stage, plugin *cluster.Plugin, now cluster.Provider) *move {
	s.t.Helper()
	m := &move{s: s, plugin: plugin, now: now, book: ledger{}}
	for range 2 {
		m.servers = append(m.servers, s.apiServer(true, now))
	}
	s.write(m.servers[0], m.book, "before", 50)
	s.storedUnder(m.book, now)
	m.u = startUsers(s.t.Context(), s, 8, 2*time.Second, m.servers...)
	for _, a := range m.servers {
		m.checks = append(m.checks, watchCheck(s.t.Context(), s, a, cluster.KMSCheck))
	}
	m.pids = m.lives()
	m.u.waitFor(16)
	return m
}

func (m *move) lives() []int {
	pids := []int{m.plugin.PID()}
	for _, a := range m.servers {
		pids = append(pids, a.PID())
	}
	return pids
}

// configure gives all API servers these providers and waits until they work
// with them, which they take up to a minute for.
func (m *move) configure(providers ...cluster.Provider) {
	m.s.t.Helper()
	for _, a := range m.servers {
		m.s.must(a.SetEncryption(cluster.Encryption(providers...)))
	}
	for _, a := range m.servers {
		m.s.must(a.WaitLoaded(m.s.t.Context(), 5*time.Minute))
	}
	m.u.waitFor(16)
}

// to does what the guide says.
func (m *move) to(after cluster.Provider) {
	m.s.t.Helper()
	before := m.now
	m.configure(before, after) // reader
	m.everything(before)
	m.configure(after, before) // writer
	m.s.must(m.servers[0].RewriteSecrets(m.s.t.Context()))
	m.everything(after)
	m.configure(after)
	m.now = after
}

// everything demands that all secrets that were written so far lie under this
// provider.
func (m *move) everything(p cluster.Provider) {
	m.s.t.Helper()
	m.u.mu.Lock()
	book := maps.Clone(m.u.book)
	m.u.mu.Unlock()
	maps.Copy(book, m.book)
	m.s.storedUnder(book, p)
}

func (m *move) stop() {
	m.s.t.Helper()
	m.u.stop(m.book)
	for _, c := range m.checks {
		c.stop()
	}
	m.s.storedUnder(m.book, m.now)
	for i, pid := range m.lives() {
		if pid != m.pids[i] {
			m.s.t.Errorf("process ids were %v and are %v: want nothing restarted", m.pids, m.lives())
		}
	}
}

// coldStart starts everything but etcd again, with nothing in memory.
func (m *move) coldStart() {
	m.s.t.Helper()
	for _, a := range m.servers {
		m.s.must(a.Kill())
	}
	m.s.must(m.plugin.Kill())
	m.s.must(m.plugin.Start(m.s.t.Context()))
	for _, a := range m.servers {
		m.s.must(a.Start(m.s.t.Context()))
		m.s.readsAll(a, m.book)
		m.s.check(a, cluster.KMSCheck)
	}
}
