package stored_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/nodetest"
)

const reader = "../../test/format"

// A reader that was written from docs/format.md alone opens every vector, and refuses
// what has been tampered with: the page says all that one has to know.
func TestAReaderOfTheDocumentReadsEveryVector(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink(nodetest.Install(t, reader), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	nodetest.Copy(t, filepath.Join(reader, "read.mjs"), filepath.Join(dir, "read.mjs"))
	args := []string{filepath.Join(dir, "read.mjs")}
	var want []string
	for _, room := range []string{"stored", "seal", "keyref"} {
		vectors := filepath.Join("..", room, "testdata", "vectors")
		files, err := filepath.Glob(filepath.Join(vectors, "*.txt"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no vectors: %v", vectors, err)
		}
		args = append(args, vectors)
		for _, file := range files {
			want = append(want, "ok "+filepath.Base(file))
		}
	}
	out, err := exec.CommandContext(t.Context(), "node", args...).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != strings.Join(want, "\n") {
		t.Errorf("%v\n%s\nwant\n%s", err, got, strings.Join(want, "\n"))
	}
}
