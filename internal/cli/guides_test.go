package cli_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
)

// TestGuidesShowWhatIsGenerated: where a guide has a command of generate and
// then YAML, that is what the command prints, or the files that it writes. -update
// writes it.
func TestGuidesShowWhatIsGenerated(t *testing.T) {
	shown := regexp.MustCompile("(?s)```bash\n(aws-encryption-provider generate [^`]*)\n```\n\n```yaml\n(.*?)```\n")
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, filepath.Join("..", "..", "README.md"))
	found := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := shown.ReplaceAllStringFunc(string(data), func(block string) string {
			found++
			command := shown.FindStringSubmatch(block)[1]
			args := words(strings.ReplaceAll(command, "\\\n", " "))
			return "```bash\n" + command + "\n```\n\n```yaml\n" + shownBy(t, args[1:]) + "```\n"
		})
		if text == string(data) {
			continue
		}
		if !*update {
			t.Errorf("%s shows something else than is generated: go test ./internal/cli -run Guides -update", file)
			continue
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("no guide shows anything: the test is wrong")
	}
}

// shownBy is what a command prints or, with --out, what it writes, as it is printed.
func shownBy(t *testing.T, args []string) string {
	t.Helper()
	dir := t.TempDir()
	at := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--out=") })
	if at >= 0 {
		args[at] = "--out=" + dir
	}
	stdout, stderr, code := run(t, args...)
	if code != cli.Done {
		t.Errorf("%q: exit %d, %s", args, code, stderr)
	}
	if at < 0 {
		return stdout
	}
	var all []string
	files := tree(t, dir)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		all = append(all, "# File: "+name+"\n#\n"+files[name])
	}
	return strings.Join(all, "---\n")
}
