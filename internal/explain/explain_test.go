package explain_test

import (
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"sigs.k8s.io/aws-encryption-provider/docs"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/explain"
)

// book is a small documentation.
func book() fs.FS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return fstest.MapFS{
		"errors.md": file("# Error codes\n\nOf all.\n\n## KMS0101\n\nThe key is disabled. Somebody did it.\n\n- Class: `refused`\n\n" +
			"### Below\n\nStill the code's.\n\n## KMS0102\n\nThe key goes.\n"),
		"doctor-codes.md":                    file("# What only doctor finds\n\n## KMS0704\n\nKMS does not rotate.\n"),
		"rotation.md":                        file("# Rotation\n\n<!-- made by hand -->\n\n## When an `old` key, may go\n\nNever.\n\n## Twice\n\nOne.\n\n## Twice\n\nTwo.\n\n```bash\n# Twice\n```\n"),
		"runbooks/EncryptionProviderDown.md": file("# EncryptionProviderDown\n\n## Cause\n\nThe process is\nnot running. It may restart.\n\n## What to do\n\n1. Look at [rotation.md](../rotation.md).\n"),
	}
}

func TestNameIsFoundInEveryForm(t *testing.T) {
	t.Parallel()
	code := "## KMS0101\n\nThe key is disabled. Somebody did it.\n\n- Class: `refused`\n\n### Below\n\nStill the code's.\n"
	runbook := "# EncryptionProviderDown\n\n## Cause\n\nThe process is not running. It may restart.\n\n## What to do\n\n1. Look at rotation.md (explain rotation).\n"
	old := "## When an `old` key, may go\n\nNever.\n"
	for _, c := range []struct{ name, want string }{
		{"KMS0101", code},
		{"kms0101", code},
		{"KMS0101:", code},
		{"errors.md#kms0101", code},
		{"KMS0102", "## KMS0102\n\nThe key goes.\n"},
		{"KMS0704", "## KMS0704\n\nKMS does not rotate.\n"},
		{"EncryptionProviderDown", runbook},
		{"encryptionproviderdown", runbook},
		{"Down", runbook},
		{"docs/runbooks/EncryptionProviderDown.md", runbook},
		{"rotation#when-an-old-key-may-go", old},
		{"../rotation.md#when-an-old-key-may-go", old},
		{"rotation#twice-1", "## Twice\n\nTwo.\n\n```bash\n# Twice\n```\n"},
	} {
		got, err := explain.Text(book(), c.name, "")
		if err != nil || got != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.name, err, got, c.want)
		}
	}
	page, err := explain.Text(book(), "docs/rotation.md", "")
	if err != nil || !strings.HasPrefix(page, "# Rotation\n\n## When") || !strings.HasSuffix(page, "# Twice\n```\n") {
		t.Errorf("the page: %v\n%s", err, page)
	}
}

func TestUnknownNameIsToldTheNearest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		want []string
	}{
		{"KMS0103", []string{"KMS0101", "KMS0102", "KMS0704"}},
		{"KSM0101", []string{"KMS0101"}},
		{"EncryptionProviderDwon", []string{"EncryptionProviderDown"}},
		{"rotatoin", []string{"rotation"}},
		{"rotat", []string{"rotation"}},
		{"rotation#when-an-old-key-must-go", []string{"rotation#when-an-old-key-may-go"}},
		{"rotation#nonsense", []string{"rotation"}},
		{"", nil},
		{"nothing at all", nil},
		{"../../etc/passwd", nil},
	} {
		text, err := explain.Text(book(), c.name, "")
		unknown, is := errors.AsType[*explain.UnknownError](err)
		if !is || text != "" {
			t.Errorf("%q: %q, %v", c.name, text, err)
			continue
		}
		for _, want := range c.want {
			if !slices.Contains(unknown.Nearest, want) {
				t.Errorf("%q: nearest are %q, want %s among them", c.name, unknown.Nearest, want)
			}
		}
		if c.want == nil && unknown.Nearest != nil {
			t.Errorf("%q: nearest are %q, want none", c.name, unknown.Nearest)
		}
	}
}

