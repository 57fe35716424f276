package encryptionconfig

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a line shows by itself.
var (
	commentForm = regexp.MustCompile(`(^|\s)#`)
	equalsForm  = regexp.MustCompile(equals)
	joinedForm  = regexp.MustCompile(`^\s*(- +)?[A-Za-z][A-Za-z0-9]*:[^\s:/]`)
)

// mergeKey is YAML's, which copies the fields of another object.
const mergeKey = "<<"

// marks are what templates and shells write where a value goes in, and what Go's
// templates write where there was none. None of them is in base64.
var marks = regexp.MustCompile(`\{\{|\{%|<%|\$\{|\$\(|\$[A-Z_][A-Z0-9_]{2}|<no value>|%![a-z]?\(`)

// unfilled says that a text has the mark of a template in it, and "" where it has
// none.
func unfilled(text string) string {
	mark := marks.FindString(text)
	switch {
	case mark == "":
		return ""
	case strings.HasPrefix(mark, "<no"), strings.HasPrefix(mark, "%!"):
		return "a template was run without a value for this line: kube-apiserver reads the file as it stands, so give the template the value"
	case mark[0] == '$' && mark[1] != '{' && mark[1] != '(':
		mark = "$"
	}
	return fmt.Sprintf("a template or variable (%s) in this line was not filled in: kube-apiserver reads the file as it stands, so fill it in before", mark)
}

// uncommented is a line without its comment.
func uncommented(line string) string {
	if at := commentForm.FindStringIndex(line); at != nil {
		return line[:at[0]]
	}
	return line
}

// strange says which character of a line looks like another one that is meant, and
// "" where there is none.
func strange(line string) string {
	for _, r := range line {
		switch {
		case strings.ContainsRune("\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02", r):
			return fmt.Sprintf("this line has a typographic quote (%c): write a plain one (\")", r)
		case strings.ContainsRune("\u2018\u2019\u201a\u201b\u2039\u203a\u00b4\uff07", r):
			return fmt.Sprintf("this line has a typographic quote (%c): write a plain one (')", r)
		case strings.ContainsRune("\u2010\u2011\u2012\u2013\u2014\u2212\u2022", r):
			return fmt.Sprintf("this line has a dash or bullet (%c) that is not the hyphen of lists and names: write -", r)
		case strings.ContainsRune("\uff1a\ua789", r):
			return fmt.Sprintf("this line has a colon (%c) that is not that of fields: write a plain one", r)
		case r != ' ' && unicode.Is(unicode.Zs, r):
			return fmt.Sprintf("this line has a blank (%U) that is not the one of indentation: write plain blanks", r)
		case r == '\u2028' || r == '\u2029' || r == '\u00ad' || unicode.Is(unicode.Cf, r):
			return fmt.Sprintf("this line has a character (%U) that nobody sees: type the line again", r)
		}
	}
	return ""
}

// equals is a field with = for its colon.
const equals = `^\s*(- +)?[A-Za-z][A-Za-z0-9]*\s*=`

// unseparated says that a line has a field that is none, for its separator.
func unseparated(line string) string {
	switch {
	case equalsForm.MatchString(line):
		return "this line has a field with =: write a colon and a blank"
	case joinedForm.MatchString(line):
		return "this line has a colon without a blank behind it, which makes no field: write one"
	}
	return ""
}

// invisible reports whether a character at a text's end is there by mistake: a blank
// or quote of any kind, or a slash, comma or semicolon.
func invisible(r rune) bool {
	return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune("\"'`/,;:\\", r) || strings.Contains(strange(string(r)), "quote")
}

// plainly is a text without what is at its ends by mistake.
func plainly(text string) string { return strings.TrimFunc(text, invisible) }

// because gives mistakes the reason that their lines show: a template that nobody
// filled in, or a character that only looks like the one that is meant.
func because(mistakes Mistakes, data []byte) Mistakes {
	lines := bytes.Split(data, []byte("\n"))
	var all Mistakes
	for _, m := range mistakes {
		if m.Line > 0 && m.Line <= len(lines) {
			line := uncommented(strings.TrimPrefix(string(lines[m.Line-1]), "\ufeff"))
			why := cmp.Or(unfilled(line), strange(line), unseparated(line))
			switch {
			case why == "" || why == m.Text:
			case m.Path == "" && unfilled(line) != "":
				m.Text = why // the parser stumbled over it
			default:
				m.Text += "; " + why
			}
		}
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// templated are the lines that a template should have filled in, of a file that
// cannot be read at all: what the parser says of it then tells nothing.
func templated(data []byte) Mistakes {
	var all Mistakes
	lines := bytes.Split(data, []byte("\n"))
	for number := range linesWith(data, marks.String()) {
		all = append(all, Mistake{Line: number, Text: unfilled(uncommented(string(lines[number-1])))})
	}
	return all
}

// lineWith is the first line that a pattern is in, outside comments, and 0 without.
func lineWith(data []byte, pattern string) int {
	for number := range linesWith(data, pattern) {
		return number
	}
	return 0
}

// lastLineWith is the last such line.
func lastLineWith(data []byte, pattern string) int {
	last := 0
	for number := range linesWith(data, pattern) {
		last = number
	}
	return last
}

func linesWith(data []byte, pattern string) iter.Seq[int] {
	wanted := regexp.MustCompile(pattern)
	return func(yield func(int) bool) {
		number := 0
		for line := range bytes.Lines(data) {
			number++
			if wanted.MatchString(uncommented(string(line))) && !yield(number) {
				return
			}
		}
	}
}

// damagedLine is the first line that is no text, and 0 where all are.
func damagedLine(data []byte) int {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if !utf8.Valid(line) || bytes.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\t\r\n\u0085", r) }) {
			return number
		}
	}
	return 0
}
