// Package loaders compares internal/encryptionconfig with kube-apiserver's own
// loader, that of five minor versions. What the loader takes the package must take,
// and what it refuses the package must refuse: files of the shapes that people
// post, one file for each rule, and mutations of all these.
//
// The loaders are programs of modules of their own (1.33 and its siblings), since
// one program cannot link two versions of k8s.io/apiserver.
package loaders_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// minors are the folders of the loaders.
func minors() []string { return []string{"1.33", "1.34", "1.35", "1.36", "1.37"} }

// TestLoadersAreOneText: the loaders differ in their versions alone.
func TestLoadersAreOneText(t *testing.T) {
	first := read(t, filepath.Join(minors()[0], "main.go"))
	for _, minor := range minors() {
		if !bytes.Equal(read(t, filepath.Join(minor, "main.go")), first) {
			t.Errorf("%s/main.go differs from that of %s: copy it", minor, minors()[0])
		}
		if want := "k8s.io/apiserver v0." + strings.TrimPrefix(minor, "1.") + "."; !strings.Contains(string(read(t, filepath.Join(minor, "go.mod"))), want) {
			t.Errorf("%s/go.mod does not require %s", minor, want)
		}
	}
	found, err := filepath.Glob("*/main.go")
	if err != nil || len(found) != len(minors()) {
		t.Errorf("there are %q, %v: want those of %q", found, err, minors())
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// posted are the files that internal/encryptionconfig keeps of what people post.
func posted(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../../internal/encryptionconfig/testdata/posted/*")
	if err != nil || len(files) < 20 {
		t.Fatalf("posted files: %q, %v", files, err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		all[filepath.Base(file)] = read(t, file)
	}
	return all
}

// written are the posted files and a case for each rule, by name.
func written(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for name, data := range posted(t) {
		files["posted-"+name] = data
	}
	for name, text := range cases() {
		files["case-"+strings.ReplaceAll(name, "/", "|")] = []byte(text)
	}
	return files
}

// TestSaysWhatKubeAPIServerSays is the comparison.
func TestSaysWhatKubeAPIServerSays(t *testing.T) {
	files := written(t)
	folder := t.TempDir()
	write(t, folder, files)
	var good, bad [][]byte
	for _, v := range ask(t, minors()[len(minors())-1], folder) { // sorted by name
		switch {
		case !v.Reload:
		case v.Error == "":
			good = append(good, files[v.File])
		default:
			bad = append(bad, files[v.File])
		}
	}
	if len(good) < 50 || len(bad) < 50 {
		t.Fatalf("%d good and %d bad files: want 50 of both", len(good), len(bad))
	}
	const seed, count = 20261128, 4000
	t.Logf("seed %d: %d mutations of %d good and %d bad files", seed, count, len(good), len(bad))
	for i, data := range mutations(seed, count, good, bad) {
		files[fmt.Sprintf("mutation-%04d", i)] = data
	}
	write(t, folder, files)
	for _, minor := range minors() {
		t.Run(minor, func(t *testing.T) { compare(t, files, ask(t, minor, folder)) })
	}
}

func write(t *testing.T, folder string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A verdict is a line of a loader.
type verdict struct {
	File   string `json:"file"`
	Reload bool   `json:"reload"`
	Error  string `json:"error"`
}

// ask builds a loader and runs it over a folder.
func ask(t *testing.T, minor, folder string) []verdict {
	t.Helper()
	program := filepath.Join(t.TempDir(), "loader")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, ".")
	build.Dir = minor
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the loader: %v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), program, folder)
	var problems bytes.Buffer
	run.Stderr = &problems
	out, err := run.Output()
	if err != nil {
		t.Fatalf("the loader: %v\n%s", err, problems.Bytes())
	}
	var all []verdict
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var v verdict
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatalf("%v in %q", err, lines.Bytes())
		}
		all = append(all, v)
	}
	return all
}

func compare(t *testing.T, files map[string][]byte, verdicts []verdict) {
	t.Helper()
	if len(verdicts) != 2*len(files) {
		t.Fatalf("%d verdicts of %d files", len(verdicts), len(files))
	}
	var accepted, refused, differences int
	for _, v := range verdicts {
		data := files[v.File]
		mutation := strings.HasPrefix(v.File, "mutation-")
		switch {
		case mutation && v.Error == "":
			accepted++
		case mutation:
			refused++
		}
		ours := encryptionconfig.Refused(data, v.Reload)
		if (len(ours) == 0) == (v.Error == "") || explained(data) != "" {
			continue
		}
		if differences++; differences <= 10 {
			t.Errorf("%s, reload %v: kube-apiserver %s; we %s. The file:\n%s",
				v.File, v.Reload, said(v.Error), said(ours.Error()), data)
		}
	}
	t.Logf("mutations: %d verdicts accepted, %d refused; %d differences", accepted, refused, differences)
	if accepted < 2*500 || refused < 2*500 { // two verdicts each
		t.Errorf("of the mutations %d verdicts are accepted and %d refused: want 1000 of both", accepted, refused)
	}
}

func said(text string) string {
	if text == "" {
		return "accepts it"
	}
	return "refuses it: " + text
}

// explained says why a difference is meant, and "" where it is none.
func explained(data []byte) string {
	if bytes.Contains(data, []byte("apiserver.config.k8s.io/__internal")) {
		return "kube-apiserver takes its in-memory form too, whose fields are written as in Go; no documentation has it, and it crashes with kms entries"
	}
	return ""
}

// TestWordsAreOurs: of all files, no mistake is told in Go's words, with a key, or
// without saying where.
func TestWordsAreOurs(t *testing.T) {
	files := slices.SortedFunc(maps.Values(written(t)), bytes.Compare)
	files = append(files, mutations(7, 3000, files, files)...)
	foreign := regexp.MustCompile(`unmarshal|struct|json:|yaml:|strconv|Duration|interface|!!|%!|invalid syntax|already set|not found in type|nil\b|&\{|map\[`)
	of, placed := 0, 0 // mistakes of a field, and those with its line
	for _, data := range files {
		_, refused, warnings := encryptionconfig.Examine(data)
		for _, m := range slices.Concat(refused, warnings) {
			if m.Path != "" {
				of++
			}
			if m.Path != "" && m.Line > 0 {
				placed++
			}
			if text := m.String(); foreign.MatchString(text) || strings.ContainsAny(text, "\n\r\t") {
				t.Errorf("%q is not in our words, of\n%s", text, data)
			}
			for _, key := range keys() {
				if strings.Contains(m.String(), strings.TrimRight(key, "=")) {
					t.Errorf("%q has a key in it, of\n%s", m, data)
				}
			}
		}
	}
	t.Logf("%d mistakes of fields, %d with their line", of, placed)
	if of < 1000 || placed*100 < of*85 { // what is missing at the top of a file has none
		t.Errorf("of %d mistakes of fields %d have their line: want nearly all", of, placed)
	}
}
