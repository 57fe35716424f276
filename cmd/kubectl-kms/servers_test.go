package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// A stage is an API server with a provider that writes.
type stage struct {
	provider string // of the EncryptionConfiguration, in YAML's flow form
	want     string // how what it writes is stored
}

// stages are the providers that an API server of today has, each written by in turn.
func stages(t *testing.T) (all []stage, keys []string) {
	t.Helper()
	s := kmstest.Start(t)
	s.SetEnv(t)
	var sockets []string
	for range 3 {
		key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(daemontest.Directory(t), "s")
		daemontest.Start(t, daemontest.Config(t, "--key="+key, "--listen="+socket, "--health-port=127.0.0.1:0"))
		keys, sockets = append(keys, key), append(sockets, socket)
	}
	const local = `{keys: [{name: %s, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}`
	kms := func(version, name string, i int) string {
		return fmt.Sprintf(`kms: {apiVersion: %s, name: %s, endpoint: "unix://%s", timeout: 30s}`, version, name, sockets[i])
	}
	return []stage{
		{"identity: {}", "plaintext"},
		{"aescbc: " + fmt.Sprintf(local, "k1"), "aescbc k1"},
		{"aesgcm: " + fmt.Sprintf(local, "k2"), "aesgcm k2"},
		{"secretbox: " + fmt.Sprintf(local, "k3"), "secretbox k3"},
		{kms("v1", "aws-v1", 0), "kms v1 aws-v1 direct"},
		{kms("v2", "aws", 0), "kms v2 aws direct " + keys[0]},
		{kms("v2", "aws-b", 1), "kms v2 aws-b direct " + keys[1]},
		{kms("v2", "aws-c", 2), "kms v2 aws-c direct " + keys[2]},
	}, keys
}

// encryption is a configuration in which stage i writes and those before it read.
func encryption(all []stage, i int) string {
	var b strings.Builder
	b.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n")
	b.WriteString("- resources: [secrets, configmaps, events, pandas.example.com]\n  providers:\n")
	for j := i; j >= 0; j-- {
		b.WriteString("  - " + all[j].provider + "\n")
	}
	return b.String()
}

const pandas = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "pandas.example.com"},
"spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "pandas", "kind": "Panda"},
"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}`

// A storeOfAll is a cluster that every provider has written to, and the ledger of what
// was in force at each write: path → how it is stored.
type storeOfAll struct {
	etcd, events *etcdtest.Etcd
	api          *cluster.APIServer
	kubectl      func(stdin string, args ...string)
	stages       []stage
	keys         []string
	ledger       map[string]string
}

// planted is in every object, and so in no output.
const planted = "PLANTED-5d1c"

// newAPIServer starts an API server, which ends with the test.
func newAPIServer(t *testing.T, c cluster.APIServerConfig) *cluster.APIServer {
	t.Helper()
	bin, err := cluster.BuildServers(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	api, err := cluster.NewHostOf(bin).APIServer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Stop(time.Minute) })
	return api
}

