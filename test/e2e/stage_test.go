package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// pollInterval is how often a test looks whether what it waits for is so: often
// enough for bounds of seconds, seldom enough to leave the cores to the others.
const pollInterval = 250 * time.Millisecond

// A stage is one test's machine: a directory, a KMS, an etcd, and whatever the
// test starts besides. All of it is gone when the test ends; a failed test
// shows the end of every log.
type stage struct {
	t    *testing.T
	dir  string
	kms  *cluster.KMS
	etcd *cluster.Etcd

	plugins int // started so far, to tell their logs apart
	servers int
}

func newStage(t *testing.T) *stage {
	t.Helper()
	return newStageWith(t, kmsemulator.Options{})
}

// newStageWith is newStage with a KMS of this kind.
func newStageWith(t *testing.T, o kmsemulator.Options) *stage {
	t.Helper()
	// Not t.TempDir: its paths are too long for a unix socket.
	dir, err := os.MkdirTemp("", "kms-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &stage{t: t, dir: dir}
	if s.kms, err = host.KMS(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.kms.Close() })
	s.etcd, err = host.Etcd(t.Context(), dir)
	if s.etcd != nil {
		t.Cleanup(func() { _ = s.etcd.Close() })
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cleanup ends a program with the test and shows its log if the test failed.
func (s *stage) cleanup(p *cluster.Program) {
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("log of %s (%s) ends:\n%s", p.Name, filepath.Base(p.Log), p.Tail(25))
		}
		if err := p.Kill(); err != nil {
			s.t.Error(err)
		}
	})
}

// must fails the test at once on an error.
func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) key() string {
	s.t.Helper()
	arn, err := s.kms.CreateKey(cluster.Region, kmsemulator.KeyOptions{})
	s.must(err)
	return arn
}

func (s *stage) socket(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) pluginConfig(name, key, socket string, args ...string) cluster.PluginConfig {
	s.plugins++
	return cluster.PluginConfig{
		Dir: s.dir, Name: fmt.Sprintf("%s-%d", name, s.plugins), KMS: s.kms.URL(),
		Keys: []string{key}, Sockets: []string{socket}, Args: args,
	}
}

// plugin starts ours and waits until it is ready.
func (s *stage) plugin(key, socket string, args ...string) *cluster.Plugin {
	s.t.Helper()
	p, err := host.Plugin(s.t.Context(), s.pluginConfig("aws-encryption-provider", key, socket, args...))
	if p != nil {
		s.cleanup(&p.Program)
	}
	s.must(err)
	return p
}

// predecessor starts the stand-in and waits until it listens.
func (s *stage) predecessor(key, socket string, args ...string) *cluster.Predecessor {
	s.t.Helper()
	p, err := host.Predecessor(s.t.Context(), s.pluginConfig("predecessor", key, socket, args...))
	if p != nil {
		s.cleanup(&p.Program)
	}
	s.must(err)
	return p
}

// apiServer starts a kube-apiserver on the stage's etcd and waits until it is
// ready.
func (s *stage) apiServer(reload bool, providers ...cluster.Provider) *cluster.APIServer {
	s.t.Helper()
	return s.apiServerBy(reload, cluster.Encryption(providers...))
}

// apiServerBy is apiServer with a whole EncryptionConfiguration.
func (s *stage) apiServerBy(reload bool, encryption string) *cluster.APIServer {
	s.t.Helper()
	s.servers++
	dir := filepath.Join(s.dir, fmt.Sprintf("apiserver-%d", s.servers))
	s.must(os.Mkdir(dir, 0o700))
	a, err := host.APIServer(s.t.Context(), cluster.APIServerConfig{
		Dir: dir, Etcd: s.etcd.URL, Encryption: encryption, AutomaticReload: reload,
	})
	if a != nil {
		s.cleanup(&a.Program)
	}
	s.must(err)
	return a
}

// restart kills the API server and starts it cold with these providers.
func (s *stage) restart(a *cluster.APIServer, providers ...cluster.Provider) {
	s.t.Helper()
	s.must(a.Kill())
	s.must(a.SetEncryption(cluster.Encryption(providers...)))
	s.must(a.Start(s.t.Context()))
}

