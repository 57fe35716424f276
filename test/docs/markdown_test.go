// Package docs_test tries the documents of this project: what they tell one to
// type runs, or cannot-run.txt says why it does not, and their links lead
// somewhere.
package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the checkout.
var root = filepath.Join("..", "..") //nolint:gochecknoglobals // never written

// documents are all Markdown files of the checkout, by their path in it.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found, files := map[string]string{}, os.DirFS(root)
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "bin" || entry.Name() == "node_modules" || entry.Name() == ".git") {
			return fs.SkipDir
		}
		if filepath.Ext(name) != ".md" {
			return nil
		}
		data, err := fs.ReadFile(files, name)
		found[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Fatalf("%d documents: looked in the wrong place", len(found))
	}
	return found
}

// block is a bash block of a document.
type block struct {
	key    string // document and first line; " (2)" at the second of that name
	line   int
	text   string
	within string // the headings above it, each on a line of its own
}

// in reports whether a block stands in a section, however deep.
func (b block) in(heading string) bool {
	return slices.Contains(strings.Split(b.within, "\n"), heading)
}

// blocks are the bash blocks of a document, in order. One that stands in a list
// loses the indentation of its fence.
func blocks(name, text string) []block {
	var found []block
	seen := map[string]int{}
	var headings []string
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if hashes, title, ok := strings.Cut(lines[i], " "); ok && hashes != "" && strings.Trim(hashes, "#") == "" {
			headings = append(headings[:min(len(headings), len(hashes)-1)], strings.TrimSpace(title))
		}
		indent, info, fenced := strings.Cut(lines[i], "```")
		if !fenced || strings.TrimSpace(indent) != "" {
			continue
		}
		start := i + 1
		var body strings.Builder
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "```"; i++ {
			body.WriteString(strings.TrimPrefix(lines[i], indent) + "\n")
		}
		if strings.TrimSpace(info) != "bash" {
			continue
		}
		first, _, _ := strings.Cut(body.String(), "\n")
		key := name + ": " + strings.TrimSpace(first)
		seen[key]++
		if n := seen[key]; n > 1 {
			key += fmt.Sprintf(" (%d)", n)
		}
		found = append(found, block{key: key, line: start, text: body.String(), within: strings.Join(headings, "\n")})
	}
	return found
}

// prose is a document without its fenced blocks.
func prose(text string) string {
	var kept []string
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// anchors are the fragments that a document can be linked by: its headings, in
// the form that GitHub gives them, and ids of its own.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	drop := regexp.MustCompile(`[^\p{L}\p{N}\p{M}_ -]`)
	for line := range strings.Lines(prose(text)) {
		for _, id := range regexp.MustCompile(`<a (?:id|name)="([^"]+)"`).FindAllStringSubmatch(line, -1) {
			found[id[1]] = true
		}
		hashes, title, heading := strings.Cut(strings.TrimSpace(line), " ")
		if !heading || strings.Trim(hashes, "#") != "" {
			continue
		}
		title = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(title, "$1")
		slug := strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")
		name := slug
		for n := 1; found[name]; n++ {
			name = fmt.Sprintf("%s-%d", slug, n)
		}
		found[name] = true
	}
	return found
}

// brokenLinks are the links of a document, into this project, that lead nowhere.
func brokenLinks(name string, documents map[string]string) []string {
	var broken []string
	text := regexp.MustCompile("`[^`]*`").ReplaceAllString(prose(documents[name]), "code")
	for _, link := range regexp.MustCompile(`\]\(\s*([^)\s]+)[^)]*\)`).FindAllStringSubmatch(text, -1) {
		if strings.Contains(link[1], "://") || strings.HasPrefix(link[1], "mailto:") {
			continue
		}
		path, fragment, _ := strings.Cut(link[1], "#")
		target := name
		if path != "" {
			target = filepath.ToSlash(filepath.Join(filepath.Dir(name), path))
		}
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(target))); err != nil && documents[target] == "" {
			broken = append(broken, link[1]+": no such file")
			continue
		}
		if fragment != "" && filepath.Ext(target) == ".md" && !anchors(documents[target])[fragment] {
			broken = append(broken, link[1]+": no such heading")
		}
	}
	return broken
}

func TestLinksInsideTheProjectLeadSomewhere(t *testing.T) {
	all := documents(t)
	for name := range all {
		for _, link := range brokenLinks(name, all) {
			t.Errorf("%s: %s", name, link)
		}
	}
}

// TestREADMEIsShort: what is longer is read by nobody, and has a page in docs.
func TestREADMEIsShort(t *testing.T) {
	const most = 8192
	if n := len(read(t, filepath.Join(root, "README.md"))); n > most {
		t.Errorf("README.md has %d bytes, want at most %d: move what is long to docs", n, most)
	}
}

// TestIndexNamesEveryPage: docs/README.md leads to each page beside it.
func TestIndexNamesEveryPage(t *testing.T) {
	all := documents(t)
	index := all["docs/README.md"]
	for name := range all {
		page, beside := strings.CutPrefix(name, "docs/")
		if beside && page != "README.md" && !strings.Contains(page, "/") && !strings.Contains(index, "("+page+")") {
			t.Errorf("docs/README.md does not name %s", page)
		}
	}
}

func TestBrokenLinksAreFound(t *testing.T) {
	all := map[string]string{
		"made/a.md": "# A `b`: c\n[x](b.md#two) [x](#a-b-c) [x](b.md#three) [x](c.md) [x](https://example.org/) `[x](d.md)`\n```\n[x](e.md)\n```\n",
		"made/b.md": "## Two\n",
	}
	got := strings.Join(brokenLinks("made/a.md", all), "; ")
	if want := "b.md#three: no such heading; c.md: no such file"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
