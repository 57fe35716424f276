package docs_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fixture is what a document takes for given.
type fixture struct {
	files map[string]string // of the checkout, by their name where the blocks run
	kms   bool              // an emulated KMS, and a stand-in for the AWS CLI
	role  bool              // the machine has a role, as an instance does
	setup string            // what has happened before, in the blocks' shell
	proof string            // fails in that shell unless the blocks did what they are for

	cluster cluster
	nodes   string // flags of the cluster command, for a cluster of several nodes
	// elsewhere are flags of the cluster command for a second cluster, whose plugin writes
	// with another key of the same KMS. elsewhere.sh, in $HOME, is its environment.
	elsewhere string

	// walks are ways through sections of the document, from the first command to the last,
	// each in a shell of its own. What stands in none of them runs as the rest does.
	walks map[string]walk
}

// A walk follows a guide from its first command to its last.
type walk struct {
	fixture

	sections []string          // whose blocks it runs, in the document's order
	before   map[string]string // a block's first line → what has happened since the block before it
}

// A cluster is a real kube-apiserver over a real etcd, with kubectl and etcd's
// tools for them. $ENCRYPTION is the file that the API server reads, again where
// it changes; $MANIFESTS has a file of each, which runs while the file is there.
type cluster int

const (
	none      cluster = iota
	plain             // its Secrets lie in the clear
	encrypted         // they do not; the documents that only look at it share it
	restored          // the same, of the document's own KMS, for one that changes it
	several           // two nodes, which share nothing but etcd and a KMS of their own
)

func fixtures() map[string]fixture {
	return map[string]fixture{
		"README.md": {
			kms: true, cluster: encrypted,
			proof: "for file in identity-policy.json config.yaml aws-encryption-provider.yaml encryption-config-2-writers.yaml; do test -s generated/$file; done\n",
		},
		"docs/configuration.md": {files: map[string]string{"config.yaml": "deploy/examples/full.yaml"}},
		"docs/aggregated.md":    {cluster: encrypted},
		"docs/iam.md": {
			kms: true,
			proof: "aws kms get-key-policy --region us-west-2 --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --policy-name default " +
				"--query Policy --output text | diff -B - policies/key-policy-us-west-2-1234abcd-12ab-34cd-56ef-1234567890ab.json\n" +
				"grep -q key-default-1 key-policy-before.json\n",
		},
		"docs/health.md":      {cluster: encrypted},
		"docs/k3s.md":         {cluster: encrypted},
		"docs/kms-down.md":    {cluster: encrypted},
		"docs/kops.md":        {cluster: encrypted},
		"docs/kubeadm.md":     {cluster: encrypted},
		"docs/kubectl-kms.md": {cluster: encrypted},
		"docs/kubespray.md":   {cluster: encrypted},
		"docs/backup.md": {walks: map[string]walk{"from a snapshot to another machine": {
			sections: []string{"Backups, and what to protect together"},
			before:   map[string]string{"MANIFESTS=${MANIFESTS:-/etc/kubernetes/manifests}": ". $HOME/elsewhere.sh\n"},
			fixture: fixture{
				kms: true, cluster: restored, elsewhere: "--host=elsewhere",
				setup: "NAME=default PEER=http://127.0.0.1:2380 HERE=elsewhere",
				proof: "test $ETCD_DATA != $FIRST_ETCD_DATA && test -d $ETCD_DATA.before\n" +
					"test $(kubectl get secret given -o jsonpath={.data.password} | base64 -d) = s3cret\n",
			},
		}}},
		"docs/migration.md": {
			cluster: several, nodes: "--key=new --writes=aescbc --restart", setup: twoNodes + "KEY_ARN=$OLD\n",
			proof: cold +
				"test $(grep -ac k8s:enc:aescbc: before.db) -ge 1\n" +
				"test $(grep -ac k8s:enc:aescbc: after.db || true) = 0\n" +
				"test $(grep -ac k8s:enc:kms:v2: after.db) -ge 1\n",
		},
		"docs/quick-start.md": {
			kms: true, role: true, cluster: plain, setup: "SOCKET=$PWD/socket.sock",
			proof: "aws-encryption-provider doctor --config=config.yaml | grep 'found: EC2RoleProvider, '\n" +
				"etcdctl get /registry/secrets/default/first --print-value-only > stored\n" +
				"test $(grep -ac ^k8s:enc:kms:v2: stored) = 1\n" +
				"test $(grep -ac s3cret stored || true) = 0\n" +
				"test $(kubectl get secret first -o jsonpath={.data.password} | base64 -d) = s3cret\n",
		},
		"docs/rotation.md": {cluster: encrypted, walks: rotations()},
		"docs/setup.md": {
			kms:     true,
			setup:   "aws kms delete-alias --region us-west-2 --alias-name alias/K8sKMSKey # the emulator's own",
			cluster: encrypted,
		},
		"docs/upgrade.md": {cluster: encrypted},
		"docs/key-trouble.md": {
			kms: true,
			setup: "KEY_ARN=$(aws kms create-key --region us-west-2 --query KeyMetadata.Arn --output text)\n" +
				"aws kms schedule-key-deletion --region us-west-2 --key-id $KEY_ARN",
		},
	}
}

