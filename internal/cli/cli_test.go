package cli_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the answers into the transcripts")

// A transcript in testdata is what a person types and reads: a line "$ command"
// with variables before and single quotes around words; then what it writes, "> "
// on standard output and "! " on standard error; then the exit code. Lines with
// "#" are comments.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, commands := replay(t, string(text))
			if commands == 0 {
				t.Fatal("no command in it")
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(text) {
				t.Errorf("%s: got\n%s\nwant\n%s", file, got, text)
			}
		})
	}
}

// replay returns the transcript with the answers that its commands give now.
func replay(t *testing.T, text string) (got string, commands int) {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "$ "):
			commands++
			b.WriteString(line + play(t, strings.TrimSpace(line[1:])))
		case strings.HasPrefix(line, "#"), line == "\n":
			b.WriteString(line)
		}
	}
	return b.String(), commands
}

func play(t *testing.T, command string) string {
	t.Helper()
	env := map[string]string{}
	args := words(command)
	for len(args) > 0 && args[0] != "aws-encryption-provider" {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok {
			t.Fatalf("%s: neither a variable nor the program", args[0])
		}
		env[name] = strings.ReplaceAll(value, `\n`, "\n")
		args = args[1:]
	}
	if len(args) == 0 {
		t.Fatalf("no program in %q", command)
	}
	var out, errs bytes.Buffer
	code := cli.Main(t.Context(), args[1:], cli.Streams{
		Out: &out, Err: &errs, LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	})
	return marked("> ", out.String()) + marked("! ", errs.String()) + fmt.Sprintf("exit %d\n", code)
}

func marked(mark, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(mark + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}

// words splits as a shell does that knows single quotes only.
func words(s string) []string {
	var out []string
	var word strings.Builder
	quoted, open := false, false
	for _, r := range s {
		switch {
		case r == '\'':
			quoted, open = !quoted, true
		case r == ' ' && !quoted:
			if open {
				out = append(out, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		out = append(out, word.String())
	}
	return out
}
