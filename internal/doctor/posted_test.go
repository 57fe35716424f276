package doctor_test

import (
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
