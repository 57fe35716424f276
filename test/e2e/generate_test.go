package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// reloadedWithin is how long an API server may take to load a file that has
// changed: it looks once a minute.
const reloadedWithin = 3 * time.Minute

// TestGeneratedPairTakenInOrder: two API servers, without KMS so far, are given
// the files that generate writes: the readers one after the other, then the
// writers one after the other, under users that read through both. No request
// fails. After a rewrite everything lies under the program's provider, and a cold
// start reads it.
func TestGeneratedPairTakenInOrder(t *testing.T) {
	t.Parallel()
	for name, present := range map[string]string{
		"from the clear": `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers: [identity: {}]
`,
		"from local keys": `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
  - identity: {}
`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			takesPair(newStage(t), present)
		})
	}
}

// takesPair plays the guide's steps.
func takesPair(s *stage, present string) {
	s.t.Helper()
	key := s.key()
	var all []*cluster.APIServer
	var pairs [][2]string
	for i := range 2 {
		socket := s.socket(fmt.Sprintf("%d.sock", i))
		s.plugin(key, socket)
		pairs = append(pairs, s.generatedPair(present, key, socket))
		all = append(all, s.apiServerBy(true, present))
	}
	book := ledger{}
	s.write(all[0], book, "before", 10)
	u := startUsers(s.t.Context(), s, 8, time.Second, all...)
	u.waitFor(16)

	for step := range 2 {
		for i, a := range all {
			s.must(a.SetEncryption(pairs[i][step]))
			u.waitFor(16) // two nodes, two files for a while
		}
		for _, a := range all {
			s.must(a.WaitLoaded(s.t.Context(), reloadedWithin))
		}
		u.waitFor(16)
	}
	s.must(all[0].RewriteSecrets(s.t.Context()))
	u.stop(book)
	s.storedUnder(book, cluster.Provider{Name: providerName, Version: "v2"})
	for _, a := range all {
		s.must(a.Kill())
	}
	for _, a := range all {
		s.must(a.Start(s.t.Context()))
		s.readsAll(a, book)
		s.check(a, cluster.KMSCheck)
	}
}

// generatedPair runs the built program for one node and returns its readers and
// writers.
func (s *stage) generatedPair(present, key, socket string) (pair [2]string) {
	s.t.Helper()
	from, dir := filepath.Join(s.dir, "present.yaml"), socket+".generated"
	s.must(os.WriteFile(from, []byte(present), 0o600))
	out, err := exec.CommandContext(s.t.Context(), host.Bin.Plugin, "generate", "encryption-config",
		"--key="+key, "--listen="+socket, "--from="+from, "--kms-timeout="+(patience-300*time.Millisecond).String(), "--out="+dir).CombinedOutput()
	if err != nil {
		s.t.Fatalf("generate: %v: %s", err, out)
	}
	for i, name := range []string{"encryption-config-1-readers.yaml", "encryption-config-2-writers.yaml"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		s.must(err)
		pair[i] = string(text)
	}
	return pair
}