// A ledger is what the API server has acknowledged: names of secrets → values.
type ledger map[string]string

// any returns one of the names.
func (l ledger) any() string {
	for name := range l {
		return name
	}
	return ""
}

// value is what every secret holds: text that appears nowhere else.
func value(name string) string { return "plaintext-of-" + name + "-end" }

// write creates n secrets and enters them.
func (s *stage) write(a *cluster.APIServer, book ledger, prefix string, n int) {
	s.t.Helper()
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		s.must(a.CreateSecret(s.t.Context(), name, value(name)))
		book[name] = value(name)
	}
}

// readsAll demands that the API server returns every secret of the ledger, one
// by one and in a list, with its value, and no other.
func (s *stage) readsAll(a *cluster.APIServer, book ledger) {
	s.t.Helper()
	if len(book) == 0 {
		s.t.Fatal("nothing to read back: the test is wrong")
	}
	list, err := a.Secrets(s.t.Context())
	s.must(err)
	for _, name := range slices.Sorted(maps.Keys(book)) {
		want := book[name]
		if got := list[name]; got != want {
			s.t.Errorf("list of secrets has %q for %s, want %q", got, name, want)
		}
		got, err := a.Secret(s.t.Context(), name)
		if err != nil || got != want {
			s.t.Errorf("secret %s is %q, %v; want %q", name, got, err, want)
		}
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// stored returns what etcd holds of each secret of the ledger.
func (s *stage) stored(ctx context.Context, book ledger) map[string]cluster.Stored {
	s.t.Helper()
	values, err := s.etcd.Values(ctx, cluster.SecretKey(""))
	s.must(err)
	stored := make(map[string]cluster.Stored, len(book))
	for name := range book {
		raw, ok := values[cluster.SecretKey(name)]
		if !ok {
			s.t.Fatalf("etcd holds nothing under %s", cluster.SecretKey(name))
		}
		if stored[name], err = cluster.ParseStored(raw); err != nil {
			s.t.Fatalf("secret %s: %v", name, err)
		}
	}
	return stored
}

// storedUnder demands that every secret of the ledger lies in etcd under this
// provider, and that none of their plaintext lies there at all.
func (s *stage) storedUnder(book ledger, p cluster.Provider) {
	s.t.Helper()
	for name, got := range s.stored(s.t.Context(), book) {
		if got.Provider != p.Name || got.Version != p.Version {
			s.t.Errorf("secret %s is stored under %s %s, want %s %s", name, got.Version, got.Provider, p.Version, p.Name)
		}
	}
	values, err := s.etcd.Values(s.t.Context(), "")
	s.must(err)
	for _, name := range slices.Sorted(maps.Keys(book)) {
		if keys := keysWith(values, book[name]); len(keys) != 0 {
			s.t.Errorf("the plaintext of secret %s lies in etcd under %v", name, keys)
		}
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// keysWith returns the keys whose values contain text, as it is or in base64.
func keysWith(values map[string][]byte, text string) []string {
	encoded := []byte(base64.StdEncoding.EncodeToString([]byte(text)))
	var keys []string
	for key, raw := range values {
		if bytes.Contains(raw, []byte(text)) || bytes.Contains(raw, encoded) {
			keys = append(keys, key)
		}
	}
	return keys
}

// check demands the API server's KMS check to be ok.
func (s *stage) check(a *cluster.APIServer, path string) {
	s.t.Helper()
	code, text, err := a.Check(s.t.Context(), path)
	if err != nil || code != 200 {
		s.t.Fatalf("%s is %d %q, %v; want 200", path, code, text, err)
	}
}

// eventually waits until try returns nil.
func (s *stage) eventually(limit time.Duration, what string, try func(context.Context) error) {
	s.t.Helper()
	start := time.Now()
	if err := cluster.Poll(s.t.Context(), pollInterval, limit, nil, try); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	s.t.Logf("%s after %v", what, time.Since(start).Round(100*time.Millisecond))
}

// lacks says which of these words text lacks.
func lacks(text string, words ...string) []string {
	var missing []string
	for _, w := range words {
		if !strings.Contains(text, w) {
			missing = append(missing, w)
		}
	}
	return missing
}
