package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// TestFromPostedFiles: of files that people post, --from refuses those that
// kube-apiserver refuses, with their mistakes, and makes files that it takes of
// all others.
func TestFromPostedFiles(t *testing.T) {
	files, err := filepath.Glob("../encryptionconfig/testdata/posted/*")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %q, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			_, stderr, code := run(t, "generate", "encryption-config", "--key=alias/a", "--region=us-west-2", "--listen=/var/run/another/socket.sock", "--from", file, "--out", out)
			_, refused, _ := encryptionconfig.Examine(data)
			for _, m := range refused {
				if !strings.Contains(stderr, m.Text) || !strings.Contains(stderr, m.Path) {
					t.Errorf("says %q, want %q in it", stderr, m)
				}
			}
			if len(refused) > 0 {
				if code != cli.Usage {
					t.Errorf("exit %d, want %d", code, cli.Usage)
				}
				return
			}
			made := tree(t, out)
			if code != cli.Done || len(made) != 2 {
				t.Fatalf("exit %d with %d files: %s", code, len(made), stderr)
			}
			for name, text := range made {
				if mistakes := encryptionconfig.Refused([]byte(text), true); len(mistakes) > 0 {
					t.Errorf("%s would be refused: %v\n%s", name, mistakes, text)
				}
			}
		})
	}
}

// TestGenerateWarnsWhereNoSecretIsEncrypted: by another name for them.
func TestGenerateWarnsWhereNoSecretIsEncrypted(t *testing.T) {
	for resources, want := range map[string]string{"secret": "did you mean secrets?", "secrets.v1": "did you mean secrets?", "configmaps": "no entry has secrets", "secrets": "", "*.*": ""} {
		_, stderr, code := run(t, "generate", "encryption-config", "--key=alias/a", "--region=us-west-2", "--resources", resources)
		if code != cli.Done || want == "" && stderr != "" || !strings.Contains(stderr, want) {
			t.Errorf("--resources %s: exit %d, %q, want %q", resources, code, stderr, want)
		}
	}
}