// aSecret is in a cluster that encrypts, whose documents count what they find.
const aSecret = "kubectl get secret given >/dev/null || kubectl create secret generic given --from-literal=password=s3cret\n"

// twoNodes begins on the first of two, with a Secret that was written before.
const twoNodes = "cd $NODE\nkubectl create secret generic old --from-literal=password=s3cret\n"

// cold restarts each API server of two, and reads through it what was written before.
const cold = `for server in $SERVERS; do
  kubectl --server=https://$server get secret old -o jsonpath={.data.password} | base64 -d | grep -x s3cret
done
for node in $NODES; do mv ../$node/manifests/kube-apiserver.yaml ../$node; done
for server in $SERVERS; do while kubectl --server=https://$server get --raw /livez/ping; do sleep 0.2; done; done
for node in $NODES; do mv ../$node/kube-apiserver.yaml ../$node/manifests; done
for server in $SERVERS; do
  until kubectl --server=https://$server get --raw /readyz; do sleep 0.2; done
  test $(kubectl --server=https://$server get secret old -o jsonpath={.data.password} | base64 -d) = s3cret
  kubectl --server=https://$server get secrets --all-namespaces -o name
done
`

// tenMinutes is what API servers do to etcd in ten.
const tenMinutes = "etcdctl compact $(etcdctl endpoint status --write-out=fields | awk -F' : ' '$1 == \"\\\"Revision\\\"\" { print $2; exit }')\n"

// rotations are the ways through docs/rotation.md.
func rotations() map[string]walk {
	const needs = "What the commands need"
	return map[string]walk{
		"a new key": {
			sections: []string{needs, "What to look at", "A new key", "When an old key may go"},
			before:   map[string]string{"etcdctl snapshot save after.db": tenMinutes},
			fixture: fixture{
				cluster: several, nodes: "--key=new", setup: twoNodes,
				proof: "touch $MONTH; while test -e $MONTH; do sleep 0.2; done\n" +
					"! aws kms describe-key --region us-west-2 --key-id $OLD\n" + cold,
			},
		},
		"v1 to v2": {
			sections: []string{needs, "The way out of v1"},
			fixture: fixture{
				cluster: several, nodes: "--key=new --writes=v1 --restart", setup: twoNodes,
				proof: "! grep aws-v1 $ENCRYPTION ../cp-2/$ENCRYPTION\n" + cold,
			},
		},
	}
}

// patience is a bound on a document whose block hangs. An API server looks at its
// EncryptionConfiguration once a minute.
const patience = 8 * time.Minute

