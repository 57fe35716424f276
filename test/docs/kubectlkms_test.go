package docs_test

import (
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// kmsCommand is a command of kubectl kms up to its end, in a block or in a sentence.
var kmsCommand = regexp.MustCompile("kubectl[ -]kms ((?:status|audit|verify|migrate)\\b(?:[^`|><;)\\n&\\\\]|\\\\\\n)*)")

// kmsCommands are those that a document tells one to type.
func kmsCommands(text string) [][]string {
	// In a sentence a command may go on in the next line, as after a backslash in a block.
	for _, said := range regexp.MustCompile("(?s)`kubectl kms [^`]*`").FindAllString(text, -1) {
		text = strings.Replace(text, said, strings.Join(strings.Fields(said), " "), 1)
	}
	var found [][]string
	for _, m := range kmsCommand.FindAllStringSubmatch(text, -1) {
		var words []string
		for word := range strings.FieldsSeq(strings.ReplaceAll(m[1], "\\\n", " ")) {
			if strings.HasPrefix(word, "#") {
				break
			}
			if word != "$WHERE" {
				words = append(words, strings.Trim(word, `"'`))
			}
		}
		found = append(found, words)
	}
	return found
}

// TestKubectlKMSTakesWhatTheDocsType: also where a command needs a cluster that no test
// has, each of its flags is one that the program has.
func TestKubectlKMSTakesWhatTheDocsType(t *testing.T) {
	program := filepath.Join(t.TempDir(), "kubectl-kms")
	build(t, filepath.Join(root, "cmd/kubectl-kms"), program, ".")
	count, tried := 0, map[string]bool{}
	all := documents(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, words := range kmsCommands(all[name]) {
			line := strings.Join(words, " ")
			count++
			if tried[line] {
				continue
			}
			tried[line] = true
			cmd := exec.CommandContext(t.Context(), program, append(words, "--help")...)
			cmd.Env = []string{"HOME=" + t.TempDir()}
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Usage:") {
				t.Errorf("%s: kubectl kms %s: %v\n%.300s", name, line, err, out)
			}
		}
	}
	if count < 40 {
		t.Errorf("%d commands found: the test is wrong", count)
	}
}

func TestCommandsOfKubectlKMSAreFound(t *testing.T) {
	text := "Run `kubectl kms audit --expect-unused\nKEY`, or\n```bash\nsudo kubectl kms status $WHERE --wait 10m >status.txt || break\nkubectl kms verify --open \\\n  --key \"$KEY\" # why\nkubectl kms: waiting\n```\n"
	want := [][]string{{"audit", "--expect-unused", "KEY"}, {"status", "--wait", "10m"}, {"verify", "--open", "--key", "$KEY"}}
	if got := kmsCommands(text); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %q, want %q", got, want)
	}
}
