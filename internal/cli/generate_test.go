package cli_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/generate"
)

// TestGenerates compares what is written with testdata/generate. A folder there
// is a case: flags has a flag a line, and the folders in it are the kinds that
// are generated. present.yaml and config.yaml are for --from and --config. The
// module test/manifests decodes all these files with other projects' own types.
func TestGenerates(t *testing.T) {
	cases, err := filepath.Glob("testdata/generate/*/flags")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	seen := map[string]bool{}
	for _, file := range cases {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			flags := strings.Split(strings.TrimSpace(string(text)), "\n")
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, kind := range entries {
				if !kind.IsDir() {
					continue
				}
				seen[kind.Name()] = true
				t.Run(kind.Name(), func(t *testing.T) {
					golden := filepath.Join(dir, kind.Name())
					got := generated(t, dir, kind.Name(), flags)
					if *update {
						writeTree(t, golden, got)
					}
					if diff := cmp.Diff(tree(t, golden), got); diff != "" {
						t.Errorf("%s: -want +got\n%s", golden, diff)
					}
					if again := generated(t, dir, kind.Name(), flags); !maps.Equal(again, got) {
						t.Errorf("%s: two runs differ", golden)
					}
				})
			}
		})
	}
	for _, k := range generate.Kinds() {
		if !seen[k.Name] {
			t.Errorf("no case has a folder for %s", k.Name)
		}
	}
}

// generated runs the command in a case's folder and returns the files by name.
func generated(t *testing.T, dir, kind string, flags []string) map[string]string {
	t.Helper()
	out := t.TempDir()
	args := []string{"generate", kind, "--out", out}
	for _, flag := range flags {
		args = append(args, strings.ReplaceAll(flag, "$DIR", dir))
	}
	stdout, stderr, code := run(t, args...)
	if code != cli.Done || stderr != "" {
		t.Fatalf("%q: exit %d, %s", args, code, stderr)
	}
	files := tree(t, out)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		names = append(names, filepath.Join(out, name)+"\n")
	}
	if stdout != strings.Join(names, "") {
		t.Errorf("%q printed %q, want the files' names %q", args, stdout, names)
	}
	return files
}

func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Main(t.Context(), args, cli.Streams{Out: &out, Err: &errs, LookupEnv: func(string) (string, bool) { return "", false }})
	return out.String(), errs.String(), code
}

// tree returns the files of a folder by their relative names.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, name)
		files[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(files) == 0 {
		t.Fatalf("nothing for %s", dir)
	}
}

