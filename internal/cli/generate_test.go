package cli_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
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
	for kind, name := range map[string]string{"static-pod": "static-pod.yaml", "sidecar": "hosted-control-plane-sidecar.yaml"} {
		args := []string{
			"generate", kind, exampleKey, "--region=us-west-2", "--listen=/var/run/kmsplugin/socket.sock",
			"--image=111122223333.dkr.ecr.us-west-2.amazonaws.com/aws-encryption-provider:v1.2.3",
		}
		stdout, stderr, code := run(t, args...)
		if code != cli.Done {
			t.Fatalf("%q: exit %d, %s", args, code, stderr)
		}
		path := filepath.Join("..", "..", "deploy", "manifests", name)
		if *update {
			if err := os.WriteFile(path, []byte(stdout), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), stdout); diff != "" {
			t.Errorf("%s is not what %q prints (go test ./internal/cli -update):\n%s", path, args, diff)
		}
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
