package explain_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/docs"
	"sigs.k8s.io/aws-encryption-provider/internal/alerts"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/explain"
)

const (
	root = "../.."
	base = "https://docs.example/kms"
)

// printed are all texts that the program can print, by where they come from: each
// string of its source, each error and finding, the alerts, and what is installed
// beside it.
func printed(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{"alerts": alerts.Rules(""), "alerts with links": alerts.Rules(base), "rules with links": alerts.PrometheusRule(base)}
	for _, c := range cause.Codes() {
		texts["error "+c.String()] = (&cause.Error{Code: c, Key: "k", Later: &cause.Error{Code: cause.TimedOut}}).Error()
	}
	for _, c := range doctor.Codes() {
		info := c.Info()
		texts["finding "+info.ID] = info.What + "\n" + info.Next + "\n" + cause.Explain(info.ID)
	}
	for _, dir := range []string{"cmd", "internal"} {
		maps.Copy(texts, literals(t, dir))
	}
	err := fs.WalkDir(os.DirFS(filepath.Join(root, "deploy")), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(root, "deploy", name))
		texts["deploy/"+name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// literals are the strings of a directory's Go files, tests left out.
func literals(t *testing.T, dir string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	err := fs.WalkDir(os.DirFS(root), dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, is := n.(*ast.BasicLit); is && lit.Kind == token.STRING {
				text, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				texts[name] += text + "\n"
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// namesIn are what a text tells one to explain, or to read in docs. Words in capitals
// stand for names.
func namesIn(text string) []string {
	var names []string
	for _, pattern := range []string{
		`(?:aws-encryption-provider|%\[1\]s|%s) explain ([A-Za-z0-9#][A-Za-z0-9#_.-]*)`,
		`(?m)^explain ([A-Za-z0-9#][A-Za-z0-9#_.-]*)$`,
		`\bdocs/((?:runbooks/)?[A-Za-z0-9_-]+\.md(?:#[a-z0-9-]+)?)`,
		regexp.QuoteMeta(base) + `/([A-Za-z0-9/_-]+\.md(?:#[a-z0-9-]+)?)`,
		`\b((?:runbooks/)?[A-Za-z0-9_-]+\.md#[a-z0-9-]+)`,
	} {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			if name := strings.TrimRight(m[1], "."); !slices.Contains([]string{"NAME", "ALERT", "CODE"}, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// TestEveryPageThatTheProgramNamesIsExplained follows each link into docs and each
// command that prints a page: both lead to the same pages and headings.
func TestEveryPageThatTheProgramNamesIsExplained(t *testing.T) {
	t.Parallel()
	found := map[string]int{}
	for where, text := range printed(t) {
		for _, name := range namesIn(text) {
			kind, _, _ := strings.Cut(where, " ")
			found[kind]++
			if shown, err := explain.Text(docs.Files(), name, ""); err != nil || strings.Count(shown, "\n") < 3 {
				t.Errorf("%s names %s: %v\n%s", where, name, err, shown)
			}
		}
		if strings.Contains(text, "blob/master/docs") || strings.Contains(text, "blob/main/docs") {
			t.Errorf("%s links to docs in a repository that need not have them", where)
		}
	}
	for _, kind := range []string{"error", "finding", "alerts", "rules", "deploy/observability/alerts.yaml", "internal/cli/explain.go", "internal/generate/apiserver.go"} {
		if found[kind] == 0 {
			t.Errorf("%s names nothing: the test is wrong", kind)
		}
	}
}

func TestEveryCodeHasItsSectionUnderALink(t *testing.T) {
	t.Parallel()
	check := func(page, id string) {
		url := docs.URL(base+"/", docs.Code(page, id))
		if want := base + "/" + page + "#" + strings.ToLower(id); url != want { // as the heading's anchor is
			t.Errorf("%s is at %s, want %s", id, url, want)
		}
		path, inside := strings.CutPrefix(url, base+"/")
		shown, err := explain.Text(docs.Files(), path, "")
		if !inside || err != nil || !strings.HasPrefix(shown, "## "+id+"\n") {
			t.Errorf("%s: %v\n%s", url, err, shown)
		}
		if byCode, err := explain.Text(docs.Files(), id, ""); err != nil || byCode != shown {
			t.Errorf("explain %s prints something else than %s has: %v\n%s", id, url, err, byCode)
		}
	}
	for _, c := range cause.Codes() {
		check(docs.Errors, c.Info().ID)
	}
	for _, c := range doctor.Codes() {
		check(docs.DoctorCodes, c.Info().ID)
	}
	if url := docs.URL("", docs.Errors); url != "" {
		t.Errorf("without a base the link is %q", url)
	}
}

// TestEveryHintOfAPageLeadsOn follows what a printed page tells one to explain.
func TestEveryHintOfAPageLeadsOn(t *testing.T) {
	t.Parallel()
	topics, err := explain.All(docs.Files())
	if err != nil {
		t.Fatal(err)
	}
	hints := 0
	seen := map[string]bool{}
	for _, topic := range slices.Concat(topics.Codes, topics.Doctor, topics.Alerts, topics.Pages) {
		text, err := explain.Text(docs.Files(), topic.Name, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\(explain\s+([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			hints++
			if seen[m[1]] {
				continue
			}
			seen[m[1]] = true
			if _, err := explain.Text(docs.Files(), m[1], ""); err != nil {
				t.Errorf("%s: %v", topic.Name, err)
			}
		}
	}
	if hints < 100 {
		t.Errorf("found %d hints: the test is wrong", hints)
	}
}

func TestNamesInATextAreFound(t *testing.T) {
	t.Parallel()
	got := namesIn("'%[1]s explain kms-down'; more: aws-encryption-provider explain KMS0101. See docs/k3s.md, " + base + "/errors.md#kms0101, explain NAME, %s explain NAME")
	if want := []string{"kms-down", "KMS0101", "k3s.md", "errors.md#kms0101", "errors.md#kms0101"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
