package doctor_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// TestPostedEncryptionConfigurations: of files that people post, each mistake that
// kube-apiserver refuses is told with its line, and nothing else is called one.
// That these are the mistakes is compared with kube-apiserver in test/loaders.
func TestPostedEncryptionConfigurations(t *testing.T) {
	files, err := filepath.Glob("../encryptionconfig/testdata/posted/*")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %q, %v", files, err)
	}
	n := newNode(t, kmstest.Start(t))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n.options.EncryptionFile, n.options.EncryptionConfig = filepath.Base(file), data
		codes, said := findings(n.examine())
		_, refused, _ := encryptionconfig.Examine(data)
		for _, m := range refused {
			if !strings.Contains(said, m.Path+"\n") || !strings.Contains(said, m.Text) {
				t.Errorf("%s: says %q, want %q in it", file, said, m)
			}
		}
		for _, code := range []string{"KMS0714", "KMS0716", "KMS0717", "KMS0721", "KMS0722"} {
			if len(refused) == 0 && slices.Contains(codes, code) {
				t.Errorf("%s: says %s, kube-apiserver takes the file:\n%s", file, code, said)
			}
		}
	}
}

// TestEncryptionConfigurationTellsNoKey: of a file that kube-apiserver takes, a key that
// stands in a wrong place is not printed.
func TestEncryptionConfigurationTellsNoKey(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	const key = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	for _, c := range []struct{ resources, providers string }{
		{"secrets, " + key, toClear + entryV2},
		{"secrets", strings.Replace(entryV1, "name: old", "name: "+key, 1)},
		{"secrets", "  - kms: {apiVersion: v2, name: " + key + ", endpoint: 'unix:///" + key + "'}\n" + entryV2},
		{"secrets", "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///" + key + "'}\n"},
	} {
		n.encryptionConfig(c.providers)
		n.options.EncryptionConfig = bytes.Replace(n.options.EncryptionConfig, []byte("[secrets]"), []byte("["+c.resources+"]"), 1)
		if _, said := findings(n.examine()); strings.Contains(said, key[:8]) || !strings.Contains(said, "a value of ") {
			t.Errorf("of\n%s\nsays\n%s", n.options.EncryptionConfig, said)
		}
	}
}