// TestBashBlocksRun: every bash block of README, CONTRIBUTING and docs runs as it
// stands, or stands in cannot-run.txt with a reason. The blocks of one document
// run in one shell, in their order.
func TestBashBlocksRun(t *testing.T) {
	reasons, err := readReasons(read(t, "cannot-run.txt"))
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t)
	ran, exist := 0, map[string]bool{}
	all := documents(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name != "README.md" && name != "CONTRIBUTING.md" && !strings.HasPrefix(name, "docs/") {
			continue
		}
		var runnable []block
		for _, b := range blocks(name, all[name]) {
			exist[b.key] = true
			if reasons[b.key] == "" {
				runnable = append(runnable, b)
			}
		}
		if len(runnable) == 0 {
			continue
		}
		ran += len(runnable)
		given, rest := fixtures()[name], runnable
		for _, way := range slices.Sorted(maps.Keys(given.walks)) {
			w := given.walks[way]
			path := in(runnable, w.sections)
			rest = slices.DeleteFunc(slices.Clone(rest), func(b block) bool { return slices.Contains(path, b) })
			t.Run(name+"/"+way, func(t *testing.T) { m.follow(t, name, w, path) })
		}
		if len(rest) > 0 {
			t.Run(name, func(t *testing.T) { m.follow(t, name, walk{fixture: given}, rest) })
		}
	}
	for key := range reasons {
		if !exist[key] {
			t.Errorf("cannot-run.txt lists a block that is not there: %s", key)
		}
	}
	if ran == 0 {
		t.Error("no block ran: the test is wrong")
	}
	t.Logf("%d blocks ran, %d cannot run here", ran, len(reasons))
}

// in are the blocks of these sections.
func in(all []block, sections []string) (found []block) {
	for _, b := range all {
		if slices.ContainsFunc(sections, b.in) {
			found = append(found, b)
		}
	}
	return found
}

// A machine has what the blocks of documents take for given.
type machine struct {
	programs string          // directory
	cluster  func()          // builds the program cluster, once
	shared   func() []string // environment of the cluster that documents share which only look at it
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{programs: t.TempDir()}
	build(t, root, filepath.Join(m.programs, "aws-encryption-provider"), "./cmd/aws-encryption-provider")
	build(t, ".", filepath.Join(m.programs, "aws"), "./cmd/aws")
	build(t, filepath.Join(root, "cmd/kubectl-kms"), filepath.Join(m.programs, "kubectl-kms"), ".")
	m.cluster = sync.OnceFunc(func() {
		build(t, filepath.Join(root, "test/e2e"), filepath.Join(m.programs, "cluster"), "./cmd/cluster")
	})
	m.shared = sync.OnceValue(func() []string {
		return m.startCluster(t, "--kms="+startKMS(t, m.programs), "--key="+devKey)
	})
	return m
}

