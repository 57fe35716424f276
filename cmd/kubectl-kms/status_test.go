package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers/live"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// A node is an API server and its plugin. Its working directory holds the plugin's socket,
// so that both nodes have the same EncryptionConfiguration, to the byte.
type node struct {
	name string
	api  *cluster.APIServer
	dir  string // of the plugin
}

// A pair of nodes shares an etcd.
type pair struct {
	etcd       *etcdtest.Etcd
	nodes      [2]*node
	old, new   string // keys
	kubeconfig string // of the first, and trusts both
	file       string // the EncryptionConfiguration
}

// configOf is a configuration in which the first provider writes.
func configOf(resources string, providers ...string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [" + resources + "]\n  providers:\n  - " +
		strings.Join(append(providers, "identity: {}"), "\n  - ") + "\n"
}

const (
	byV2     = `kms: {apiVersion: v2, name: aws, endpoint: "unix:///proc/self/cwd/s", timeout: 30s}`
	byV1     = `kms: {apiVersion: v1, name: aws-v1, endpoint: "unix:///proc/self/cwd/s", timeout: 30s}`
	byAESCBC = `aescbc: {keys: [{name: %s, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}`
)

// begun is a file that a node's API server writes when its process is a moment old.
func (n *node) begun() string { return filepath.Join(n.dir, "begun") }

