package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fixtures are what a document takes for given: files of the checkout, by the
// name that they have in the directory where its blocks run.
func fixtures() map[string]map[string]string {
	return map[string]map[string]string{
		"docs/configuration.md": {"config.yaml": "deploy/examples/full.yaml"},
	}
}

// patience is a bound on a document whose block hangs.
const patience = 2 * time.Minute

// TestBashBlocksRun: every bash block of README, CONTRIBUTING and docs runs as it
// stands, or stands in cannot-run.txt with a reason. The blocks of one document
// run in one shell, in their order.
func TestBashBlocksRun(t *testing.T) {
	reasons, err := readReasons(read(t, "cannot-run.txt"))
	if err != nil {
		t.Fatal(err)
	}
	program := builtProgram(t)
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
			dir := t.TempDir()
			for file, from := range fixtures()[name] {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(read(t, filepath.Join(root, from))), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if failed, output := runBlocks(t.Context(), runnable, dir, filepath.Dir(program)); failed != nil {
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
func runBlocks(ctx context.Context, run []block, dir, programs string) (failed *block, output string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	ended := filepath.Join(dir, ".ended")
	for i, b := range run {
		fmt.Fprintf(&script, "%s\necho %d >> %q\n", b.text, i, ended)
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=" + programs + ":/usr/bin:/bin", "HOME=" + dir, "EDITOR=true", "LC_ALL=C"}
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
		failed, output := runBlocks(t.Context(), run, t.TempDir(), "/usr/bin")
		if failed == nil || failed.key != "second" {
			t.Errorf("%s: failed is %+v; output %q", name, failed, output)
		}
	}
	run := []block{{key: "first", text: "X=seen\n"}, {key: "second", text: "echo $X\n"}}
	if failed, output := runBlocks(t.Context(), run, t.TempDir(), "/usr/bin"); failed != nil || output != "seen\n" {
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

// builtProgram builds the program of this checkout.
func builtProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "aws-encryption-provider")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-o", path, "./cmd/aws-encryption-provider")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