func TestTextIsForATerminal(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 20)
	for name, c := range map[string]struct{ in, want string }{
		"a link to a page":                {"[kms-down.md](kms-down.md)", "kms-down.md (explain kms-down)"},
		"a link to a runbook":             {"[Down](runbooks/EncryptionProviderDown.md)", "Down (explain EncryptionProviderDown)"},
		"a link to a section":             {"[when](rotation.md#a-b)", "when (explain rotation#a-b)"},
		"a link within the page":          {"[below](#after)", "below (explain page#after)"},
		"a link to a code":                {"[KMS0101](errors.md#kms0101), [`KMS0102`](errors.md#kms0102)", "KMS0101, `KMS0102` (explain errors#kms0102)"},
		"a link out":                      {"[KMS](https://aws.amazon.com/kms/)", "KMS (https://aws.amazon.com/kms/)"},
		"a link out that shows itself":    {"[https://a.b/](https://a.b/)", "https://a.b/"},
		"a link to another file":          {"[the README](../README.md#try)", "the README (README.md#try in the source)"},
		"a link over two lines":           {"[one\ntwo](a.md)", "one two (explain a)"},
		"a link in code":                  {"`[a](b.md)`", "`[a](b.md)`"},
		"bold":                            {"**Do not** `a**b`", "Do not `a**b`"},
		"code that is longer than a line": {long + "`" + long + "x`", strings.TrimSpace(strings.Repeat("word ", 16)) + "\n" + strings.TrimSpace(strings.Repeat("word ", 4)) + "\n`" + long + "x`"},
		"an item":                         {"1. " + long + "\n   " + "more", "1. " + strings.TrimSpace(strings.Repeat("word ", 15)) + "\n   " + strings.TrimSpace(long[:25]) + " more"},
		"a block":                         {"a\n\n```text\n" + long + "[a](b.md)\n```\nb", "a\n\n```text\n" + long + "[a](b.md)\n```\nb"},
		"a block by indent":               {"a\n\n    " + long + "\n\nb", "a\n\n    " + long + "\n\nb"},
		"a file that is shown":            {"[deploy/a.yaml](../deploy/a.yaml)", "deploy/a.yaml (in the source)"},
		"a table":                         {"| a | b |\n| --- | --- |\n| `c` | [x](b.md) |", "| a | b |\n| --- | --- |\n| `c` | x (explain b) |"},
		"a wide table of two columns":     {"| a | b |\n| --- | --- |\n| `c \\| d` | " + long + "[x](b.md) |\n| e | |\n\nf", "* `c | d`: " + strings.TrimSpace(long[:70]) + "\n  " + long[:30] + "x (explain b)\n* e\n\nf"},
		"a wide table of three columns":   {"| a | b | |\n|---|---|---|\n| c | | d |\n| `e` | " + long + " | &lt;f> |", "* c\n  - d\n* `e`\n  - b: " + strings.TrimSpace(long[:70]) + "\n    " + strings.TrimSpace(long[:30]) + "\n  - <f>"},
		"an item of long code":            {"* `" + long + "x`", "* `" + long + "x`"},
		"a comment":                       {"a\n\n<!-- generated -->\n\nb", "a\n\nb"},
		"a bracket without a link":        {"[a] (b) [c", "[a] (b) [c"},
		"an open backtick":                {"a ` b", "a ` b"},
	} {
		got, err := explain.Text(fstest.MapFS{"page.md": {Data: []byte(c.in)}}, "page", "")
		if err != nil || got != c.want+"\n" {
			t.Errorf("%s: %v, got\n%swant\n%s", name, err, got, c.want)
		}
	}
}