// hostname makes a program run with a host's name of its own, where this user may do so:
// a Lease is named by it.
func (n *node) hostname(t *testing.T, program string) string {
	t.Helper()
	script := fmt.Sprintf("#!/bin/sh\ncd %q || exit 1\nsleep 0.1\n: >begun\n"+
		"if unshare --uts true 2>/dev/null; then\n  exec unshare --uts sh -c 'hostname %s && exec \"$0\" \"$@\"' %q \"$@\"\nfi\nexec %q \"$@\"\n", n.dir, n.name, program, program)
	file := filepath.Join(n.dir, "kube-apiserver.sh")
	if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// inTurn calls start for both nodes, for the second when the first's process has begun:
// processes of one host are told apart by when they did, in hundredths of a second.
func (p *pair) inTurn(t *testing.T, start func(*node) error) {
	t.Helper()
	var all sync.WaitGroup
	for i, n := range p.nodes {
		_ = os.Remove(n.begun())
		all.Go(func() {
			err := cluster.Poll(t.Context(), 50*time.Millisecond, time.Minute, nil, func(context.Context) error {
				if i == 0 {
					return nil
				}
				_, err := os.Stat(p.nodes[0].begun())
				return err
			})
			if err == nil {
				err = start(n)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// ownHostnames reports whether both nodes have a Lease of their own.
func ownHostnames(t *testing.T) bool {
	t.Helper()
	return exec.CommandContext(t.Context(), "unshare", "--uts", "true").Run() == nil
}

// startPair starts two API servers, whose plugins write under the old key.
func startPair(t *testing.T, encryption string, names ...string) *pair {
	t.Helper()
	s := kmstest.Start(t)
	s.SetEnv(t)
	p := &pair{etcd: etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})}
	for _, key := range []*string{&p.old, &p.new} {
		var err error
		if *key, err = s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := cluster.BuildServers(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.nodes {
		n := &node{name: names[i], dir: daemontest.Directory(t)}
		p.nodes[i] = n
		n.plugin(t, p.old)
		flags := config.NewFlags(pflag.NewFlagSet("plugin", pflag.ContinueOnError))
		cfg, err := flags.Parse([]string{"--config=" + filepath.Join(n.dir, "config.yaml"), "--health-port=127.0.0.1:0"}, func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		daemontest.StartWith(t, cfg, daemon.Options{Log: slog.New(slog.DiscardHandler), Source: flags.Source()})
	}
	p.inTurn(t, func(n *node) (err error) {
		own := bin
		own.APIServer = n.hostname(t, bin.APIServer)
		n.api, err = cluster.NewHostOf(own).APIServer(t.Context(), cluster.APIServerConfig{
			Dir: t.TempDir(), Etcd: p.etcd.URL, Encryption: encryption, AutomaticReload: true,
		})
		if err == nil {
			t.Cleanup(func() { _ = n.api.Stop(time.Minute) })
		}
		return err
	})
	p.file = p.nodes[0].api.EncryptionFile
	p.kubeconfig = p.writeKubeconfig(t, p.nodes[0].api.URL())
	return p
}

// plugin lists the keys of a node's plugin, of which the first writes.
func (n *node) plugin(t *testing.T, keys ...string) {
	t.Helper()
	text := "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nproviders:\n- name: aws\n  listen: " + filepath.Join(n.dir, "s") + "\n  keys:\n"
	for _, key := range keys {
		text += "  - key: " + key + "\n"
	}
	file := filepath.Join(n.dir, "config.yaml")
	if err := os.WriteFile(file+".next", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".next", file); err != nil {
		t.Fatal(err)
	}
}

// writeKubeconfig writes one that trusts both nodes.
func (p *pair) writeKubeconfig(t *testing.T, server string) string {
	t.Helper()
	var trust []byte
	for _, n := range p.nodes {
		pem, err := os.ReadFile(filepath.Join(filepath.Dir(n.api.Kubeconfig), "apiserver.crt"))
		if err != nil {
			t.Fatal(err)
		}
		trust = append(trust, pem...)
	}
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "a",
"clusters": [{"name": "a", "cluster": {"server": %q, "certificate-authority-data": %q}}],
"users": [{"name": "a", "user": {"token": %q}}],
"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}`, server, base64.StdEncoding.EncodeToString(trust), cluster.Token)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// both are the addresses of both API servers, as flags.
func (p *pair) both() []string {
	return []string{"--apiserver", p.nodes[0].api.URL(), "--apiserver", p.nodes[1].api.URL()}
}

// status runs it. args come after the kubeconfig, words of which are in the output.
func (p *pair) status(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	code, out, errs := command(t, append([]string{"status", "--kubeconfig", p.kubeconfig}, args...)...)
	clean(t, out+errs)
	return code, out + errs
}

// wants runs status and demands its exit code and words.
func (p *pair) wants(t *testing.T, code int, words string, args ...string) {
	t.Helper()
	if got, out := p.status(t, args...); got != code || !strings.Contains(out, words) {
		t.Errorf("status %s: exit code %d, want %d and %q\n%s", strings.Join(args, " "), got, code, words, out)
	}
}

// balancer leads connections to both API servers in turn.
func (p *pair) balancer(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var turn atomic.Int64
	go func() { // ends with the listener
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with one of the connections
				defer func() { _ = in.Close() }()
				to := p.nodes[turn.Add(1)%2].api.URL()
				out, err := new(net.Dialer).DialContext(context.Background(), "tcp", strings.TrimPrefix(to, "https://"))
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return "https://" + l.Addr().String()
}

// Two API servers go over to a new key, one after the other. Nothing says yes before both
// have, whoever is asked and however; then audit does.
func TestStatusOfTwoAPIServers(t *testing.T) {
	p := startPair(t, configOf("secrets, configmaps, pandas.example.com, clusterroles.rbac.authorization.k8s.io, '*.apps'", byV2), "cp-1", "cp-2")
	p.post(t, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", pandas)
	known := append(p.both(), "--encryption-config", p.file)
	p.wants(t, cli.Done, "verdict: converged: both API servers write under kms v2 aws, key_id sha256:", known...)
	p.wants(t, cli.Done, "verdict: converged: both API servers write by provider aws", p.both()...)
	p.wants(t, cli.Done, p.old+"?material=", append(known, "--probe", "--endpoints", p.etcd.URL)...)
	p.noProbes(t)
	p.expects(t, known)
	p.notCovered(t)
	p.isHeld(t, known)
	p.goesOver(t, known)
	p.restarts(t)
}

// expects is while all API servers write alike, and under the old key.
func (p *pair) expects(t *testing.T, known []string) {
	t.Helper()
	probed := append(slices.Clone(known), "--probe", "--endpoints", p.etcd.URL)
	other := "sha256:" + strings.Repeat("0", 64)
	p.wants(t, cli.Done, "verdict: converged", append(known, "--expect-only", "provider:aws")...)
	p.wants(t, cli.Found, "under kms v2 aws, key_id sha256:", append(known, "--expect-only", other)...)
	p.wants(t, cli.Failed, "--encryption-config tells", append(p.both(), "--expect-only", other)...)
	p.wants(t, cli.Found, "secrets", append(known, "--expect-only", "provider:other", "--resources", "secrets", "--wait", "5m")...)
	p.wants(t, cli.Vain, "and not under "+other, append(known, "--expect-only", other, "--wait", "1s")...)
	p.wants(t, cli.Failed, "whether that is under "+p.old+" is not known", append(known, "--expect-only", p.old, "--wait", "5m")...)
	p.wants(t, cli.Done, "verdict: converged", append(probed, "--expect-only", p.old)...)
	p.wants(t, cli.Found, "and not under "+p.new, append(probed, "--expect-only", p.new)...)
	p.migrates(t, cli.Failed, "nothing was sent: ", append(p.both(), "--expect-only", other)...)
	p.migrates(t, cli.Failed, "and not under "+p.new, append(p.both(), "--probe", "--expect-only", p.new)...)
}

// notCovered is what asking too few says.
func (p *pair) notCovered(t *testing.T) {
	t.Helper()
	lb := p.balancer(t)
	p.wants(t, cli.Failed, "leads to several API servers", "--apiserver", lb)
	p.wants(t, cli.Failed, "leads to several API servers", append(p.both(), "--apiserver", lb)...)
	p.wants(t, cli.Failed, "give the address of each by --apiserver") // no EndpointSlice here
	if ownHostnames(t) {
		p.wants(t, cli.Failed, "cp-2 lives by its Lease", "--apiserver", p.nodes[0].api.URL())
	}
	p.wants(t, cli.Failed, "connection refused", append(p.both(), "--apiserver", "https://127.0.0.1:1")...)
	p.audits(t, cli.Failed, "leads to several API servers", "--apiserver", lb, "--expect-only", p.old)
}

// audits runs audit on the living etcd.
func (p *pair) audits(t *testing.T, code int, words string, args ...string) {
	t.Helper()
	if !slices.Contains(args, "--resources") {
		args = append(args, "--resources", "secrets")
	}
	asks(t, code, words, append([]string{"--kubeconfig", p.kubeconfig, "--endpoints", p.etcd.URL, "--encryption-config", p.file}, args...)...)
}

// isHeld is while the second plugin has not been told of the new key.
func (p *pair) isHeld(t *testing.T, known []string) {
	t.Helper()
	for _, name := range []string{"a", "b"} {
		if err := p.nodes[0].api.CreateSecret(t.Context(), name, planted); err != nil {
			t.Fatal(err)
		}
	}
	p.audits(t, cli.Done, "verdict: yes", append(p.both(), "--expect-only", p.old)...)
	p.audits(t, cli.Done, "asked before and after, converged: both API servers write", append(p.both(), "--expect-only", p.old)...)
	p.audits(t, cli.Found, "", append(p.both(), "--expect-unused", p.old)...)
	for _, n := range p.nodes {
		n.plugin(t, p.old, p.new) // all read before one writes
	}
	p.nodes[0].plugin(t, p.new, p.old)
	p.until(t, cli.Found, known...)
	began := time.Now()
	p.wants(t, cli.Found, "not converged: of provider aws, ", p.both()...)
	wait := 10*time.Since(began) + 2*time.Second // so that there is time for a second look
	p.wants(t, cli.Found, "writes under", append(known, "--probe", "--endpoints", p.etcd.URL)...)
	p.noProbes(t)
	p.wants(t, cli.Vain, "kubectl kms: waiting, ", append(known, "--wait", wait.Round(time.Second).String())...)
	p.migrates(t, cli.Failed, "nothing was sent: ", p.both()...)
	p.migrates(t, cli.Failed, "nothing was sent: ", append(p.both(), "--probe")...)
	p.migrates(t, cli.Failed, "leads to several API servers", "--apiserver", p.balancer(t))
	p.noProbes(t)
	p.rewrite(t)
	p.audits(t, cli.Failed, "API servers: not converged: of provider aws, ", append(p.both(), "--expect-unused", p.old)...)
	p.audits(t, cli.Failed, "API servers: not converged: of provider aws, ", append(p.both(), "--expect-only", p.new)...)
}

// goesOver is when the second plugin has been told.
func (p *pair) goesOver(t *testing.T, known []string) {
	t.Helper()
	p.nodes[1].plugin(t, p.new, p.old)
	p.wants(t, cli.Done, "verdict: converged", append(known, "--wait", "5m")...)
	_, out := p.status(t, append(known, "-o", "json")...)
	var r apiservers.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if ownHostnames(t) && (r.APIServers[0].Name != "cp-1" || r.APIServers[1].Name != "cp-2") {
		t.Errorf("API servers are called %s and %s", r.APIServers[0].Name, r.APIServers[1].Name)
	}
	p.rewrite(t)
	p.audits(t, cli.Done, "verdict: yes", append(p.both(), "--expect-only", p.new)...)
	p.audits(t, cli.Failed, "nothing before the next compaction proves a key unused", append(p.both(), "--expect-unused", p.old)...)
	hash := r.APIServers[0].Keys[0].KeyIDHash
	p.wants(t, cli.Done, "verdict: converged", append(known, "--expect-only", hash, "--wait", "5m")...)
	p.audits(t, cli.Found, "the next one will be", append(p.both(), "--expect-unused", hash, "--resources", "configmaps")...)
	asks(t, cli.Failed, "give --encryption-config", append(p.both(), "--kubeconfig", p.kubeconfig, "--endpoints", p.etcd.URL, "--resources", "secrets", "--expect-only", p.new)...)

	other := etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	for range 100 { // more than a new cluster's first
		other.Put("/registry/namespaces/kube-system", "k8s\x00")
	}
	other.Put("/registry/secrets/default/a", "k8s\x00")
	asks(t, cli.Failed, "is it their etcd?", append(p.both(), "--kubeconfig", p.kubeconfig, "--endpoints", other.URL, "--encryption-config", p.file, "--expect-unused", p.old, "--resources", "secrets")...)
	p.wants(t, cli.Failed, "of different clusters", append(known, "--probe", "--endpoints", other.URL)...)
	p.migrates(t, cli.Failed, "belong to one cluster?", append(p.both(), "--endpoints", other.URL)...)
	p.migrates(t, cli.Done, "nothing stale is left: ", append(p.both(), "--expect-only", hash)...) // what is no Secret
	p.migrates(t, cli.Done, "nothing is stale; ", append(p.both(), "--probe")...)
}

// migrates runs migrate and demands its exit code and words.
func (p *pair) migrates(t *testing.T, code int, words string, args ...string) {
	t.Helper()
	if !slices.Contains(args, "--endpoints") {
		args = append(args, "--endpoints", p.etcd.URL)
	}
	got, out, errs := command(t, append([]string{"migrate", "--kubeconfig", p.kubeconfig, "--encryption-config", p.file}, args...)...)
	clean(t, out+errs)
	if got != code || !strings.Contains(out+errs, words) {
		t.Errorf("migrate %s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, words, out, errs)
	}
}

func (p *pair) rewrite(t *testing.T) {
	t.Helper()
	if err := p.nodes[0].api.RewriteSecrets(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// restarts is when one restarts, and when it was killed.
func (p *pair) restarts(t *testing.T) {
	t.Helper()
	flags, set := kube.NewFlags(), pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.Define(set)
	if err := set.Parse([]string{"--kubeconfig", p.kubeconfig}); err != nil {
		t.Fatal(err)
	}
	k, err := flags.Cluster(kube.Options{LookupEnv: os.LookupEnv})
	if err != nil {
		t.Fatal(err)
	}
	second := p.nodes[1].api
	seen, err := apiservers.Observe(t.Context(), live.New(k), []string{p.nodes[0].api.URL(), second.URL()}, func(ctx context.Context, _ []string) error {
		if err := second.Stop(time.Minute); err != nil {
			return err
		}
		return second.Start(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := apiservers.Judge(seen, apiservers.Options{}); r.Verdict.Answer == apiservers.Converged || !strings.Contains(r.Verdict.Text, "has restarted meanwhile") {
		t.Errorf("one has restarted meanwhile: %s", r.Verdict.Text)
	}
	p.until(t, cli.Done, p.both()...)
	if err := second.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wants(t, cli.Failed, "connection refused", p.both()...)
	if ownHostnames(t) {
		p.wants(t, cli.Failed, "cp-2", "--apiserver", p.nodes[0].api.URL()) // its Lease is still there
	}
}

// until runs status until it exits with the code: a plugin's word takes up to a minute.
func (p *pair) until(t *testing.T, code int, args ...string) {
	t.Helper()
	err := cluster.Poll(t.Context(), time.Second, 5*time.Minute, nil, func(context.Context) error {
		if got, out := p.status(t, args...); got != code { //nolint:contextcheck // the test's own bounds it
			return fmt.Errorf("exit code %d, want %d\n%s", got, code, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// noProbes demands that no probe is left behind.
func (p *pair) noProbes(t *testing.T) {
	t.Helper()
	values, err := p.etcd.Values(t.Context(), "/registry/")
	if err != nil {
		t.Fatal(err)
	}
	for key := range values {
		if strings.Contains(key, live.ProbePrefix) {
			t.Errorf("%s is left behind", key)
		}
	}
}

// post creates an object through the first API server.
func (p *pair) post(t *testing.T, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.nodes[0].api.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+cluster.Token)
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it is the test's own
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		t.Fatalf("%s: %s", resp.Status, text)
	}
	client.CloseIdleConnections()
}

// Of local keys and of KMS v1 no metric tells the key: only the file, or a probe, does.
func TestStatusWithoutKMSv2(t *testing.T) {
	const resources = "secrets, configmaps"
	k1, k2 := fmt.Sprintf(byAESCBC, "k1"), fmt.Sprintf(byAESCBC, "k2")
	p := startPair(t, configOf(resources, k1), "cp-1", "cp-1") // they share a Lease
	probe := append(p.both(), "--encryption-config", p.file, "--probe", "--endpoints", p.etcd.URL)
	p.wants(t, cli.Failed, "no metric of the API server of", p.both()...)
	p.wants(t, cli.Failed, "", append(p.both(), "--wait", "1m")...) // waiting changes nothing
	p.wants(t, cli.Done, "under aescbc k1", append(p.both(), "--encryption-config", p.file)...)
	p.wants(t, cli.Failed, "at least 2 API servers renew Lease kube-system/apiserver-", "--apiserver", p.nodes[0].api.URL(), "--encryption-config", p.file)
	p.wants(t, cli.Done, "under aescbc k1", probe...)
	p.noProbes(t)

	p.configure(t, configOf(resources, k1), configOf(resources, k2, k1))
	p.wants(t, cli.Found, "the encryption configurations differ", p.both()...)
	p.wants(t, cli.Found, "cannot be read through", probe...)
	p.noProbes(t)
	p.audits(t, cli.Failed, "API servers: not converged", append(p.both(), "--expect-only", "provider:k1")...)
	if err := p.nodes[0].api.CreateSecret(t.Context(), "a", planted); err != nil {
		t.Fatal(err)
	}
	p.migrates(t, cli.Failed, "nothing was sent: ", p.both()...)
	p.migrates(t, cli.Failed, "nothing was sent: ", append(p.both(), "--probe")...)

	all := configOf(resources, byV1, k2, k1)
	p.configure(t, all, all)
	p.wants(t, cli.Failed, "neither metrics nor values of v1 name the key", append(p.both(), "--encryption-config", p.file)...)
	p.wants(t, cli.Failed, "neither metrics nor values of v1 name the key", probe...)
	p.wants(t, cli.Failed, "uses KMS v1", p.both()...)
	// Nobody knows the key of v1, and a migration need not: the provider's name tells.
	p.migrates(t, cli.Done, "nothing stale is left: 2 of 2 rewritten; read: ", p.both()...)
	p.migrates(t, cli.Done, "API servers: they have one configuration", append(p.both(), "--probe")...)
	p.noProbes(t)
}

// configure restarts both API servers, each with its configuration.
func (p *pair) configure(t *testing.T, first, second string) {
	t.Helper()
	for i, encryption := range []string{first, second} {
		api := p.nodes[i].api
		if err := api.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := api.SetEncryption(encryption); err != nil {
			t.Fatal(err)
		}
	}
	p.inTurn(t, func(n *node) error { return n.api.Start(t.Context()) })
}
