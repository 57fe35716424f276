package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

const ledger = `/registry/secrets/default/a v2 aws arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?material=3d8a wrapped=1one
/registry/secrets/default/b v2 aws arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?material=3d8a wrapped=1two
/registry/secrets/default/c v2 other arn:aws:kms:us-west-2:111122223333:key/0000aaaa-12ab-34cd-56ef-1234567890ab type=0
/registry/secrets/default/d v1 aws-v1
/registry/secrets/default/e v1 aws-v1 size=4 wrapped=bare
/registry/configmaps/default/a aescbc k1
/registry/configmaps/default/b aesgcm k2
/registry/example.com/pandas/default/a secretbox k3
/registry/namespaces/default plaintext
/registry/ranges/serviceips plaintext
"/registry/secrets/default/odd\nname" plaintext
`

// command runs one in this process and returns what it says.
func command(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr strings.Builder
	code = cli.Main(t.Context(), append([]string{"kubectl-kms"}, args...), cli.Streams{
		Out: &stdout, Err: &stderr, LookupEnv: func(string) (string, bool) { return "", false }, Stores: stores(),
	})
	return code, stdout.String(), stderr.String()
}

const unreachable = "http://127.0.0.1:3"

// Each command says why etcd cannot be read, and ends.
func TestNoEtcdIsReached(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kubeconfig := file("kubeconfig", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:3\"}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
	config := file("encryption.yaml", "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - kms: {apiVersion: v2, name: aws, endpoint: \"unix:///run/a.sock\"}\n  - identity: {}\n")
	for _, args := range [][]string{
		{"audit"},
		{"audit", "--resources", "secrets", "--expect-only", "provider:aws"},
		{"audit", "--objects"},
		{"migrate", "--kubeconfig", kubeconfig, "--encryption-config", config},
		{"migrate", "--kubeconfig", kubeconfig, "--encryption-config", config, "--dry-run"},
	} {
		code, out, errs := command(t, append(args, "--endpoints", unreachable)...)
		if code != cli.Failed || !strings.Contains(errs, "127.0.0.1:3") {
			t.Errorf("%s: exit code %d, want %d and the address:\n%s%s", strings.Join(args, " "), code, cli.Failed, out, errs)
		}
	}
}

// A living etcd, its own snapshot and a copy of its file say what was written.
func TestLiveSnapshotAndCopyEqualTheLedger(t *testing.T) {
	t.Parallel()
	want, err := audittest.Parse("ledger", ledger, true)
	if err != nil {
		t.Fatal(err)
	}
	expected, err := audit.Run(t.Context(), []audit.Place{{Reader: want}}, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range etcdtest.Versions() {
		t.Run(string(version), func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t, version, cluster.EtcdOptions{})
			for i, kv := range want.Values {
				e.Put(string(kv.Key), fmt.Sprintf("k8s\x00version %d", i)) // becomes an older revision
				e.Put(string(kv.Key), string(kv.Value))
			}
			e.Put("/registry/secrets/default/gone", "k8s\x00")
			e.Delete("/registry/secrets/default/gone")
			e.Put("compact_rev_key", "1")
			snapshot, db := filepath.Join(t.TempDir(), "backup.db"), filepath.Join(t.TempDir(), "db")
			e.Snapshot(snapshot)
			e.CopyDB(db)

			for name, c := range map[string]struct {
				args []string
				code int
			}{
				"live":     {[]string{"--endpoints", e.URL}, cli.Done},
				"snapshot": {[]string{"--snapshot", snapshot}, cli.Done},
				"copy":     {[]string{"--snapshot", db}, cli.Failed}, // nothing proves that it is whole
			} {
				code, out, errs := command(t, append([]string{"audit", "-o", "json"}, c.args...)...)
				if code != c.code || errs != "" {
					t.Errorf("%s: exit code %d, want %d; %s", name, code, c.code, errs)
				}
				var got audit.Report
				if err := json.Unmarshal([]byte(out), &got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(rows(expected), rows(&got), cmpopts.IgnoreUnexported(audit.Under{})); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
				older := 0
				for _, r := range got.Places[0].Rows {
					older += int(r.Older)
				}
				if want := map[bool]int{true: 0, false: 11}[name == "live"]; older != want {
					t.Errorf("%s: %d older revisions, want %d", name, older, want)
				}
			}
			for args, want := range map[string]int{
				"--resources secrets --expect-unused plaintext":          cli.Found,
				"--resources configmaps --expect-unused plaintext":       cli.Found, // of older revisions
				"--resources configmaps --expect-unused provider:aws":    cli.Done,
				"--resources *.example.com --expect-only provider:k3":    cli.Done,
				"--resources configmaps --expect-only provider:k1":       cli.Found,
				"--resources secrets --expect-unused sha256:" + zeros:    cli.Failed, // v1
				"--resources *.example.com --expect-unused provider:k1":  cli.Done,
				"--resources pods --expect-unused provider:k1":           cli.Failed,
				"--prefix /elsewhere --resources pods --expect-only k":   cli.Failed,
				"--expect-unused provider:k1":                            cli.Usage,
				"--resources namespaces --expect-only plaintext -o yaml": cli.Done,
			} {
				line := append([]string{"audit", "--snapshot", snapshot}, strings.Fields(args)...)
				if code, out, errs := command(t, line...); code != want {
					t.Errorf("%s: exit code %d, want %d\n%s%s", args, code, want, out, errs)
				}
				line[1], line[2] = "--endpoints", e.URL
				if code, out, errs := command(t, line...); code == cli.Done {
					t.Errorf("live, %s: exit code 0\n%s%s", args, out, errs)
				}
			}
		})
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// rows are those of objects, without the older revisions that only files have.
func rows(r *audit.Report) []audit.Row {
	var out []audit.Row
	for _, row := range r.Places[0].Rows {
		if row.Older = 0; row.Objects > 0 {
			out = append(out, row)
		}
	}
	return out
}

// kubectl runs on more systems than the plugin, and a snapshot is read anywhere.
func TestItBuildsForTheSystemsOfKubectl(t *testing.T) {
	t.Parallel()
	for _, system := range []string{"darwin", "windows"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, ".")
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", system, err, out)
		}
	}
}

func TestAFileThatIsNoSnapshotHasNoVerdict(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(file, []byte("no snapshot"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := command(t, "audit", "--snapshot", file, "--resources", "secrets", "--expect-unused", "plaintext")
	if code != cli.Failed || out != "" || !strings.Contains(errs, file) {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
}
