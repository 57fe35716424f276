package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	referencePath = "../../docs/configuration.md"
	examplesPath  = "../../deploy/examples"
)

// TestReferenceShowsTheFullExample: what the reference prints is a file that is
// known to load, and no field is missing in it.
func TestReferenceShowsTheFullExample(t *testing.T) {
	t.Parallel()
	full := read(t, filepath.Join(examplesPath, "full.yaml"))
	if !strings.Contains(read(t, referencePath), "```yaml\n"+full+"```\n") {
		t.Errorf("%s does not print full.yaml as it is", referencePath)
	}
	for _, path := range paths(reflect.TypeFor[document](), "") {
		field := path[strings.LastIndexByte(path, '.')+1:]
		if !regexp.MustCompile(`(?m)^[ -]*` + regexp.QuoteMeta(field) + `:`).MatchString(full) {
			t.Errorf("full.yaml does not have %s", path)
		}
	}
}

// TestReferenceNamesEachField compares the table of fields with the file, and its
// flags with those that the field excludes.
func TestReferenceNamesEachField(t *testing.T) {
	t.Parallel()
	rows := map[string]string{} // field → flag that says the same
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`-][^`]*)` \\| [^|]* \\| [^|]* \\|([^|]*)\\|").FindAllStringSubmatch(read(t, referencePath), -1) {
		rows[m[1]] = m[2]
	}
	var have, want []string
	for field := range rows {
		have = append(have, field)
	}
	want = paths(reflect.TypeFor[document](), "")
	slices.Sort(have)
	slices.Sort(want)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("the fields of the file (-) and those of the table (+):\n%s", diff)
	}
	deprecated := []string{"qps-limit", "burst-limit", "debug"}
	for _, same := range translation() {
		if !slices.Contains(deprecated, same.flag) && !strings.Contains(rows[same.field], "`--"+same.flag+"`") {
			t.Errorf("the row of %s does not name --%s", same.field, same.flag)
		}
	}
}

// paths are the fields of a document's struct that hold a value or a list of
// structs, as mistakes name them.
func paths(t reflect.Type, at string) []string {
	var out []string
	for _, f := range fieldsOf(t) {
		path, of := join(at, f.name), t.Field(f.index).Type
		switch {
		case of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
			out = append(append(out, path), paths(of.Elem(), path+"[]")...)
		case of.Kind() == reflect.Struct:
			out = append(out, paths(of, path)...)
		default:
			out = append(out, path)
		}
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
