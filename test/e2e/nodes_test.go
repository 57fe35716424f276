package e2e

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// A node of a control plane is a plugin by a file of its own, and an API server
// that uses it.
type node struct {
	s      *stage
	ring   cluster.Keyring
	plugin *cluster.Plugin
	server *cluster.APIServer
}

// providerName is how each node's API server calls its plugin.
const providerName = "aws-encryption-provider"

// patience is a call's time limit where no request may fail, however busy this
// machine is.
const patience = 35 * time.Second

// reloadLimit is how long a plugin may take to load a file that has changed: a
// second by design.
const reloadLimit = 30 * time.Second

// nodes starts this many, on the stage's one etcd, with these keys.
func (s *stage) nodes(count int, keys ...string) []*node {
	s.t.Helper()
	return s.nodesBy(false, count, keys...)
}

// nodesThatReload is nodes, with API servers that read their
// EncryptionConfiguration again when it changes.
func (s *stage) nodesThatReload(count int, keys ...string) []*node {
	s.t.Helper()
	return s.nodesBy(true, count, keys...)
}

func (s *stage) nodesBy(reload bool, count int, keys ...string) []*node {
	s.t.Helper()
	all := make([]*node, count)
	for i := range all {
		ring := cluster.Keyring{Name: "aws", Socket: s.socket(fmt.Sprintf("%d.sock", i)), Keys: keys}
		n := &node{s: s, ring: ring, plugin: s.pluginByFile(ring)}
		n.server = s.apiServer(reload, n.provider())
		all[i] = n
	}
	return all
}

func (n *node) provider() cluster.Provider {
	return cluster.Provider{Name: providerName, Version: "v2", Socket: n.ring.Socket, Timeout: patience}
}

// servers are the nodes' API servers.
func servers(nodes []*node) []*cluster.APIServer {
	all := make([]*cluster.APIServer, len(nodes))
	for i, n := range nodes {
		all[i] = n.server
	}
	return all
}

// pluginByFile starts ours with these providers in its file, and waits until it
// is ready.
func (s *stage) pluginByFile(rings ...cluster.Keyring) *cluster.Plugin {
	s.t.Helper()
	s.plugins++
	p, err := host.PluginByFile(s.t.Context(), cluster.PluginConfig{
		Dir: s.dir, Name: fmt.Sprintf("aws-encryption-provider-%d", s.plugins),
	}, cluster.ProviderConfiguration(s.kms.URL(), rings...))
	if p != nil {
		s.cleanup(&p.Program)
	}
	s.must(err)
	s.must(p.WaitLoaded(s.t.Context(), reloadLimit))
	return p
}

// configure gives a running plugin another file and waits until it works with
// that.
func (s *stage) configure(p *cluster.Plugin, rings ...cluster.Keyring) {
	s.t.Helper()
	s.must(p.SetFile(cluster.ProviderConfiguration(s.kms.URL(), rings...)))
	s.must(p.WaitLoaded(s.t.Context(), reloadLimit))
}

// hold gives the node's plugin these keys, the first of which writes.
func (n *node) hold(keys ...string) {
	n.s.t.Helper()
	n.ring.Keys = keys
	n.s.configure(n.plugin, n.ring)
}

// coldStart kills everything but etcd, and starts it again.
func coldStart(nodes []*node) {
	for _, n := range nodes {
		n.s.t.Helper()
		n.s.must(n.server.Kill())
		n.s.must(n.plugin.Kill())
	}
	for _, n := range nodes {
		n.s.must(n.plugin.Start(n.s.t.Context()))
		n.s.must(n.server.Start(n.s.t.Context()))
	}
}

// lives are the process ids of all nodes' programs, to see that none was
// restarted. A program that has ended has none.
func lives(nodes []*node) []int {
	var pids []int
	for _, n := range nodes {
		for _, p := range []*cluster.Program{&n.plugin.Program, &n.server.Program} {
			pid := p.PID()
			if !p.Running() {
				pid = 0
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// The API server's own metrics of what a key_id was used for.
const (
	seenMetric = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"
	usesMetric = "apiserver_envelope_encryption_key_id_hash_total"
)

// writes returns how many objects the API server has written under a key_id, by
// its own metrics.
func (n *node) writes(ctx context.Context, keyID string) (float64, error) {
	samples, err := n.server.Metrics(ctx)
	count, _ := samples.Value(usesMetric, map[string]string{
		"transformation_type": "to_storage", "provider_name": providerName, "key_id_hash": cluster.KeyIDHash(keyID),
	})
	return count, err
}

// writesUnder is nil when the API server has last heard this key_id of its
// plugin, and writes under it, both by its own metrics.
func (n *node) writesUnder(ctx context.Context, keyID string) error {
	samples, err := n.server.Metrics(ctx)
	if err != nil {
		return err
	}
	want, last := cluster.KeyIDHash(keyID), cluster.Sample{}
	for _, one := range samples.Named(seenMetric) {
		if one.Value >= last.Value {
			last = one
		}
	}
	if got := last.Labels["key_id_hash"]; got != want {
		return fmt.Errorf("%s has last heard key_id %s, want %s", n.server.URL(), got, want)
	}
	if count, err := n.writes(ctx, keyID); err != nil || count == 0 {
		return fmt.Errorf("%s has written nothing under key_id %s (%w)", n.server.URL(), keyID, err)
	}
	return nil
}

// storedKeyIDs returns how many secrets lie in etcd under which key_id.
func (s *stage) storedKeyIDs() map[string]int {
	s.t.Helper()
	values, err := s.etcd.Values(s.t.Context(), cluster.SecretKey(""))
	s.must(err)
	counts := map[string]int{}
	for key, raw := range values {
		stored, err := cluster.ParseStored(raw)
		if err != nil {
			s.t.Fatalf("%s: %v", key, err)
		}
		counts[stored.KeyID]++
	}
	return counts
}

// keyID is the key_id of a key as it is now: its ARN, and its material.
func (s *stage) keyID(arn string) string { return arn + "?material=" + s.kms.CurrentMaterial(arn) }