// exampleKey is that of the README.
const exampleKey = "--key=arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// TestGenerateKeepsFiles: what is there is written over on demand only, and then
// as a whole; a file that may have keys in it is root's alone.
func TestGenerateKeepsFiles(t *testing.T) {
	dir := t.TempDir()
	first := filepath.Join(dir, "encryption-config-1-readers.yaml")
	second := filepath.Join(dir, "encryption-config-2-writers.yaml")
	if err := os.WriteFile(second, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"generate", "encryption-config", exampleKey, "--out", dir}
	_, stderr, code := run(t, args...)
	if want := second + " is there already: --force writes over it"; code != cli.Failed || !strings.Contains(stderr, want) {
		t.Errorf("exit %d, %q, want 1 and %q", code, stderr, want)
	}
	if _, err := os.Lstat(first); err == nil {
		t.Errorf("%s was written although the other one was there", first)
	}
	if err := os.Chmod(second, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := run(t, append(args, "--force")...); code != cli.Done {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	for _, name := range []string{first, second} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 || info.Size() < 100 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if files := tree(t, dir); len(files) != 2 {
		t.Errorf("left behind: %q", slices.Sorted(maps.Keys(files)))
	}
}

// TestStaticPodManifest: what deploy/manifests shows is what is generated.
func TestStaticPodManifest(t *testing.T) {
	for kind, names := range map[string]map[string]string{
		"static-pod": {"aws-encryption-provider.yaml": "static-pod.yaml", "config.yaml": "config.yaml"},
		"sidecar": {
			"hosted-control-plane-sidecar.yaml":   "hosted-control-plane-sidecar.yaml",
			"hosted-control-plane-configmap.yaml": "hosted-control-plane-configmap.yaml",
		},
	} {
		got := generated(t, ".", kind, []string{
			exampleKey, "--region=us-west-2", "--listen=/var/run/kmsplugin/socket.sock",
			"--image=111122223333.dkr.ecr.us-west-2.amazonaws.com/aws-encryption-provider:v1.2.3",
		})
		if len(got) != len(names) {
			t.Errorf("%s: %q, want %q", kind, slices.Sorted(maps.Keys(got)), names)
		}
		for from, name := range names {
			path := filepath.Join("..", "..", "deploy", "manifests", name)
			if *update {
				if err := os.WriteFile(path, []byte(got[from]), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got[from]); diff != "" {
				t.Errorf("%s is not what generate %s writes (go test ./internal/cli -update):\n%s", path, kind, diff)
			}
		}
	}
}

// loaded is the configuration of a command line, as the program takes it.
func loaded(t *testing.T, args ...string) *config.Config {
	t.Helper()
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse(args, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return cfg
}

// TestGeneratedFileSaysWhatTheFlagsSay: the file goes into the pod, the unit or the
// ConfigMap, and what starts is what the flags would have started. Only the address
// of health is another one on a host's network, where nobody chose one.
func TestGeneratedFileSaysWhatTheFlagsSay(t *testing.T) {
	for name, flags := range map[string][]string{
		"least": {exampleKey, "--region=us-west-2"},
		"more": {
			exampleKey, "--decrypt-key=arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", "--encryption-context=cluster=my cluster,x=no",
			"--assume-role-arn=arn:aws:iam::111122223333:role/etcd", "--external-id=my-cluster", "--outage-grace=12h", "--kms-timeout=1500ms", "--shutdown-delay=35s",
			"--socket-mode=0660", "--socket-group=2000", "--allow-uid=0", "--health-port=127.0.0.1:9000", "--livez-path=/alive", "--log-level=warn", "--log-format=text",
			"--retry-token-capacity=50", "--debug",
		},
		"all addresses": {exampleKey, "--health-port=:8080"},
	} {
		for _, kind := range generate.Kinds() {
			if !kind.Starts() {
				continue
			}
			t.Run(name+"/"+kind.Name, func(t *testing.T) {
				listen := "--listen=/var/run/kms/a.sock"
				if kind.Socket != "" {
					listen = "--listen=" + kind.Socket
				}
				files := generated(t, ".", kind.Name, append([]string{listen}, flags...))
				text, args := startedWith(t, kind.Name, files)
				file := filepath.Join(t.TempDir(), "config.yaml")
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				want := append([]string{listen}, flags...)
				if !slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, "--health-port=") }) && kind.Name != "sidecar" {
					want = append(want, "--health-port=127.0.0.1:8083")
				}
				for i, arg := range args {
					if strings.HasPrefix(arg, "--config=") {
						args[i] = "--config=" + file
					}
				}
				ignore := cmpopts.IgnoreFields(config.Config{}, "File", "Hash")
				if diff := cmp.Diff(loaded(t, want...), loaded(t, args...), ignore, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%q starts something else than %q (-want +got):\n%s\n%s", args, want, diff, text)
				}
				if !strings.Contains(text, "\noutageGrace: ") {
					t.Errorf("the lever of an outage is not named:\n%s", text)
				}
			})
		}
	}
}

// startedWith finds the program's file and its flags in what was generated.
func startedWith(t *testing.T, kind string, files map[string]string) (file string, args []string) {
	t.Helper()
	var started string
	for name, text := range files {
		if name != "config.yaml" && strings.Contains(text, "--config=") {
			started = text
		}
	}
	for line := range strings.Lines(started) {
		line = strings.Trim(strings.TrimSpace(line), `- \`)
		if flag, ok := strings.CutPrefix(line, "config="); ok {
			args = append(args, "--config="+flag)
		} else if flag, ok := strings.CutPrefix(line, "health-port="); ok {
			args = append(args, "--health-port="+flag)
		}
	}
	if kind != "sidecar" {
		file = files["config.yaml"]
		if kind == "kops" || kind == "kubeadmcontrolplane" { // it is in the object too
			if !strings.Contains(unindented(started), unindented(file)) {
				t.Errorf("the file is not in\n%s", started)
			}
		}
		return file, args
	}
	var configMap struct{ Data map[string]string }
	if err := yaml.Unmarshal([]byte(files["hosted-control-plane-configmap.yaml"]), &configMap); err != nil {
		t.Fatal(err)
	}
	return "\n" + configMap.Data["config.yaml"], args
}

func unindented(text string) string { return regexp.MustCompile(`(?m)^ +`).ReplaceAllString(text, "") }

// TestGenerateKeepsFlags where no file can say them, and where nothing is written.
func TestGenerateKeepsFlags(t *testing.T) {
	stdout, stderr, code := run(t, "generate", "static-pod", exampleKey)
	if code != cli.Done || stderr != "" || !strings.Contains(stdout, "- "+exampleKey) || strings.Contains(stdout, "--config=") {
		t.Errorf("printed: exit %d, %s\n%s", code, stderr, stdout)
	}
	dir := t.TempDir()
	_, stderr, code = run(t, "generate", "static-pod", exampleKey, "--qps-limit=5", "--burst-limit=5", "--out="+dir)
	files := tree(t, dir)
	if code != cli.Done || !strings.Contains(stderr, "the flags stay flags") || !strings.Contains(stderr, "--retry-token-capacity") ||
		len(files) != 1 || !strings.Contains(files["aws-encryption-provider.yaml"], "- --qps-limit=5") {
		t.Errorf("exit %d, %s\n%v", code, stderr, files)
	}
	dir = t.TempDir()
	if _, stderr, code := run(t, "generate", "static-pod", exampleKey, "--health-kms-version=v2", "--out="+dir); code != cli.Done {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	if pod := tree(t, dir)["aws-encryption-provider.yaml"]; !strings.Contains(pod, "- --health-kms-version=v2") || !strings.Contains(pod, "- --config=") {
		t.Errorf("what has no field is lost:\n%s", pod)
	}
}

// TestGenerateForOnePlace: what is there already and says the same is no conflict,
// so that pod and unit may lie in one directory.
func TestGenerateForOnePlace(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range []string{"static-pod", "systemd", "sidecar"} {
		if _, stderr, code := run(t, "generate", kind, exampleKey, "--out="+dir); code != cli.Done {
			t.Errorf("%s: exit %d, %s", kind, code, stderr)
		}
	}
	_, stderr, code := run(t, "generate", "kubeadmcontrolplane", exampleKey, "--outage-grace=1h", "--out="+dir)
	if code != cli.Failed || !strings.Contains(stderr, "config.yaml is there already") {
		t.Errorf("another file: exit %d, %s", code, stderr)
	}
}

// TestGenerateOutLeadsToADirectoryOfOthers: by a link, by dots, by being there.
func TestGenerateOutLeadsToADirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/proc", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for out, want := range map[string]string{ // where nobody can write, whatever is tried
		"/proc":                         "--out: /proc is no place for generated files, and it is the kernel's view",
		"/proc/x/../sys/":               "/proc/sys lies in /proc",
		"link/sys":                      "/proc/sys lies in /proc",
		"link":                          "/proc is no place",
		"../../../../../../../../sys/x": "/sys/x lies in /sys",
	} {
		_, stderr, code := run(t, "generate", "static-pod", exampleKey, "--out="+out)
		if code != cli.Usage || !strings.Contains(stderr, "--out: ") || !strings.Contains(stderr, want) {
			t.Errorf("--out=%s: exit %d, want %q in %s", out, code, want, stderr)
		}
	}
	if _, stderr, code := run(t, "generate", "static-pod", exampleKey, "--out=generated"); code != cli.Done {
		t.Errorf("--out=generated: exit %d, %s", code, stderr)
	}
}

// TestKopsTakesItsOwnSocket where none is given.
func TestKopsTakesItsOwnSocket(t *testing.T) {
	stdout, stderr, code := run(t, "generate", "kops", exampleKey)
	const socket = "/srv/kubernetes/kube-apiserver/aws-encryption-provider/socket.sock"
	if code != cli.Done || strings.Count(stdout, "--listen="+socket) != 2 {
		t.Errorf("exit %d, %s, want a pod with --listen=%s and the advice to give it to encryption-config:\n%s", code, stderr, socket, stdout)
	}
}

// TestPolicyWritesAFileForEachDocument, of the form that AWS' command line takes.
func TestPolicyWritesAFileForEachDocument(t *testing.T) {
	dir := t.TempDir()
	_, stderr, code := run(t, "policy", "--config=../../deploy/examples/full.yaml", "--principal=arn:aws:iam::111122223333:role/control-plane", "--out="+dir)
	if code != 0 || strings.Count(stderr, "\n") != 1 || strings.Count(stderr, "nobody may then disable the key") != 1 {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	files := tree(t, dir)
	for _, name := range []string{
		"identity-policy.json", "identity-policy-etcd-encryption.json", "trust-policy-etcd-encryption.json",
		"key-policy-us-west-2-4321abcd-12ab-34cd-56ef-1234567890ba.json", "key-policy-us-west-2-1234abcd-12ab-34cd-56ef-1234567890ab.json",
		"key-policy-us-west-2-1234abcd-12ab-34cd-56ef-1234567890ab-444455556666.json",
		"kms-endpoint-policy.json", "sts-endpoint-policy.json",
	} {
		var document struct{ Version string }
		if err := json.Unmarshal([]byte(files[name]), &document); err != nil || document.Version != "2012-10-17" {
			t.Errorf("%s: %v, version %q", name, err, document.Version)
		}
		delete(files, name)
	}
	if len(files) > 0 {
		t.Errorf("more files: %v", slices.Collect(maps.Keys(files)))
	}
	if _, stderr, code := run(t, "policy", "--config=../../deploy/examples/full.yaml", "--out="+dir); code != cli.Failed || !strings.Contains(stderr, "is there already") {
		t.Errorf("over what is there: exit %d, %s", code, stderr)
	}
}

// TestPolicyKeepsToTheLettersOfIAM, which takes nothing beyond U+00FF in a document.
//
// https://docs.aws.amazon.com/IAM/latest/APIReference/API_PutRolePolicy.html
func TestPolicyKeepsToTheLettersOfIAM(t *testing.T) {
	stdout, stderr, code := run(t, "policy", "--region=us-west-2", "--key=alias/a", "--encryption-context=cl\u00fcster=\u20ac \U0001f511")
	if code != 0 {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	for _, want := range []string{"kms:EncryptionContext:cl\\u00fcster", "\\u20ac \\ud83d\\udd11"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %s in\n%s", want, stdout)
		}
	}
	if i := strings.IndexFunc(stdout, func(r rune) bool { return r > '~' }); i >= 0 {
		t.Errorf("at %d: %q", i, stdout[i:])
	}
}
