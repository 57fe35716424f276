package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/patch"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/worklist"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// asProgram makes the test binary the program, to be killed.
const asProgram = "KUBECTL_KMS_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// How large the migration of this test is. make test-long has 5,000 Secrets.
const (
	envSecrets = "KUBECTL_KMS_SECRETS"
	envRate    = "KUBECTL_KMS_RATE"
)

func number(t *testing.T, env string, otherwise int) int {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Providers of an EncryptionConfiguration for Secrets.
const (
	localKey = "  - aescbc: {keys: [{name: k1, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}\n"
	kmsKey   = "  - kms: {apiVersion: v2, name: aws, endpoint: \"unix://%s\", timeout: 30s}\n"
)

// Twins are two API servers that share an etcd and a plugin, and a ledger of what was
// acknowledged.
type twins struct {
	t *testing.T // the whole test, beyond its steps

	etcd       *etcdtest.Etcd
	servers    [2]*cluster.APIServer
	kms        *kmstest.Server
	old, new   string // keys
	socket     string
	kubeconfig string // that trusts both
	plugin     *daemon.Daemon
	clients    cluster.Clients

	mu     sync.Mutex
	ledger map[string]string // Secret → value; "" where it was deleted
}

func startTwins(t *testing.T) *twins {
	t.Helper()
	p := &twins{t: t, ledger: map[string]string{}, kms: kmstest.Start(t)}
	p.kms.SetEnv(t)
	for _, key := range []*string{&p.old, &p.new} {
		var err error
		if *key, err = p.kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p.socket = filepath.Join(daemontest.Directory(t), "s")
	p.startPlugin("--key=" + p.old)
	p.etcd = etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	bin, err := cluster.BuildServers(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if p.clients, err = cluster.BuildClients(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	for i := range p.servers {
		own := bin
		n := &node{name: fmt.Sprintf("cp-%d", i+1), dir: daemontest.Directory(t)}
		own.APIServer = n.hostname(t, bin.APIServer) // so that each has a Lease of its own
		p.servers[i], err = cluster.NewHostOf(own).APIServer(t.Context(), cluster.APIServerConfig{
			Dir: t.TempDir(), Etcd: p.etcd.URL, Encryption: p.config(localKey, kmsKey), AutomaticReload: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.servers[i].Kill() })
	}
	p.trustBoth(t)
	return p
}

// trustBoth writes a kubeconfig: each API server has a certificate authority of its own.
func (p *twins) trustBoth(t *testing.T) {
	t.Helper()
	both, err := clientcmd.LoadFromFile(p.servers[0].Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	other, err := clientcmd.LoadFromFile(p.servers[1].Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range both.Clusters {
		c.CertificateAuthorityData = slices.Concat(c.CertificateAuthorityData, other.Clusters[name].CertificateAuthorityData)
	}
	p.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*both, p.kubeconfig); err != nil {
		t.Fatal(err)
	}
}

// config is an EncryptionConfiguration with the providers in this order.
func (p *twins) config(providers ...string) string {
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n"
	for _, one := range providers {
		if one == kmsKey {
			one = fmt.Sprintf(kmsKey, p.socket)
		}
		text += one
	}
	return text
}

// startPlugin starts the plugin with other flags, in place of the one that runs.
func (p *twins) startPlugin(keys ...string) {
	p.t.Helper()
	if p.plugin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		p.plugin.Shutdown(ctx)
	}
	p.plugin = daemontest.Start(p.t, daemontest.Config(p.t, append(keys, "--listen="+p.socket, "--health-port=127.0.0.1:0")...))
}

// restart gives API servers a configuration, by a restart. It is loaded at once then.
func (p *twins) restart(t *testing.T, config string, servers ...*cluster.APIServer) {
	t.Helper()
	var wait sync.WaitGroup
	errs := make([]error, len(servers))
	for i, s := range servers {
		wait.Go(func() {
			if errs[i] = s.Stop(time.Minute); errs[i] != nil {
				return
			}
			if errs[i] = s.SetEncryption(config); errs[i] == nil {
				errs[i] = s.Start(t.Context())
			}
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (p *twins) kubectl(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.clients.Kubectl, append([]string{"--kubeconfig=" + p.servers[0].Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// create creates Secrets, several at once.
func (p *twins) create(t *testing.T, names []string) {
	t.Helper()
	queue := make(chan string)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for name := range queue {
				if err := p.servers[i%2].CreateSecret(t.Context(), name, planted+name); err != nil {
					t.Error(err)
					continue
				}
				p.note(name, planted+name)
			}
		})
	}
	for _, name := range names {
		queue <- name
	}
	close(queue)
	wait.Wait()
}

func (p *twins) note(name, value string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ledger[name] = value
}

// odd Secrets meet what names of theirs begin with.
func odd() (names []string) {
	for kind, n := range map[string]int{"refuse": 4, "hang": 2, "change": 3, "data": 2, "policy": 2} {
		for i := range n {
			names = append(names, fmt.Sprintf("%s-%d", kind, i))
		}
	}
	return names
}

// migrate are the arguments of a migration.
func (p *twins) migrate(more ...string) []string {
	return append([]string{
		"migrate", "--endpoints", p.etcd.URL, "--encryption-config", p.servers[0].EncryptionFile, "--kubeconfig", p.kubeconfig,
		"--apiserver", p.servers[0].URL(), "--apiserver", p.servers[1].URL(),
	}, more...)
}

// run runs a migration that has to end with the code.
func (p *twins) run(t *testing.T, code int, more ...string) *rewrite.Report {
	t.Helper()
	got, out, errs := command(t, p.migrate(append([]string{"-o", "json"}, more...)...)...)
	clean(t, out+errs)
	var r rewrite.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("exit code %d: %v\n%s%s", got, err, out, errs)
	}
	if got != code {
		t.Fatalf("exit code %d, want %d: %s\n%s", got, code, r.Text, errs)
	}
	return &r
}

// under counts the Secrets in etcd that begin so.
func (p *twins) under(t *testing.T, prefix string) (n int) {
	t.Helper()
	answer, err := p.etcd.Client().Get(t.Context(), "/registry/secrets/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range answer.Kvs {
		if bytes.HasPrefix(kv.Value, []byte(prefix)) {
			n++
		}
	}
	return n
}

// agrees compares what every API server has with the ledger: nothing is lost, and nothing
// is back.
func (p *twins) agrees(t *testing.T) {
	t.Helper()
	want := map[string]string{}
	for name, value := range p.ledger {
		if value != "" {
			want[name] = value
		}
	}
	for i, s := range p.servers {
		got, err := s.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("API server %d (-ledger +API server):\n%s", i, diff)
		}
	}
}

// load creates, updates and deletes Secrets through both API servers, until stop.
func (p *twins) load(t *testing.T, existing []string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for w := range 2 { // each has Secrets of its own, so that the ledger is certain
		mine := []string{}
		for i, name := range existing {
			if i%2 == w {
				mine = append(mine, name)
			}
		}
		wait.Go(func() { p.work(ctx, t, w, mine) })
	}
	return func() {
		cancel()
		wait.Wait()
	}
}

func (p *twins) work(ctx context.Context, t *testing.T, w int, mine []string) {
	t.Helper()
	chance := rand.New(rand.NewPCG(uint64(w), 7)) //nolint:gosec // a test's
	for n := 0; ctx.Err() == nil; n++ {
		s := p.servers[chance.IntN(2)]
		at := chance.IntN(len(mine))
		name, value := mine[at], fmt.Sprintf("%sturn-%d", planted, n)
		switch chance.IntN(3) {
		case 0:
			name = fmt.Sprintf("live-%d-%d", w, n)
			if err := s.CreateSecret(context.WithoutCancel(ctx), name, value); err != nil {
				t.Error(err)
				return
			}
			mine = append(mine, name)
		case 1:
			code, err := p.request(context.WithoutCancel(ctx), s, http.MethodPatch, name, fmt.Sprintf(`{"stringData": {"value": %q}}`, value))
			if err != nil || code != http.StatusOK {
				t.Errorf("updating %s: %d, %v", name, code, err)
				return
			}
		case 2:
			code, err := p.request(context.WithoutCancel(ctx), s, http.MethodDelete, name, "")
			if err != nil || code != http.StatusOK {
				t.Errorf("deleting %s: %d, %v", name, code, err)
				return
			}
			value = ""
			if mine = slices.Delete(mine, at, at+1); len(mine) == 0 {
				return
			}
		}
		p.note(name, value)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond): // others want the machine too
		}
	}
}

// request asks for a Secret by a client of its own.
func (p *twins) request(ctx context.Context, s *cluster.APIServer, method, name, body string) (code int, err error) {
	client, _, err := clientOf(s)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, method, s.URL()+cluster.SecretPath(name), strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/merge-patch+json")
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

func clientOf(s *cluster.APIServer) (*http.Client, *url.URL, error) {
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, nil, err
	}
	base, err := url.Parse(config.Host)
	return client, base, err
}

// webhooks registers one that refuses, two that change and one that hangs, and a policy
// that changes. What they add is named after the round, so that each adds something.
func (p *twins) webhooks(t *testing.T, round string) {
	t.Helper()
	release := make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { review(w, r, release) }))
	s.StartTLS()
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(release) }) // before it
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	hook := func(kind, name string) map[string]any {
		return map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind + "WebhookConfiguration", "metadata": map[string]any{"name": name},
			"webhooks": []any{map[string]any{
				"name": name + ".example.com", "sideEffects": "None", "admissionReviewVersions": []string{"v1"}, "failurePolicy": "Fail", "timeoutSeconds": 1,
				"rules":        []any{map[string]any{"operations": []string{"UPDATE"}, "apiGroups": []string{""}, "apiVersions": []string{"v1"}, "resources": []string{"secrets"}}},
				"clientConfig": map[string]any{"url": s.URL + "/" + name + "/" + round, "caBundle": ca},
				// Only what is named for it: the load and the others are left alone.
				"matchConditions": []any{map[string]any{"name": "mine", "expression": "object.metadata.name.startsWith('" + name + "-')"}},
			}},
		}
	}
	objects := []any{
		hook("Validating", "refuse"), hook("Validating", "hang"), hook("Mutating", "change"), hook("Mutating", "data"),
		map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": map[string]any{"name": "policy.example.com"},
			"spec": map[string]any{
				"matchConstraints":   map[string]any{"resourceRules": []any{map[string]any{"operations": []string{"UPDATE"}, "apiGroups": []string{""}, "apiVersions": []string{"v1"}, "resources": []string{"secrets"}}}},
				"matchConditions":    []any{map[string]any{"name": "mine", "expression": "object.metadata.name.startsWith('policy-')"}},
				"reinvocationPolicy": "Never", "failurePolicy": "Fail",
				"mutations": []any{map[string]any{"patchType": "ApplyConfiguration", "applyConfiguration": map[string]any{"expression": `Object{metadata: Object.metadata{labels: {"` + round + `": "policy"}}}`}}},
			},
		},
		map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": map[string]any{"name": "policy"},
			"spec": map[string]any{"policyName": "policy.example.com"},
		},
	}
	for _, o := range objects {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		p.kubectl(t, string(text), "create", "-f", "-")
	}
}

