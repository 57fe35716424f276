package filewatch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestPathsAreFollowedAsTheKernelDoes(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(testkit.Directory(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, made), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"a/up": "../c", "c/file": "real", "abs": dir + "/a", "loop": "loop", "a/b/dangling": "../none/file", "empty": "c/./../a/up/./file",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/c/real", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"c/real":        "c/real",
		"c/file":        "c/file c/real",
		"a/up/file":     "a/up c/file c/real",
		"abs/up/real":   "a/up abs c/real",
		"empty":         "a/up c/file c/real empty",
		"loop":          "loop",
		"none/file":     "none",
		"a/b/dangling":  "a/b/dangling a/none",
		"a/b/../up/x/y": "a/up c/x",
		"c/real/x":      "c/real",
	} {
		p := placesOf(filepath.Join(dir, "") + "/" + path)
		var got []string
		for name := range p.names {
			rel, err := filepath.Rel(dir, name)
			if err != nil || !p.dirs[filepath.Dir(name)] {
				t.Errorf("%s: %s is not watched, or outside: %v", path, name, err)
			}
			got = append(got, rel)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s leads through %v, want %s", path, got, want)
		}
	}
}
