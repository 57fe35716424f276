package docs_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const ownModule = "sigs.k8s.io/aws-encryption-provider/"

// rooms are the packages of a module, each with what it imports of this project, as
// docs/architecture.md calls them: its own helpers for tests left out.
func rooms(t *testing.T, module string) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...")
	cmd.Dir = filepath.Join(root, module)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v", module, err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		room := strings.TrimPrefix(fields[0], ownModule)
		found[room] = []string{}
		for _, imported := range fields[1:] {
			if name, ours := strings.CutPrefix(imported, ownModule); ours {
				found[room] = append(found[room], called(name))
			}
		}
		slices.Sort(found[room])
	}
	return found
}

// called is how the page names a room beside others: by its last part, or by its last
// two where another room has that.
func called(room string) string {
	name := strings.TrimPrefix(strings.TrimPrefix(room, "internal/"), "cmd/kubectl-kms/")
	return strings.TrimPrefix(name, "kmsemulator/")
}

// told are the rooms of the page's table with what they import.
func told(t *testing.T) map[string][]string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `((?:internal|cmd|docs|hack|test/model)[a-z0-9/-]*)` \\|.*\\| ([^|]*) \\|$")
	found := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(documents(t)["docs/architecture.md"], -1) {
		found[m[1]] = []string{}
		if list := strings.TrimSpace(m[2]); list != "" && list != "none" {
			found[m[1]] = strings.Split(list, ", ")
			slices.Sort(found[m[1]])
		}
	}
	return found
}

// TestRoomsAndArrowsAreThoseOfThePage: docs/architecture.md lists each package of the
// program and of kubectl-kms with exactly what it imports of this project.
func TestRoomsAndArrowsAreThoseOfThePage(t *testing.T) {
	t.Parallel()
	page, left := told(t), told(t)
	for _, module := range []string{".", "cmd/kubectl-kms"} {
		for room, imports := range rooms(t, module) {
			want, listed := page[room]
			delete(left, room)
			switch {
			case isPartOf(room, page): // told with the room that it belongs to
			case !listed:
				t.Errorf("%s is not on the page; it imports %s", room, strings.Join(imports, ", "))
			case !slices.Equal(imports, want):
				t.Errorf("%s imports %s\nand the page says %s", room, strings.Join(imports, ", "), strings.Join(want, ", "))
			}
		}
	}
	for room := range left {
		t.Errorf("%s is on the page, and there is no such package", room)
	}
}

// isPartOf reports whether a room without a row is a helper of tests, or a part, of the
// room above it.
func isPartOf(room string, page map[string][]string) bool {
	_, listed := page[room]
	_, above := page[filepath.Dir(room)]
	return !listed && above && room != filepath.Dir(room)
}

// TestFilesOfRoomsAreThoseOfThePage: where docs/architecture.md lists the files of a
// room, it lists each.
func TestFilesOfRoomsAreThoseOfThePage(t *testing.T) {
	t.Parallel()
	_, section, found := strings.Cut(documents(t)["docs/architecture.md"], "\n## Files\n")
	if !found {
		t.Fatal("docs/architecture.md has no section Files")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	const fewest = 15
	items := strings.Split(section, "\n- `")[1:]
	if len(items) < fewest {
		t.Fatalf("the section has %d rooms, want %d or more", len(items), fewest)
	}
	file := regexp.MustCompile("`([a-z0-9_]+\\.go)`")
	for _, item := range items {
		room, rest, _ := strings.Cut(item, "`")
		listed := map[string]bool{}
		for _, m := range file.FindAllStringSubmatch(rest, -1) {
			listed[m[1]] = true
		}
		dir := filepath.Join(root, "internal", room)
		if strings.HasPrefix(room, "cmd/") || strings.HasPrefix(room, "test/") || strings.HasPrefix(room, "tools/") {
			dir = filepath.Join(root, room)
		}
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			name := filepath.Base(path)
			if !strings.HasSuffix(name, "_test.go") && !listed[name] {
				t.Errorf("%s/%s is not on the page", room, name)
			}
			delete(listed, name)
		}
		for name := range listed {
			t.Errorf("the page lists %s/%s, and there is no such file", room, name)
		}
	}
}