// review answers as the webhook that the path names.
func review(w http.ResponseWriter, r *http.Request, release chan struct{}) {
	var in struct {
		Request struct{ UID string }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := map[string]any{"uid": in.Request.UID, "allowed": true}
	_, name, _ := strings.Cut(r.URL.Path, "/")
	name, round, _ := strings.Cut(name, "/")
	switch name {
	case "refuse":
		out["allowed"], out["status"] = false, map[string]any{"message": "no: " + planted, "reason": planted}
	case "hang":
		select {
		case <-release:
		case <-r.Context().Done():
		}
	case "change":
		out["patchType"], out["patch"] = "JSONPatch", fmt.Appendf(nil, `[{"op": "add", "path": "/metadata/annotations", "value": {%q: %q}}]`, round, strings.Repeat("x", len(round)))
	case "data":
		out["patchType"], out["patch"] = "JSONPatch", fmt.Appendf(nil, `[{"op": "add", "path": "/data/%s", "value": "bW9yZQ=="}]`, round)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": out})
}

// TestMigrate goes from a local key to KMS, and then to another key of KMS, on two API
// servers, while Secrets are created, changed and deleted; twice it is killed. In the end
// the old keys are gone, everything has started cold, and all reads.
func TestMigrate(t *testing.T) {
	p := startTwins(t)
	var names []string
	for i := range number(t, envSecrets, 300) {
		names = append(names, fmt.Sprintf("s-%04d", i))
	}
	p.create(t, append(odd(), names...))
	p.special(t)

	p.restart(t, p.config(kmsKey, localKey), p.servers[0])
	step := func(name string, f func(t *testing.T)) {
		if !t.Run(name, f) {
			t.FailNow() // what follows builds on it
		}
	}
	step("one API server is held on the old provider", func(t *testing.T) { p.held(t, len(names)) })
	p.restart(t, p.config(kmsKey, localKey), p.servers[1])
	p.webhooks(t, "one")
	step("under load, and killed twice", func(t *testing.T) { p.underLoad(t, names) })
	step("to another key", p.toAnotherKey)
	step("cold, without the old keys", func(t *testing.T) {
		p.startPlugin("--key=" + p.new)
		if err := p.kms.DisableKey(p.old); err != nil {
			t.Fatal(err)
		}
		p.restart(t, p.config(kmsKey), p.servers[:]...)
		p.agrees(t)
	})
	step("one restarts meanwhile", p.restartsMeanwhile)
}

// restartsMeanwhile: an API server that was away while etcd was read may have written
// otherwise since.
func (p *twins) restartsMeanwhile(t *testing.T) {
	t.Helper()
	p.run(t, cli.Done)
	s := stores()
	of := s.Etcd
	s.Etcd = func(o etcd.Options) (store.Reader, error) {
		r, err := of(o)
		return &restarting{r, func() { p.restart(t, p.config(kmsKey), p.servers[1]) }}, err
	}
	var out, errs strings.Builder
	code := cli.Main(t.Context(), append([]string{"kubectl-kms"}, p.migrate()...), cli.Streams{
		Out: &out, Err: &errs, LookupEnv: func(string) (string, bool) { return "", false }, Stores: s,
	})
	if code != cli.Failed || !strings.Contains(out.String(), "restarted") {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
}

// A restarting reader does something before it reads.
type restarting struct {
	store.Reader

	before func()
}

func (r *restarting) Read(ctx context.Context, prefixes []string, each func(store.KeyValue) error) (store.Reading, error) {
	r.before()
	return r.Reader.Read(ctx, prefixes, each)
}

// special creates an immutable Secret, and one that waits for its end.
func (p *twins) special(t *testing.T) {
	t.Helper()
	for name, immutable := range map[string]bool{"immutable": true, "final": false} {
		p.kubectl(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": %q, "finalizers": ["example.com/wait"]}, "stringData": {"value": %q}, "immutable": %t}`,
			name, planted+name, immutable), "create", "-f", "-")
		p.note(name, planted+name)
	}
	p.kubectl(t, "", "delete", "secret", "final", "--wait=false")
}

// held: nothing is sent while an API server writes otherwise. And if it were, because
// whoever was asked did not know, what that API server writes back would be found.
func (p *twins) held(t *testing.T, n int) {
	t.Helper()
	before := p.under(t, "k8s:enc:aescbc:v1:k1:")
	r := p.run(t, cli.Failed)
	if r.Result != rewrite.Refused || !strings.Contains(r.Text, "configurations differ") {
		t.Errorf("%q: %s", r.Result, r.Text)
	}
	if after := p.under(t, "k8s:enc:aescbc:v1:k1:"); before < n || after != before {
		t.Errorf("%d Secrets were under the local key, and %d are", before, after)
	}
	lister, patcher := p.parts(t)
	r, err := rewrite.Run(t.Context(), rewrite.Options{Rate: 5000, Workers: 8}, trusting{}, &writingBack{of: lister, p: p, t: t}, patcher, patcher)
	if err != nil {
		t.Fatal(err)
	}
	if r.Result != rewrite.LeftOver || r.LeftCount < int64(n) || len(r.Rounds) != rewrite.DefaultRounds || r.Rounds[0].Written < int64(n) {
		t.Errorf("%q: %s", r.Result, r.Text)
	}
	for _, l := range r.Left {
		if l.Outcome != rewrite.OutcomeWritten {
			t.Errorf("%+v", l)
			break
		}
	}
	p.agrees(t)
}

// parts are what the command makes, for a test with a gate of its own.
func (p *twins) parts(t *testing.T) (*worklist.List, *patch.Client) {
	t.Helper()
	text, err := os.ReadFile(p.servers[0].EncryptionFile)
	if err != nil {
		t.Fatal(err)
	}
	config, err := encryptionconfig.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := etcd.New(etcd.Options{Endpoints: []string{p.etcd.URL}})
	if err != nil {
		t.Fatal(err)
	}
	point, err := reader.Point(t.Context(), []string{audit.DefaultPrefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(point.Close)
	client, base, err := clientOf(p.servers[0])
	if err != nil {
		t.Fatal(err)
	}
	return &worklist.List{Reader: reader, Getter: point, Options: audit.Options{Config: config}}, patch.New(client, base)
}

// trusting believes that all API servers write alike.
type trusting struct{}

func (trusting) Judge(context.Context) (rewrite.Judgement, error) {
	return rewrite.Judgement{Converged: true}, nil
}

// writingBack has the API server that lags write everything before each list but the
// first.
type writingBack struct {
	of *worklist.List
	p  *twins
	t  *testing.T
	n  int
}

func (l *writingBack) Proves() bool { return true }

func (l *writingBack) Look(ctx context.Context, o rewrite.Object, revision int64, keys map[string]string) (rewrite.Sight, error) {
	return l.of.Look(ctx, o, revision, keys)
}

func (l *writingBack) List(ctx context.Context, keys map[string]string) (*rewrite.Work, error) {
	if l.n++; l.n > 1 {
		if err := l.p.servers[1].RewriteSecrets(ctx); err != nil {
			l.t.Error(err)
		}
	}
	return l.of.List(ctx, keys)
}

// underLoad kills two migrations, and lets a third go on. Then what refuses and hangs is
// removed, and nothing is left.
func (p *twins) underLoad(t *testing.T, names []string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stop := p.load(t, slices.Clone(names[:len(names)/3]))
	speed := strconv.Itoa(number(t, envRate, 5000))
	const byKMS = "k8s:enc:kms:v2:aws:"
	for _, signal := range []os.Signal{os.Kill, os.Kill, os.Interrupt} {
		var said spoken
		cmd := exec.CommandContext(t.Context(), exe, p.migrate("--rate", "60")...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := -1 // the load rewrites some too: it counts from where the migration begins
		err := cluster.Poll(t.Context(), 20*time.Millisecond, 5*time.Minute, nil, func(context.Context) error {
			n := p.under(t, byKMS) //nolint:contextcheck // the test's own bounds it
			if before < 0 && strings.Contains(said.String(), "Each is written as it is") {
				before = n
			}
			if before < 0 || n-before < len(names)/10 {
				return fmt.Errorf("%d Secrets, and %d in the beginning", n, before)
			}
			return nil
		})
		_ = cmd.Process.Signal(signal)
		_ = cmd.Wait()
		clean(t, said.String())
		if err != nil {
			t.Fatalf("%v\n%s", err, said.String())
		}
		if signal == os.Interrupt && (cmd.ProcessState.ExitCode() != cli.Failed || !strings.Contains(said.String(), "interrupted: ") || !strings.Contains(said.String(), "the next run goes on")) {
			t.Errorf("exit code %d after Ctrl-C\n%s", cmd.ProcessState.ExitCode(), said.String())
		}
	}
	if p.under(t, "k8s:enc:aescbc:v1:k1:") < len(names)/20 {
		t.Error("nothing is left for the third run")
	}
	r := p.run(t, cli.Found, "--rate", speed, "--workers", "8")
	stop()
	t.Log(r.Text)
	p.listsAll(t, r)
	p.kubectl(t, "", "delete", "validatingwebhookconfiguration/refuse", "validatingwebhookconfiguration/hang", "mutatingwebhookconfiguration/change",
		"mutatingwebhookconfiguration/data", "mutatingadmissionpolicy/policy.example.com", "mutatingadmissionpolicybinding/policy")
	r = p.run(t, cli.Done, "--rate", speed, "--workers", "8")
	t.Log(r.Text)
	if n := p.under(t, "k8s:enc:aescbc:v1:k1:"); n > 0 || r.Result != rewrite.Clean {
		t.Errorf("%d Secrets are under the local key: %s", n, r.Text)
	}
	p.agrees(t)
}

// spoken is what a program says, and can be read while it does.
type spoken struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *spoken) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// String returns what was said so far.
func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// listsAll: what is left and what was changed, by name.
func (p *twins) listsAll(t *testing.T, r *rewrite.Report) {
	t.Helper()
	left := map[string]string{}
	for _, l := range r.Left {
		left[strings.TrimPrefix(l.Path, "/registry/secrets/default/")] = l.Cause
	}
	want := map[string]string{}
	for i := range 4 {
		want[fmt.Sprintf("refuse-%d", i)] = "webhook refuse.example.com refuses it"
	}
	for i := range 2 {
		want[fmt.Sprintf("hang-%d", i)] = "webhook hang.example.com does not answer"
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if want := fmt.Sprintf("; %d need you", len(want)); !strings.Contains(r.Text, want) {
		t.Errorf("%q lacks %q", r.Text, want)
	}
	// Killed runs have changed some, and listed them nowhere: the rest is listed.
	for _, c := range r.Changed {
		name := strings.TrimPrefix(c.Path, "/registry/secrets/default/")
		if kind, _, _ := strings.Cut(name, "-"); !slices.Contains([]string{"change", "data", "policy"}, kind) {
			t.Errorf("%s is listed as changed: %+v", name, c)
		}
	}
	wantMutating := []string{
		"webhook change.example.com of mutatingwebhookconfiguration change, asked about secrets",
		"webhook data.example.com of mutatingwebhookconfiguration data, asked about secrets",
		"mutatingadmissionpolicy policy.example.com, asked about secrets",
	}
	if diff := cmp.Diff(rewrite.AdmissionReport{Known: true, Mutating: wantMutating}, r.Admission); diff != "" {
		t.Errorf("admission (-want +got):\n%s", diff)
	}
}

// toAnotherKey restarts the plugin with another key on top. Until both API servers have
// seen that, nothing is sent.
func (p *twins) toAnotherKey(t *testing.T) {
	t.Helper()
	p.webhooks(t, "second")
	p.kubectl(t, "", "delete", "validatingwebhookconfiguration/refuse", "validatingwebhookconfiguration/hang")
	p.startPlugin("--key="+p.new, "--decrypt-key="+p.old)
	var changed []string
	err := cluster.Poll(t.Context(), time.Second, 5*time.Minute, nil, func(context.Context) error {
		code, out, errs := command(t, p.migrate("-o", "json", "--rate", "5000", "--workers", "8")...) //nolint:contextcheck // the test's own bounds it
		clean(t, out+errs)
		var r rewrite.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return fmt.Errorf("exit code %d: %w: %s", code, err, errs)
		}
		for _, c := range r.Changed {
			changed = append(changed, strings.TrimPrefix(c.Path, "/registry/secrets/default/"))
		}
		if r.Result == rewrite.Clean && code == cli.Done && r.Rewritten > 0 {
			t.Log(r.Text)
			return nil
		}
		return fmt.Errorf("exit code %d: %s", code, r.Text)
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(changed)
	want := []string{"change-0", "change-1", "change-2", "data-0", "data-1", "policy-0", "policy-1"}
	if diff := cmp.Diff(want, changed); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	p.kubectl(t, "", "delete", "mutatingwebhookconfiguration/change", "mutatingwebhookconfiguration/data", "mutatingadmissionpolicy/policy.example.com", "mutatingadmissionpolicybinding/policy")
	p.agrees(t)
	code, out, _ := command(t, "audit", "--endpoints", p.etcd.URL, "--resources", "secrets", "--expect-only", p.new)
	if code == cli.Found {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// everyKind are objects of resources that etcd has elsewhere than the API does, and others.
const everyKind = `
{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
{"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"}}
{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}
{"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}}}
{"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "a"}, "spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}}
{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}}}
{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "involvedObject": {"namespace": "default"}, "message": "PLANTED-5d1c"}
{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "a:b"}, "rules": []}
{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "annotations": {"a": "PLANTED-5d1c"}}, "stringData": {"value": "PLANTED-5d1c"}}
{"apiVersion": "example.com/v1", "kind": "Panda", "metadata": {"name": "a"}, "spec": "PLANTED-5d1c"}
`

// TestMigrateEveryResource: by a wildcard, everything that a cluster stores is rewritten,
// wherever etcd has it; and what is orphaned is listed.
func TestMigrateEveryResource(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	bin, err := cluster.BuildServers(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := cluster.BuildClients(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	config := func(providers ...string) string {
		return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['*.*']\n  providers:\n" + strings.Join(providers, "")
	}
	const plain = "  - identity: {}\n"
	api, err := cluster.NewHostOf(bin).APIServer(t.Context(), cluster.APIServerConfig{
		Dir: t.TempDir(), Etcd: e.URL, Encryption: config(plain, localKey), AutomaticReload: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Kill() })
	p := &twins{t: t, etcd: e, servers: [2]*cluster.APIServer{api, api}, clients: clients, kubeconfig: api.Kubeconfig}
	p.kubectl(t, pandas, "create", "-f", "-")
	p.kubectl(t, "", "wait", "--for=condition=Established", "crd/pandas.example.com", "--timeout=2m")
	p.kubectl(t, everyKind, "create", "-f", "-")
	p.restart(t, config(localKey, plain), api)
	e.Put("/registry/extinct.example.com/dodos/default/a", `{"kind": "Dodo"}`)

	r := p.run(t, cli.Found, "--rate", "5000")
	if len(r.Left) != 1 || r.Left[0].Path != "/registry/extinct.example.com/dodos/default/a" || r.Left[0].Outcome != rewrite.OutcomeOrphaned {
		t.Errorf("left: %+v", r.Left)
	}
	for _, name := range []string{"services", "endpoints", "nodes", "replicationcontrollers", "ingresses.networking.k8s.io", "pandas.example.com", "customresourcedefinitions.apiextensions.k8s.io", "events"} {
		if !slices.ContainsFunc(r.Plan, func(row rewrite.PlanRow) bool { return row.Resource == name && row.Objects > 0 && row.Orphaned == "" }) {
			t.Errorf("%s was not rewritten: %+v", name, r.Plan)
		}
	}
	e.Delete("/registry/extinct.example.com/dodos/default/a")
	p.run(t, cli.Done, "--rate", "5000")
	values, err := e.Values(t.Context(), "/registry/")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range values {
		_, object := (audit.Options{}).Item(store.KeyValue{Key: []byte(key), Value: []byte(value)})
		if object && !strings.HasPrefix(string(value), "k8s:enc:aescbc:v1:k1:") {
			t.Errorf("%s is in the clear", key)
		}
	}
	p.withoutEtcd(t)
}

// withoutEtcd: from a workstation everything is sent, and nothing is proved.
func (p *twins) withoutEtcd(t *testing.T) {
	t.Helper()
	code, out, errs := command(t, "migrate", "--without-etcd", "--encryption-config", p.servers[0].EncryptionFile, "--kubeconfig", p.kubeconfig,
		"--apiserver", p.servers[0].URL(), "--rate", "5000", "-o", "json")
	clean(t, out+errs)
	var r rewrite.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	if code != cli.Failed || r.Result != rewrite.NotProved || r.Rewritten > 0 || r.LeftCount > 0 || r.Fresh < 50 {
		t.Errorf("exit code %d: %s\n%+v", code, r.Text, r.Left)
	}
}
