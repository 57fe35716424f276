package docs_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
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
	setup string            // what has happened before, in the blocks' shell
	proof string            // fails in that shell unless the blocks did what they are for

	cluster cluster
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
		"docs/health.md":    {cluster: encrypted},
		"docs/k3s.md":       {cluster: encrypted},
		"docs/kms-down.md":  {cluster: encrypted},
		"docs/kops.md":      {cluster: encrypted},
		"docs/kubeadm.md":   {cluster: encrypted},
		"docs/kubespray.md": {cluster: encrypted},
		"docs/backup.md": {
			kms: true, cluster: restored, setup: "NAME=default PEER=http://127.0.0.1:2380",
			proof: "test -d $ETCD_DATA.before\n" +
				"test $(kubectl get secret given -o jsonpath={.data.password} | base64 -d) = s3cret\n",
		},
		"docs/migration.md": {
			kms: true, cluster: plain, setup: ownKey,
			proof: "test $(kubectl get secret old -o jsonpath={.data.password} | base64 -d) = s3cret\n" +
				"test $(grep -ac k8s:enc:aescbc: before.db) -ge 1\n" +
				"test $(grep -ac k8s:enc:aescbc: after.db || true) = 0\n" +
				"test $(grep -ac k8s:enc:kms:v2: after.db) -ge 1\n",
		},
		"docs/quick-start.md": {
			kms: true, cluster: plain, setup: "SOCKET=$PWD/socket.sock",
			proof: "etcdctl get /registry/secrets/default/first --print-value-only > stored\n" +
				"test $(grep -ac ^k8s:enc:kms:v2: stored) = 1\n" +
				"test $(grep -ac s3cret stored || true) = 0\n" +
				"test $(kubectl get secret first -o jsonpath={.data.password} | base64 -d) = s3cret\n",
		},
		"docs/rotation.md": {cluster: encrypted},
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

// ownKey is a cluster that encrypts with a key in its file, and the program beside
// it.
const ownKey = `SOCKET=$PWD/socket.sock
SERVERS=$(kubectl config view -o 'jsonpath={.clusters[0].cluster.server}' | sed s,https://,,)
KEY_ARN=$(aws kms create-key --region us-west-2 --query KeyMetadata.Arn --output text)
aws-encryption-provider --key=$KEY_ARN --listen=$SOCKET --health-port=$HEALTH >provider.log 2>&1 &
cat >$ENCRYPTION <<'FILE'
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: old, secret: c2VjcmV0IGlzIHNlY3VyZSwgb3IgaXMgaXQ/ICAgICA=}]}
  - identity: {}
FILE
mv $MANIFESTS/kube-apiserver.yaml .
while kubectl get --raw /livez; do sleep 0.2; done
mv kube-apiserver.yaml $MANIFESTS/
until kubectl get --raw /readyz; do sleep 0.2; done
kubectl create secret generic old --from-literal=password=s3cret
`

// aSecret is in a cluster that encrypts, whose documents count what they find.
const aSecret = "kubectl get secret given >/dev/null || kubectl create secret generic given --from-literal=password=s3cret\n"

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
	programs := t.TempDir()
	build(t, root, filepath.Join(programs, "aws-encryption-provider"), "./cmd/aws-encryption-provider")
	build(t, ".", filepath.Join(programs, "aws"), "./cmd/aws")
	build(t, filepath.Join(root, "cmd/kubectl-kms"), filepath.Join(programs, "kubectl-kms"), ".")
	shared := sync.OnceValue(func() []string {
		return startCluster(t, programs, "--kms="+startKMS(t, programs), "--key=alias/K8sKMSKey")
	})
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
		t.Run(name, func(t *testing.T) {
			given := fixtures()[name]
			if given.cluster == plain || given.cluster == restored {
				t.Parallel() // these mostly wait for the API server
			}
			dir := t.TempDir()
			for file, from := range given.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(read(t, filepath.Join(root, from))), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			env := []string{"PATH=" + programs + ":/usr/bin:/bin", "HOME=" + dir, "EDITOR=true", "LC_ALL=C"}
			kms := ""
			if given.kms {
				kms = startKMS(t, programs)
				env = append(env, "AWS_ENDPOINT_URL_KMS="+kms,
					"AWS_ENDPOINT_URL_STS=http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED=true", "AWS_ACCESS_KEY_ID=docs", "AWS_SECRET_ACCESS_KEY=docs")
			}
			switch given.cluster {
			case none:
			case plain:
				env = append(env, startCluster(t, programs)...)
			case restored:
				env = append(env, startCluster(t, programs, "--kms="+kms, "--key=alias/K8sKMSKey")...)
				given.setup = aSecret + given.setup
			case encrypted:
				env = append(env, shared()...)
				given.setup = aSecret + given.setup
			}
			failed, output := runBlocks(t.Context(), given, runnable, dir, env)
			if failed == nil {
				t.Log(output) // what the docs show was taken from here
			} else {
				t.Errorf("%s:%d: this block fails. Mend it, or list it in test/docs/cannot-run.txt with a reason, as\n%s\n\n%s\n%s",
					name, failed.line, failed.key, failed.text, output)
			}
		})
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

// runBlocks runs blocks in one shell and returns the one that failed, or did not
// end, with all that was printed.
func runBlocks(ctx context.Context, given fixture, run []block, dir string, env []string) (failed *block, output string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var script strings.Builder
	script.WriteString("set -euo pipefail\ntrap 'for job in $(jobs -p); do kill $job || true; done' EXIT\nPATH=${PROGRAMS:-}:$PATH\n" + given.setup + "\n")
	ended := filepath.Join(dir, ".ended")
	for i, b := range run {
		fmt.Fprintf(&script, "%s\necho %d >> %q\n", b.text, i, ended)
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
	text := "```bash\nfor x in 1; do\n  echo a\ndone\n```\n```yaml\nb: c\n```\n1. d\n\n   ```bash\n   for x in 1; do\n     echo e\n   done\n   ```\n"
	got := blocks("f.md", text)
	want := []block{
		{key: "f.md: for x in 1; do", line: 1, text: "for x in 1; do\n  echo a\ndone\n"},
		{key: "f.md: for x in 1; do (2)", line: 11, text: "for x in 1; do\n  echo e\ndone\n"},
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
		failed, output := runBlocks(t.Context(), fixture{}, run, t.TempDir(), []string{"PATH=/usr/bin:/bin"})
		if failed == nil || failed.key != "second" {
			t.Errorf("%s: failed is %+v; output %q", name, failed, output)
		}
	}
	run := []block{{key: "first", text: "X=seen\n"}, {key: "second", text: "echo $X\n"}}
	if failed, output := runBlocks(t.Context(), fixture{}, run, t.TempDir(), []string{"PATH=/usr/bin:/bin"}); failed != nil || output != "seen\n" {
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

// startCluster runs a cluster until the test's end, and returns the environment
// of its users.
func startCluster(t *testing.T, programs string, args ...string) (env []string) {
	t.Helper()
	program := filepath.Join(programs, "cluster")
	if _, err := os.Stat(program); err != nil {
		build(t, filepath.Join(root, "test/e2e"), program, "./cmd/cluster")
	}
	cmd := exec.Command(program, args...) //nolint:noctx // start ends it
	cmd.Env = append(os.Environ(), "PLUGIN="+filepath.Join(programs, "aws-encryption-provider"))
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
