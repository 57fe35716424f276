package report_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

func TestPlainQuotesWhatATerminalWouldAct(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"secrets":         "secrets",
		"a b":             "a b",
		`say "it"`:        `say "it"`,
		"":                `""`,
		" a":              `" a"`,
		`"a`:              `"\"a"`,
		"a\nb":            `"a\nb"`,
		"\x1b[31m":        `"\x1b[31m"`,
		"a\u202eb":        `"a\u202eb"`,
		"caf\u00e9":       `"caf\u00e9"`,
		"\xff":            `"\xff"`,
		"tab\tand\\slash": `"tab\tand\\slash"`,
	} {
		if got := report.Plain(text); got != want {
			t.Errorf("Plain(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestCountHasCommas(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 14212: "14,212", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := report.Count(n); got != want {
			t.Errorf("Count(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestWrapBreaksAtBlanksBefore81Columns(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100)
	text := report.Wrap("word "+strings.Repeat("seven77 ", 30)+long+" end", "  ")
	for i, line := range strings.Split(text, "\n") {
		if len(line) > report.Columns && line != "  "+long || i > 0 && !strings.HasPrefix(line, "  ") || strings.HasSuffix(line, " ") {
			t.Errorf("line %d: %q", i, line)
		}
	}
	if strings.Join(strings.Fields(text), " ") != "word "+strings.Repeat("seven77 ", 30)+long+" end" {
		t.Errorf("words are lost: %s", text)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		table report.Table
		want  string
	}{
		"numbers at the right, empty columns left out": {
			report.Table{
				Columns: []report.Column{{Name: "WHAT"}, {Name: "NOTHING"}, {Name: "N", Right: true}},
				Rows:    [][]string{{"secrets", "", "9,812"}, {"a", "", "3"}},
			},
			"WHAT         N\nsecrets  9,812\na            3\n",
		},
		"a cell that is too wide ends its line": {
			report.Table{
				Columns: []report.Column{{Name: "WHAT"}, {Name: "UNDER"}, {Name: "N", Right: true}},
				Rows:    [][]string{{"secrets", "a", "1"}, {strings.Repeat("r", 60), strings.Repeat("u", 30), "2"}},
			},
			"WHAT                                           UNDER                           N\n" +
				"secrets                                        a                               1\n" +
				strings.Repeat("r", 60) + "\n" +
				strings.Repeat(" ", 47) + strings.Repeat("u", 30) + "  2\n",
		},
		"one long name breaks no other row": {
			report.Table{
				Columns: []report.Column{{Name: "WHAT"}, {Name: "UNDER"}, {Name: "N", Right: true}},
				Rows:    [][]string{{"secrets", strings.Repeat("u", 60), "1"}, {strings.Repeat("r", 40), "plaintext", "2"}, {"pods", strings.Repeat("v", 60), "3"}},
			},
			"WHAT             UNDER                                                         N\n" +
				"secrets          " + strings.Repeat("u", 60) + "  1\n" +
				strings.Repeat("r", 40) + "\n" +
				"                 plaintext                                                     2\n" +
				"pods             " + strings.Repeat("v", 60) + "  3\n",
		},
		"the row that says most stays whole": {
			report.Table{
				Columns: []report.Column{{Name: "WHAT"}, {Name: "UNDER"}, {Name: "KEY"}, {Name: "N", Right: true}},
				Rows:    [][]string{{"secrets", strings.Repeat("u", 45), "key", "1"}, {strings.Repeat("r", 40), "plaintext", "", "2"}},
			},
			"WHAT                       UNDER                                          KEY  N\n" +
				"secrets                    " + strings.Repeat("u", 45) + "  key  1\n" +
				strings.Repeat("r", 40) + "\n" +
				"                           plaintext                                           2\n",
		},
		"no rows": {
			report.Table{Columns: []report.Column{{Name: "A"}, {Name: "B"}}},
			"\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if err := c.table.Print(&b); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for line := range strings.Lines(b.String()) {
				if n := len(strings.TrimSuffix(line, "\n")); n > report.Columns {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

func TestYAMLIsJSONInItsOrder(t *testing.T) {
	t.Parallel()
	v := struct {
		Z string   `json:"z"`
		A []string `json:"a"`
		N *int     `json:"n"`
	}{"no", []string{"x: y", "1", "a\nb"}, nil}
	var b strings.Builder
	if err := report.YAML(&b, v); err != nil {
		t.Fatal(err)
	}
	want := "z: \"no\"\na:\n  - 'x: y'\n  - \"1\"\n  - |-\n    a\n    b\n\"n\": null\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPairsStandBelowEachOther(t *testing.T) {
	t.Parallel()
	p := report.NewPairs(6)
	p.Add("name", "value")
	p.Add("left", "")
	p.Add("", "goes on")
	var b strings.Builder
	if err := p.Print(&b); err != nil || b.String() != "name   value\n       goes on\n" {
		t.Errorf("%v, got\n%s", err, b.String())
	}
}

func TestPrinterKeepsTheFirstErrorAndWritesNothingAfterIt(t *testing.T) {
	full := errors.New("no space left")
	w := &failingWriter{room: 1, err: full}
	p := &report.Printer{W: w}
	p.Sentence("one")
	p.Sentence("two")
	p.Table(report.Table{Columns: []report.Column{{Name: "A"}}, Rows: [][]string{{"b"}}})
	p.Indented(" ", " ", "three")
	if !errors.Is(p.Err(), full) || w.calls != 2 {
		t.Errorf("Err %v after %d writes, want %v after 2", p.Err(), w.calls, full)
	}
}

type failingWriter struct {
	room, calls int
	err         error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	w.calls++
	if w.calls > w.room {
		return 0, w.err
	}
	return len(p), nil
}
