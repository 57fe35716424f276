package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestErrorTextsOfTheFAQAreInTheCode: a heading of docs/faq.md that is a text in
// backticks is one that somebody saw. Its parts, between "…", stand in this
// project's Go source or among the texts of kube-apiserver.
func TestErrorTextsOfTheFAQAreInTheCode(t *testing.T) {
	source := goSource(t) + read(t, "apiserver-texts.txt")
	all := documents(t)
	for _, part := range missingTexts(all["docs/faq.md"], source) {
		t.Errorf("docs/faq.md: no code says %q; a text of kube-apiserver goes into test/docs/apiserver-texts.txt, under its file", part)
	}
}

func TestErrorTextThatNoCodeSaysIsFound(t *testing.T) {
	faq := "### `KMS0001: key … is lost`\n### `it is … gone`\n### What is `lost`?\n```\n### `in a block`\n```\n"
	got := missingTexts(faq, `errorf("key %s is lost")`+"\n"+`"it is "`)
	if want := []string{"KMS0001: key", "gone"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// missingTexts are the parts of error texts in headings that source lacks.
func missingTexts(faq, source string) []string {
	var missing []string
	for _, heading := range regexp.MustCompile("(?m)^#+ `([^`]+)`\\s*$").FindAllStringSubmatch(prose(faq), -1) {
		for part := range strings.SplitSeq(heading[1], "…") {
			if part = strings.TrimSpace(part); part != "" && !strings.Contains(source, part) {
				missing = append(missing, part)
			}
		}
	}
	return missing
}

// goSource is all Go source of the program, without tests.
func goSource(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	files := os.DirFS(root)
	for _, dir := range []string{"cmd", "internal"} {
		err := fs.WalkDir(files, dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
				return err
			}
			data, err := fs.ReadFile(files, name)
			all.Write(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if all.Len() == 0 {
		t.Fatal("no Go source: the test is wrong")
	}
	return all.String()
}
