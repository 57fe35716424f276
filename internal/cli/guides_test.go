package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
)

// TestGuidesShowWhatIsGenerated: where a guide has a command of generate and
// then YAML, that is what the command prints. -update writes it.
func TestGuidesShowWhatIsGenerated(t *testing.T) {
	shown := regexp.MustCompile("(?s)```bash\n(aws-encryption-provider generate [^`]*)\n```\n\n```yaml\n(.*?)```\n")
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
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
			stdout, stderr, code := run(t, args[1:]...)
			if code != cli.Done {
				t.Errorf("%s: %q: exit %d, %s", file, args, code, stderr)
			}
			return "```bash\n" + command + "\n```\n\n```yaml\n" + stdout + "```\n"
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