// kubectlOf runs kubectl as an API server's administrator.
func kubectlOf(t *testing.T, api *cluster.APIServer) func(stdin string, args ...string) {
	t.Helper()
	clients, err := cluster.BuildClients(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), clients.Kubectl, append([]string{"--kubeconfig=" + api.Kubeconfig}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func startStoreOfAll(t *testing.T) *storeOfAll {
	t.Helper()
	s := &storeOfAll{ledger: map[string]string{}}
	s.stages, s.keys = stages(t)
	s.etcd = etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	s.events = etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	s.api = newAPIServer(t, cluster.APIServerConfig{
		Dir: t.TempDir(), Etcd: s.etcd.URL, Encryption: encryption(s.stages, 0),
	})
	s.kubectl = kubectlOf(t, s.api)
	s.kubectl(pandas, "create", "-f", "-")
	s.kubectl("", "wait", "--for=condition=Established", "crd/pandas.example.com", "--timeout=2m")
	s.api.Args = append(s.api.Args, "--etcd-servers-overrides=/events#"+s.events.URL)
	for i := range s.stages {
		s.restart(t, i)
		s.write(t, i)
	}
	return s
}

// restart makes stage i the one that writes.
func (s *storeOfAll) restart(t *testing.T, i int) {
	t.Helper()
	if err := s.api.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := s.api.SetEncryption(encryption(s.stages, i)); err != nil {
		t.Fatal(err)
	}
	if err := s.api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// write writes an object of each kind, and enters it into the ledger.
func (s *storeOfAll) write(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprintf("s%d", i)
	if err := s.api.CreateSecret(t.Context(), name, planted); err != nil {
		t.Fatal(err)
	}
	if err := s.api.CreateConfigMap(t.Context(), name, planted); err != nil {
		t.Fatal(err)
	}
	s.kubectl(fmt.Sprintf(`{"apiVersion": "example.com/v1", "kind": "Panda", "metadata": {"name": %q}, "spec": %q}`, name, planted), "create", "-f", "-")
	s.kubectl(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Event", "metadata": {"name": %q}, "involvedObject": {"namespace": "default"}, "message": %q}`, name, planted), "create", "-f", "-")
	for _, dir := range []string{"secrets", "configmaps", "example.com/pandas", "events"} {
		s.ledger["/registry/"+dir+"/default/"+name] = s.stages[i].want
	}
}

// audited is how each object of the namespace default is stored, as a report says.
func audited(t *testing.T, args ...string) map[string]string {
	t.Helper()
	code, out, errs := command(t, append([]string{"audit", "-o", "json", "--objects"}, args...)...)
	if errs != "" || code != cli.Done && code != cli.Failed {
		t.Fatalf("%s: exit code %d, %s", args, code, errs)
	}
	clean(t, out)
	var r audit.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	stored := map[string]string{}
	for _, o := range r.Objects {
		dir := strings.TrimSuffix(o.Path, "/default/"+o.Name)
		if !slices.Contains([]string{"/registry/secrets", "/registry/configmaps", "/registry/example.com/pandas", "/registry/events"}, dir) {
			continue
		}
		key, _, _ := strings.Cut(o.KeyID, "?")
		stored[o.Path] = strings.Join(strings.Fields(strings.Join([]string{o.Format, o.Provider, o.Wrapped, key}, " ")), " ")
	}
	return stored
}

func clean(t *testing.T, out string) {
	t.Helper()
	for _, secret := range []string{planted, "f:value", "managedFields", "kubectl-create", "MTIzNDU2"} {
		if strings.Contains(out, secret) {
			t.Errorf("the output has %s", secret)
		}
	}
}

// Every provider of a real API server writes, and audit says of each object what the
// ledger says, live, from a snapshot and from a copy; then all is rewritten, and the
// answers follow.
func TestEveryProviderOfARealAPIServer(t *testing.T) {
	s := startStoreOfAll(t)
	ofMain := maps.Clone(s.ledger)
	maps.DeleteFunc(ofMain, func(path, _ string) bool { return strings.Contains(path, "/events/") })
	files := t.TempDir()
	main, copied, events := filepath.Join(files, "main.db"), filepath.Join(files, "copied.db"), filepath.Join(files, "events.db")
	if err := s.api.Stop(time.Minute); err != nil { // it renews a Lease
		t.Fatal(err)
	}
	s.etcd.Snapshot(main)
	s.etcd.CopyDB(copied)
	s.events.Snapshot(events)
	for name, c := range map[string]struct {
		args []string
		want map[string]string
	}{
		"live":      {[]string{"--endpoints", s.etcd.URL}, ofMain},
		"snapshot":  {[]string{"--snapshot", main}, ofMain},
		"copy":      {[]string{"--snapshot", copied}, ofMain},
		"two etcds": {[]string{"--snapshot", main, "--snapshot", events}, s.ledger},
	} {
		if diff := cmp.Diff(c.want, audited(t, c.args...)); diff != "" {
			t.Errorf("%s (-ledger +audit):\n%s", name, diff)
		}
	}
	s.asksOfTheMix(t, main, events)
	s.verifies(t, main, events)
	s.asksOfTheLegacy(t)
	s.rewrites(t)
}

// manifest is the API server's, as kubeadm would have written it.
func (s *storeOfAll) manifest(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kube-apiserver.yaml")
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: kube-apiserver\n    command:\n    - kube-apiserver\n")
	for _, arg := range s.api.Args {
		fmt.Fprintf(&b, "    - %q\n", arg)
	}
	fmt.Fprintf(&b, "    volumeMounts: [{name: all, mountPath: %q}]\n  volumes: [{name: all, hostPath: {path: %q}}]\n",
		filepath.Dir(s.api.EncryptionFile), filepath.Dir(s.api.EncryptionFile))
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// asks runs a question and demands its exit code, and words of the verdict.
func asks(t *testing.T, code int, words string, args ...string) {
	t.Helper()
	got, out, errs := command(t, append([]string{"audit"}, args...)...)
	clean(t, out+errs)
	if got != code || !strings.Contains(out, words) {
		t.Errorf("%s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, words, out, errs)
	}
}

func (s *storeOfAll) asksOfTheMix(t *testing.T, main, events string) {
	t.Helper()
	manifest := s.manifest(t)
	asks(t, cli.Failed, "not read: events in an etcd of their own", "--apiserver-manifest", manifest)
	asks(t, cli.Found, "not read: events in an etcd of their own", "--apiserver-manifest", manifest, "--expect-only", s.keys[2])
	asks(t, cli.Found, "events", "--snapshot", main, "--snapshot", events, "--apiserver-manifest", manifest, "--expect-unused", s.keys[0])
	asks(t, cli.Found, "", "--endpoints", s.etcd.URL, "--resources", "pandas.example.com", "--expect-unused", "plaintext")
	asks(t, cli.Failed, "the bytes do not tell their key", "--endpoints", s.etcd.URL, "--resources", "secrets", "--expect-unused",
		"arn:aws:kms:us-west-2:111122223333:key/ffffffff-12ab-34cd-56ef-1234567890ab")
	asks(t, cli.Failed, "API servers: not asked", "--endpoints", s.etcd.URL, "--resources", "deployments.apps,secrets", "--expect-unused", "provider:never")
}

// verifies opens what a real API server wrote, object by object: by the plugins that it
// asked, and by their keys, which name what v1's bytes do not.
func (s *storeOfAll) verifies(t *testing.T, main, events string) {
	t.Helper()
	both := []string{"verify", "--rate", "100000", "--snapshot", main, "--snapshot", events, "--encryption-config", s.api.EncryptionFile, "--open"}
	keys := append(both, "--key", s.keys[0], "--key", s.keys[1], "--key", s.keys[2])
	for name, args := range map[string][]string{"the plugins of the configuration": both, "keys": keys} {
		code, out, errs := command(t, args...)
		clean(t, out+errs)
		if code != cli.Done || !strings.Contains(out, "all opened") || !strings.Contains(out, "in AES-CBC only the padding proves it") {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, errs)
		}
	}
	code, out, errs := command(t, append(keys, "-o", "json")...)
	var r verify.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != cli.Done {
		t.Fatalf("exit code %d, %v\n%s", code, err, errs)
	}
	of := map[string]string{"aws-v1": s.keys[0], "aws": s.keys[0], "aws-b": s.keys[1], "aws-c": s.keys[2]}
	for _, p := range r.Places {
		for _, row := range p.Rows {
			if row.Key != of[row.Provider] {
				t.Errorf("%+v, want the key %s", row, of[row.Provider])
			}
		}
	}
	// One key of three does not open what is under the others.
	code, out, errs = command(t, append(both, "--key", s.keys[1])...)
	clean(t, out+errs)
	if code != cli.Found || !strings.Contains(out, s.keys[0]+" (not listed)") || !strings.Contains(out, s.keys[2]+" (not listed)") {
		t.Errorf("one key: exit code %d\n%s%s", code, out, errs)
	}
	code, out, errs = command(t, "verify", "--endpoints", s.etcd.URL, "--encryption-config", s.api.EncryptionFile, "--resources", "pandas.example.com", "--open")
	if code != cli.Done {
		t.Errorf("live: exit code %d\n%s%s", code, out, errs)
	}
}

// asksOfTheLegacy puts in what releases of today no longer write: the vectors of package
// stored, made by kube-apiserver's own transformers.
func (s *storeOfAll) asksOfTheLegacy(t *testing.T) {
	t.Helper()
	for _, name := range []string{"kms-v1-cbc", "kms-v2-dek"} {
		text, err := os.ReadFile("../../internal/stored/testdata/vectors/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "value: ")
		digits, _, _ := strings.Cut(rest, "\n")
		value, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		s.etcd.Put("/registry/secrets/default/"+name, string(value))
		defer s.etcd.Delete("/registry/secrets/default/" + name)
	}
	asks(t, cli.Done, "gcm?: gcm or cbc: run verify --open", "--endpoints", s.etcd.URL)
	asks(t, cli.Done, "direct, DEK", "--endpoints", s.etcd.URL)
}

// rewrites makes the last stage the only one, and asks again.
func (s *storeOfAll) rewrites(t *testing.T) {
	t.Helper()
	last := len(s.stages) - 1
	s.restart(t, last)
	if err := s.api.RewriteSecrets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.api.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	before, after := filepath.Join(files, "before.db"), filepath.Join(files, "after.db")
	s.etcd.Snapshot(before)
	s.etcd.Compact(s.etcd.Put("compact_rev_key", "1"))
	s.etcd.Snapshot(after)
	for _, key := range []string{s.keys[2], "provider:aws-c"} {
		asks(t, cli.Done, "verdict: yes", "--snapshot", after, "--resources", "secrets", "--expect-only", key)
		asks(t, cli.Failed, "not known", "--endpoints", s.etcd.URL, "--resources", "secrets", "--expect-only", key)
	}
	for _, key := range []string{s.keys[0], s.keys[1], "plaintext", "provider:aws-v1", "provider:k1"} {
		asks(t, cli.Done, "verdict: yes", "--snapshot", after, "--resources", "secrets", "--expect-unused", key)
		asks(t, cli.Failed, "nothing before the next compaction", "--endpoints", s.etcd.URL, "--resources", "secrets", "--expect-unused", key)
		asks(t, cli.Found, "until etcd compacts", "--snapshot", before, "--resources", "secrets", "--expect-unused", key)
	}
	asks(t, cli.Found, "", "--snapshot", after, "--resources", "secrets,configmaps", "--expect-unused", s.keys[0])
}