func TestLinkIntoTheSourceIsAnAddressWhereThePagesHaveOne(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{"page.md": {Data: []byte("[the flags](../README.md#flags)")}}
	for docsURL, want := range map[string]string{
		"":                                 "the flags (README.md#flags in the source)\n",
		"https://example.org/kms/":         "the flags (README.md#flags in the source)\n", // the pages alone are there
		"https://example.org/kms/v1/docs/": "the flags (https://example.org/kms/v1/README.md#flags)\n",
	} {
		if got, err := explain.Text(files, "page", docsURL); err != nil || got != want {
			t.Errorf("%q: %v, got %swant %s", docsURL, err, got, want)
		}
	}
}

// TestReadmeOfTheSourceIsNotTheIndex: a link of a page leads to the one, and the name
// alone to the other.
func TestReadmeOfTheSourceIsNotTheIndex(t *testing.T) {
	t.Parallel()
	if text, err := explain.Text(docs.Files(), "README", ""); err != nil || !strings.HasPrefix(text, "# ") {
		t.Errorf("%v\n%s", err, text)
	}
	for _, name := range []string{"../README.md", "../README.md#flags", "README#flags", "README.md#no-such", "../SECURITY.md"} {
		text, err := explain.Text(docs.Files(), name, "")
		unknown, is := errors.AsType[*explain.UnknownError](err)
		if !is || text != "" || strings.HasSuffix(name, "#flags") && !slices.Contains(unknown.Nearest, "flags") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// TestEveryPageFitsATerminal: what may be wider is to be copied, and a word that
// cannot be broken.
func TestEveryPageFitsATerminal(t *testing.T) {
	t.Parallel()
	topics, err := explain.All(docs.Files())
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, topic := range topics.List() {
		text, err := explain.Text(docs.Files(), topic.Name, "")
		if err != nil {
			t.Fatal(err)
		}
		fenced := false
		for line := range strings.Lines(text) {
			lines++
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				fenced = !fenced
			}
			line = strings.TrimRight(line, "\n")
			if utf8.RuneCountInString(line) > 80 && !fenced && !strings.HasPrefix(line, "    ") && !oneWord(line) {
				t.Errorf("explain %s: %d columns: %s", topic.Name, utf8.RuneCountInString(line), line)
			}
		}
	}
	if lines < 3000 {
		t.Errorf("%d lines: the test is wrong", lines)
	}
}

// oneWord reports whether a line is one that cannot be broken, behind a mark.
func oneWord(line string) bool {
	line = regexp.MustCompile(`^ *([*-]|#+|[0-9]+\.) `).ReplaceAllString(line, "")
	line = regexp.MustCompile("`[^`]*`").ReplaceAllString(line, "code")
	return !strings.Contains(strings.TrimSpace(line), " ")
}

// TestEveryNameIsExplained holds the pages that the program carries against what it
// can name.
func TestEveryNameIsExplained(t *testing.T) {
	t.Parallel()
	topics, err := explain.All(docs.Files())
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, c := range cause.Codes() {
		want = append(want, c.Info().ID)
	}
	for _, c := range doctor.Codes() {
		want = append(want, c.Info().ID)
	}
	slices.Sort(want)
	for _, topic := range slices.Concat(topics.Codes, topics.Doctor) {
		got = append(got, topic.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the pages have the codes\n%q\nwant\n%q", got, want)
	}
	for _, topic := range slices.Concat(topics.Codes, topics.Doctor, topics.Alerts, topics.Pages) {
		text, err := explain.Text(docs.Files(), topic.Name, "")
		if err != nil || topic.Title == "" || strings.ContainsAny(topic.Title, "\n|") {
			t.Errorf("%s: title %q, %v", topic.Name, topic.Title, err)
		}
		if strings.Contains(text, "](") && !strings.Contains(text, "`[") {
			t.Errorf("%s: a link is left in\n%s", topic.Name, text)
		}
		if strings.Contains(text, "\u00a0") || !utf8.ValidString(text) {
			t.Errorf("%s: the text is not plain", topic.Name)
		}
	}
	if len(topics.Alerts) == 0 || len(topics.Pages) < 20 {
		t.Errorf("%d alerts, %d pages: the test is wrong", len(topics.Alerts), len(topics.Pages))
	}
}
