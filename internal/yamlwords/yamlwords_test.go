package yamlwords_test

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
	yamlv3 "go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/internal/yamlwords"
)

// parsers are those of the program: that of its own file, and that of kube-apiserver's.
func parsers() map[string]func([]byte) error {
	return map[string]func([]byte) error{
		"v3": func(data []byte) error {
			decoder := yamlv3.NewDecoder(strings.NewReader(string(data)))
			for {
				if err := decoder.Decode(new(yamlv3.Node)); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
			}
		},
		"v2": func(data []byte) error { return yaml.Unmarshal(data, new(any)) },
	}
}

// theirs are words of the parsers and of Go.
var theirs = regexp.MustCompile(`yaml:|expected|token|scalar|mapping|sequence|stream|octet|context|node|anchor '|found |while |invalid|parse|unmarshal|%!`)

// brokenFiles are files by what is wrong with them.
func brokenFiles() map[string]struct {
	text string
	line int
	want string // part of the words
} {
	type file = struct {
		text string
		line int
		want string
	}
	return map[string]file{
		"a tab for an indentation":        {"a:\n\tb: 1\n", 2, "indent with blanks"},
		"a tab behind blanks":             {"a:\n  b: 1\n  \tc: 2\n", 3, "indent with blanks"},
		"a tab before a hyphen":           {"a:\n\t- b\n", 2, "indent with blanks"},
		"a tab behind a hyphen":           {"a:\n-\tb: 1\n", 2, "indent with blanks"},
		"a tab, lines end as on Windows":  {"a:\r\n\tb: 1\r\n", 2, "indent with blanks"},
		"a tab, lines end as on old Macs": {"a:\r\tb: 1\r", 2, "indent with blanks"},
		"a tab in a block of text":        {"a: |\n\tb\n", 2, "indent with blanks"},
		"a no-break space":                {"- a: 1\n\u00a0\u00a0b: 2\n  c: 3\n", 2, "invisible character"},
		"a space of no width":             {"a: 1\n\u200bb c\nd: 1\n", 2, "invisible character"},
		"too far to the right":            {"a: 1\n  b: 2\n", 2, "indentation"},
		"between two levels":              {"a:\n    b: 1\n  c: 2\n", 3, "indentation"},
		"an element too far to the left":  {"a:\n  - b\n - c\n", 3, "indentation"},
		"two fields on a line":            {"a: b c: d\n", 1, "needs quotes"},
		"a list behind its field":         {"a: - b\n", 1, "line of its own"},
		"no colon":                        {"a: 1\nb\nc: 2\n", 2, "name: value"},
		"no blank behind the colon":       {"a: 1\nb:2\nc: 3\n", 2, "name: value"},
		"no colon at the end":             {"a: 1\nb", 2, "name: value"},
		"an at sign":                      {"a: @b\n", 1, "put it in quotes"},
		"a backtick":                      {"a: `b`\n", 1, "put it in quotes"},
		"a percent sign":                  {"a: %b\n", 1, "put it in quotes"},
		"a star":                          {"a: *b\n", 1, "in quotes"},
		"two stars":                       {"- *.*\n", 1, "in quotes"},
		"an ampersand":                    {"a: & b\n", 1, "in quotes"},
		"an exclamation mark":             {"a: !<b\n", 1, "in quotes"},
		"a tag without a handle":          {"a: !b!c d\n", 1, "in quotes"},
		"a tag with a bad escape":         {"a: !%zz d\n", 1, "in quotes"},
		"an open quote":                   {"a: 1\nb: \"c\nd: 2\n", 2, "not closed"},
		"an open single quote":            {"a: 1\nb: 'c\nd: 2\n", 2, "not closed"},
		"something behind a quote":        {"a: \"b\" c\nd: 1\n", 1, "quote"},
		"an unknown escape":               {`a: "C:\dir"` + "\n", 1, "single quotes"},
		"a bad number in an escape":       {`a: "\uZZZZ"` + "\n", 1, "single quotes"},
		"an open bracket":                 {"a: [1, 2\nb: 3\n", 2, "not closed"},
		"an open brace":                   {"a: {b: 1\n", 1, "not closed"},
		"no comma":                        {"a: {b: \"1\" c: 2}\n", 1, "comma"},
		"a bracket alone":                 {"a: ]\n", 1, "bracket"},
		"a comma alone":                   {"a: , b\n", 1, "comma"},
		"no comma in JSON":                {"{\"a\": 1 \"b\": 2}\n", 1, "comma"},
		"no comma far below":              {"{\n \"a\": [1, \"x]\"], # ]\n \"b\": \"c\"\n \"d\": 2,\n \"e\": 3\n}\n", 4, "comma"},
		"an apostrophe before":            {"a: it's\nb: {c: 'd', e: \"f\\\"\"\n", 2, "not closed"},
		"a template's value":              {"a: {{- .b -}}\n", 1, "template"},
		"a template's list":               {"a: {{ toYaml .b }}\n- c: 1\n", 1, "template"},
		"a template's block":              {"a: 1\n{{- range .b }}\nc: 2\n{{- end }}\n", 2, "template"},
		"another template's block":        {"a: 1\n{% for b in c %}\nd: 2\n", 2, "template"},
		"a merge conflict":                {"a: 1\n<<<<<<< HEAD\nb: 2\n=======\nb: 3\n>>>>>>> main\n", 2, "merge conflict"},
		"a web page":                      {"<!DOCTYPE html>\n<a href=\"b: c\">\n", 2, ""},
		"a directive":                     {"%FOO bar\na: 1\n", 1, "directive"},
		"a version":                       {"%YAML 3.0\n---\na: 1\n", 1, "directive"},
		"an ini file":                     {"[a]\nb = c\n", 2, "name: value"},
		"text behind the end":             {"a: 1\n... b\n", 2, "name: value"},
		"a number behind a bar":           {"a: |0\n  b\n", 1, "next line"},
		"a word behind a bar":             {"a: |b\n  c\n", 1, "next line"},
		"too deep":                        {strings.Repeat("[", 20000), 1, "too deep"},
		"a colon alone":                   {": a\nb: 1\n", 1, ""},
		"NUL":                             {"a: 1\nb: c\x00d\n", 2, "U+0000"},
		"NUL at the end":                  {"a: 1\n\x00", 2, "U+0000"},
		"ESC":                             {"a: \x1b[1m\n", 1, "U+001B"},
		"DEL":                             {"a: \x7f\n", 1, "U+007F"},
		"Latin-1":                         {"a: 1\nb: caf\xe9\n", 2, "not UTF-8"},
		"UTF-16":                          {"\xff\xfea\x00:\x00", 1, "UTF-16"},
		"a byte order mark in the middle": {"a: 1\n\ufeffb: 2\n", 2, "byte order mark"},
		"two byte order marks":            {"\ufeff\ufeffa: 1\n", 1, "byte order mark"},
	}
}

