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

// TestGenerateWarnsOfThePresentFile: also where nothing of it changes, where another
// file is made of it, and once.
func TestGenerateWarnsOfThePresentFile(t *testing.T) {
	const key = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg="
	write := func(t *testing.T, resources, endpoint string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "present.yaml")
		text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [" + resources + "]\n" +
			"  providers:\n  - kms: {apiVersion: v2, name: a, endpoint: '" + endpoint + "'}\n  - identity: {}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const ours, other = "unix:///var/run/kmsplugin/socket.sock", "unix:///run/vault/a.sock"
	for name, c := range map[string]struct {
		kind, resources, endpoint string
		flags                     []string
		want                      string
		code                      int
	}{
		"nothing to change":     {"encryption-config", "secret", ours, nil, `line 4: resources[0].resources[0]: nothing encrypts Secrets: "secret" is another resource, did you mean secrets?`, cli.Usage},
		"something to change":   {"encryption-config", "v1/secrets", other, nil, `line 4: resources[0].resources[0]: nothing encrypts Secrets: "v1/secrets" is another resource, did you mean secrets?`, cli.Done},
		"mended by flags":       {"encryption-config", "configmaps", other, []string{"--resources=secrets"}, `nothing encrypts Secrets: no entry has secrets, only "configmaps"`, cli.Done},
		"nothing made of it":    {"static-pod", "secret", ours, nil, "did you mean secrets?", cli.Done},
		"in other files":        {"kubeadmcontrolplane", "secret", other, nil, "did you mean secrets?", cli.Done},
		"by another option":     {"kops", "secret", other, []string{"--listen=/srv/kubernetes/kube-apiserver/kms/a.sock"}, "did you mean secrets?", cli.Done},
		"what flags make of it": {"encryption-config", "secrets", ours, []string{"--resources=secret", "--name=b"}, "", cli.Done},
		"a key as resource":     {"encryption-config", strings.ToLower(key[:40]), ours, nil, "a value of 40 characters", cli.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, c.resources, c.endpoint)
			_, stderr, code := run(t, append([]string{"generate", c.kind, "--key=alias/a", "--region=us-west-2", "--from=" + file}, c.flags...)...)
			if code != c.code || strings.Count(stderr, c.want) != 1 && c.want != "" || strings.Count(stderr, "nothing encrypts Secrets") > 1 {
				t.Errorf("exit %d, want %d and once %q in\n%s", code, c.code, c.want, stderr)
			}
			if strings.Contains(stderr, strings.ToLower(key[:8])) {
				t.Errorf("a key is told: %s", stderr)
			}
		})
	}
}