// devKey is that of the emulator that "dev" begins with.
const devKey = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// follow runs the blocks of a document in one shell.
func (m *machine) follow(t *testing.T, name string, w walk, run []block) {
	t.Helper()
	if len(run) == 0 {
		t.Fatal("no block: the test is wrong")
	}
	for first := range w.before {
		if !slices.ContainsFunc(run, func(b block) bool { return strings.HasPrefix(b.text, first+"\n") }) {
			t.Errorf("%s has no such block: %s", name, first)
		}
	}
	given := w.fixture
	if given.cluster == plain || given.cluster >= restored {
		t.Parallel() // these mostly wait for the API server
	}
	dir := t.TempDir()
	for file, from := range given.files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(read(t, filepath.Join(root, from))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := append(m.env(t, &given, dir), "PATH="+m.programs+":/usr/bin:/bin", "HOME="+dir, "EDITOR=true", "LC_ALL=C")
	failed, output := runBlocks(t.Context(), given, w.before, run, dir, env)
	if failed == nil {
		t.Log(output) // what the docs show was taken from here
	} else {
		t.Errorf("%s:%d: this block fails. Mend it, or list it in test/docs/cannot-run.txt with a reason, as\n%s\n\n%s\n%s",
			name, failed.line, failed.key, failed.text, output)
	}
}

// env starts what a fixture names, and returns the environment of its users.
func (m *machine) env(t *testing.T, given *fixture, home string) (env []string) {
	t.Helper()
	kms := ""
	if given.kms {
		kms = startKMS(t, m.programs)
		env = append(env, "AWS_ENDPOINT_URL_KMS="+kms,
			"AWS_ENDPOINT_URL_STS=http://127.0.0.1:9", "AWS_ACCESS_KEY_ID=docs", "AWS_SECRET_ACCESS_KEY=docs")
	}
	if given.role {
		env = append(env, "AWS_EC2_METADATA_SERVICE_ENDPOINT="+startInstance(t))
	} else {
		env = append(env, "AWS_EC2_METADATA_DISABLED=true")
	}
	switch given.cluster {
	case none:
	case plain:
		env = append(env, m.startCluster(t)...)
	case restored:
		env = append(env, m.startCluster(t, "--kms="+kms, "--key="+devKey)...)
		given.setup = aSecret + given.setup
		if given.elsewhere != "" {
			m.elsewhere(t, home, env, "--kms="+kms, given.elsewhere)
		}
	case encrypted:
		env = append(env, m.shared()...)
		given.setup = aSecret + given.setup
	case several:
		env = append(env, m.startCluster(t, append(strings.Fields(given.nodes), "--nodes=2")...)...)
	}
	return env
}

// elsewhere starts a second cluster, whose plugin writes with a key of its own and reads with
// the first one's, and writes the environment of its users into a file.
func (m *machine) elsewhere(t *testing.T, home string, first []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(m.programs, "aws"),
		"kms", "create-key", "--region", "us-west-2", "--query", "KeyMetadata.Arn", "--output", "text")
	cmd.Env = first
	key, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	script := "FIRST_ETCD_DATA=$ETCD_DATA\n"
	for _, line := range m.startCluster(t, append(args, "--key="+strings.TrimSpace(string(key))+","+devKey)...) {
		name, value, _ := strings.Cut(line, "=")
		script += fmt.Sprintf("export %s=%q\n", name, value)
	}
	if err := os.WriteFile(filepath.Join(home, "elsewhere.sh"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
}

// runBlocks runs blocks in one shell and returns the one that failed, or did not
// end, with all that was printed.
func runBlocks(ctx context.Context, given fixture, before map[string]string, run []block, dir string, env []string) (failed *block, output string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var script strings.Builder
	script.WriteString("set -euo pipefail\ntrap 'for job in $(jobs -p); do kill $job || true; done' EXIT\nPATH=${PROGRAMS:-}:$PATH\n" + given.setup + "\n")
	ended := filepath.Join(dir, ".ended")
	for i, b := range run {
		first, _, _ := strings.Cut(b.text, "\n")
		fmt.Fprintf(&script, "%s%s\necho %d >> %q\n", before[first], b.text, i, ended)
	}
	if given.proof != "" {
		script.WriteString("set -x\n" + given.proof)
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	data, _ := os.ReadFile(ended) // no file: no block ended
	if n := bytes.Count(data, []byte("\n")); err != nil || n != len(run) {
		return &run[min(n, len(run)-1)], fmt.Sprintf("%s%v", out.String(), err)
	}
	return nil, out.String()
}

// readReasons reads cannot-run.txt: a reason in brackets, then the blocks that it
// keeps from running.
func readReasons(text string) (map[string]string, error) {
	found, reason, n := map[string]string{}, "", 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			reason = strings.Trim(line, "[] ")
		case reason == "":
			return nil, fmt.Errorf("cannot-run.txt:%d: a block without a reason: %s", n, line)
		case found[line] != "":
			return nil, fmt.Errorf("cannot-run.txt:%d: listed twice: %s", n, line)
		default:
			found[line] = reason
		}
	}
	return found, nil
}

func TestBlocksAreReadInOrderAndOutOfLists(t *testing.T) {
	text := "# A\n## B\n```bash\nfor x in 1; do\n  echo a\ndone\n```\n## C\n```yaml\nb: c\n```\n1. d\n\n   ```bash\n   for x in 1; do\n     echo e\n   done\n   ```\n"
	got := blocks("f.md", text)
	want := []block{
		{key: "f.md: for x in 1; do", line: 3, text: "for x in 1; do\n  echo a\ndone\n", within: "A\nB"},
		{key: "f.md: for x in 1; do (2)", line: 14, text: "for x in 1; do\n  echo e\ndone\n", within: "A\nC"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestBlockThatFailsIsNamed(t *testing.T) {
	for name, second := range map[string]string{
		"fails":                "cat no-such-file\n",
		"fails within a pipe":  "cat no-such-file | sort\n",
		"names nothing":        "echo $NO_SUCH_VARIABLE\n",
		"ends the shell early": "exit 0\n",
	} {
		run := []block{{key: "first", text: "X=1\n"}, {key: "second", text: second}, {key: "third", text: "echo $X\n"}}
		failed, output := runBlocks(t.Context(), fixture{}, nil, run, t.TempDir(), []string{"PATH=/usr/bin:/bin"})
		if failed == nil || failed.key != "second" {
			t.Errorf("%s: failed is %+v; output %q", name, failed, output)
		}
	}
	run := []block{{key: "first", text: "X=seen\n"}, {key: "second", text: "echo $X\n"}}
	if failed, output := runBlocks(t.Context(), fixture{}, nil, run, t.TempDir(), []string{"PATH=/usr/bin:/bin"}); failed != nil || output != "seen\n" {
		t.Errorf("one shell for a document: failed is %+v; output %q", failed, output)
	}
}

func TestBlockListedWithoutReasonOrTwiceIsRefused(t *testing.T) {
	for _, text := range []string{"a.md: b\n", "[c]\na.md: b\na.md: b\n"} {
		if found, err := readReasons(text); err == nil {
			t.Errorf("%q is taken: %v", text, found)
		}
	}
}

// startKMS runs the program over its emulated KMS until the test's end, and
// returns KMS's address.
func startKMS(t *testing.T, programs string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs, "aws-encryption-provider"), "dev", "--dir="+t.TempDir()) //nolint:noctx // start ends it
	address := ""
	start(t, cmd, func(line string) bool {
		words := strings.Fields(line)
		if len(words) == 2 && words[0] == "KMS" {
			address = words[1]
		}
		return address != ""
	})
	return address
}

// startInstance serves the metadata of an instance with a role until the test's end, and
// returns its address.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
func startInstance(t *testing.T) string {
	t.Helper()
	const roles = "/latest/meta-data/iam/security-credentials/"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			fmt.Fprint(w, "token")
		case roles:
			fmt.Fprint(w, "control-plane")
		case roles + "control-plane":
			fmt.Fprintf(w, `{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": "docs", "Token": "docs", "LastUpdated": %q, "Expiration": %q}`,
				time.Now().UTC().Format(time.RFC3339), time.Now().Add(6*time.Hour).UTC().Format(time.RFC3339))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// startCluster runs a cluster until the test's end, and returns the environment
// of its users.
func (m *machine) startCluster(t *testing.T, args ...string) (env []string) {
	t.Helper()
	m.cluster()
	cmd := exec.Command(filepath.Join(m.programs, "cluster"), args...) //nolint:noctx // start ends it
	cmd.Env = append(os.Environ(), "PLUGIN="+filepath.Join(m.programs, "aws-encryption-provider"))
	start(t, cmd, func(line string) bool {
		env = append(env, line)
		return line == "ready"
	})
	return env[:len(env)-1]
}

// start runs a command until the test's end, and waits for a line of its output.
func start(t *testing.T, cmd *exec.Cmd, ready func(line string) bool) {
	t.Helper()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if ready(lines.Text()) {
			return
		}
	}
	_ = cmd.Wait()
	t.Fatalf("%s ended before it was ready: %s", filepath.Base(cmd.Path), &errs)
}

// build builds a command of the module in dir.
func build(t *testing.T, dir, path, command string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-o", path, command)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