// TestBrokenYAMLIsExplainedInOurWords holds the words of the parsers back, whatever
// is wrong.
func TestBrokenYAMLIsExplainedInOurWords(t *testing.T) {
	t.Parallel()
	for name, c := range brokenFiles() {
		for parser, read := range parsers() {
			data := []byte(c.text)
			m, found := yamlwords.Characters(data)
			if err := read(data); !found && err == nil {
				if parser == "v3" { // v2 takes a few of them
					t.Errorf("%s: this is YAML", name)
				}
				continue
			} else if err != nil {
				m = yamlwords.Explain(data, err, read)
			}
			if m.Line != c.line || !strings.Contains(m.Text, c.want) || m.Text == "" {
				t.Errorf("%s, %s: line %d, %s\nwant line %d and %q", name, parser, m.Line, m.Text, c.line, c.want)
			}
			if theirs.MatchString(m.Text) {
				t.Errorf("%s, %s: the parser's words: %s", name, parser, m.Text)
			}
		}
	}
}

// TestNoErrorOfAParserIsPassedOn: an error that nobody foresaw is explained too.
func TestNoErrorOfAParserIsPassedOn(t *testing.T) {
	t.Parallel()
	secret := errors.New("yaml: line 3: something new about 'aGVsbG8='")
	m := yamlwords.Explain([]byte("a: 1\nb: 2\n"), secret, func([]byte) error { return secret })
	if m.Line != 1 || theirs.MatchString(m.Text) || strings.Contains(m.Text, "aGVs") || !strings.Contains(m.Text, "indentation") {
		t.Errorf("%+v", m)
	}
}

func TestGoodCharactersAreTaken(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "a: b\n", "\ufeffa: b\n", "a:\tb\r\n", "é: \U0001f511\n", "a: \u00a0\u2028\u0085"} {
		if m, found := yamlwords.Characters([]byte(text)); found {
			t.Errorf("%q: %+v", text, m)
		}
	}
}

func TestLinesAreThoseThatTheParsersCount(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                      `[""]`,
		"a":                     `["a"]`,
		"a\nb":                  `["a\n" "b"]`,
		"a\r\nb\rc\n":           `["a\r\n" "b\r" "c\n" ""]`,
		"a\u0085b\u2028c\u2029": `["a\u0085" "b\u2028" "c\u2029" ""]`,
	} {
		if got := fmt.Sprintf("%q", yamlwords.Lines([]byte(text))); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
