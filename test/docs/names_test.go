package docs_test

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTestsThatDocsNameExist: a document that says which test holds it names one
// that there is.
func TestTestsThatDocsNameExist(t *testing.T) {
	source := testSource(t)
	found := 0
	for name, text := range documents(t) {
		for _, named := range regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]+)`").FindAllStringSubmatch(text, -1) {
			found++
			if !strings.Contains(source, "\nfunc "+named[1]+"(") {
				t.Errorf("%s names %s, and there is no such test", name, named[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("found %d names: the test is wrong", found)
	}
}

// testSource is the source of all tests.
func testSource(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	files := os.DirFS(root)
	for _, dir := range []string{"cmd", "internal", "test", "tools"} {
		err := fs.WalkDir(files, dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
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
	return all.String()
}
