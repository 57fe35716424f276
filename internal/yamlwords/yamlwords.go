// Package yamlwords says in this program's own words why a file is not YAML.
//
// A parser's words never reach an operator: they name the parts of a grammar, count
// lines in two ways, and may quote a secret of the file. What is printed is chosen
// by the parser's error and by the line that it stumbles over, and comes from here.
//
// It knows the errors of go.yaml.in/yaml v2 and v3, which are those of libyaml, and
// imports neither. All functions are safe for concurrent use.
package yamlwords

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

var lineForm = regexp.MustCompile(`line [0-9]+: `)

// A Mistake is why a file is not YAML, and what to do about it.
type Mistake struct {
	Line int    // from 1
	Text string // it goes on after "is not YAML: "
}

// Explain returns the mistake behind an error of a parser. read is that parser: it
// returns its error on a text, and is asked about beginnings of data to find the first
// line with which the text is no longer YAML. The line that the parser names is not
// used: it may be that of where a construct began.
func Explain(data []byte, err error, read func(data []byte) error) Mistake {
	if m, found := Characters(data); found {
		return m
	}
	lines := Lines(data)
	ends, end := make([]int, len(lines)), 0
	for i, line := range lines {
		end += len(line)
		ends[i] = end
	}
	first := func(same func(beginning []byte) bool) int {
		return sort.Search(len(lines)-1, func(i int) bool { return same(data[:ends[i]]) })
	}
	bad := len(lines)
	if strings.Contains(err.Error(), unclosed) { // a beginning lacks its closing brackets, which is not the mistake
		bad = first(func(beginning []byte) bool { return read(closed(beginning)) != nil })
	}
	if bad == len(lines) || bad == len(lines)-1 && read(closed(data)) == nil {
		bad = first(func(beginning []byte) bool { return alike(read(beginning), err) })
	}
	if bad > 0 && misleads(lines[bad-1]) {
		bad--
	}
	return Mistake{Line: bad + 1, Text: because(err.Error(), lines[bad])}
}

// alike reports whether two errors of a parser differ in the line at most.
func alike(a, b error) bool {
	return a != nil && lineForm.ReplaceAllString(a.Error(), "") == lineForm.ReplaceAllString(b.Error(), "")
}

// unclosed is what the parsers say within brackets and braces.
const unclosed = "did not find expected ',' or"

// closed is the beginning of a text with the brackets and braces closed that it opens.
func closed(text []byte) []byte {
	var open []byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case (c == '"' || c == '\'') && beginsValue(text[:i]):
			i += quoted(text[i:]) - 1
		case c == '#' && (i == 0 || text[i-1] <= ' '): // a comment
			i += max(0, bytes.IndexByte(text[i:], '\n'))
		case c == '[':
			open = append(open, ']')
		case c == '{':
			open = append(open, '}')
		case (c == ']' || c == '}') && len(open) > 0:
			open = open[:len(open)-1]
		}
	}
	slices.Reverse(open)
	return slices.Concat(text, open)
}

// beginsValue reports whether a value can begin behind a text. Elsewhere a quote is an
// apostrophe.
func beginsValue(before []byte) bool {
	before = bytes.TrimRight(before, " ")
	return len(before) == 0 || bytes.IndexByte([]byte("\r\n[{,:-"), before[len(before)-1]) >= 0
}

// quoted is the length of the quoted text that a text begins with.
func quoted(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch {
		case text[0] == '"' && text[i] == '\\':
			i++
		case text[i] == text[0]:
			return i + 1
		}
	}
	return len(text)
}

// Lines takes a text apart at what ends a line in YAML 1.1, which the parsers count:
// besides line feed and carriage return also U+0085, U+2028 and U+2029. Each line keeps
// its end. There is always one.
func Lines(data []byte) [][]byte {
	var lines [][]byte
	for {
		n := lineEnd(data)
		if n < 0 {
			return append(lines, data)
		}
		lines, data = append(lines, data[:n]), data[n:]
	}
}

// lineEnd is the length of the first line; -1 where nothing ends it.
func lineEnd(data []byte) int {
	at := bytes.IndexAny(data, "\n\r\u0085\u2028\u2029")
	if at < 0 {
		return -1
	}
	if bytes.HasPrefix(data[at:], []byte("\r\n")) {
		return at + len("\r\n")
	}
	_, size := utf8.DecodeRune(data[at:])
	return at + size
}

const byteOrderMark = '\ufeff'

// Characters looks for what no YAML is made of: bytes that are not UTF-8, control
// characters, and a byte order mark that is not at the very beginning. found is false
// where there is nothing of the kind.
func Characters(data []byte) (m Mistake, found bool) {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return Mistake{Line: 1, Text: "it is UTF-16: save it as UTF-8"}, true
	}
	begin := len(data) - len(bytes.TrimPrefix(data, []byte(string(byteOrderMark))))
	for at := begin; at < len(data); {
		r, size := utf8.DecodeRune(data[at:])
		if text := forbidden(r, size); text != "" {
			return Mistake{Line: len(Lines(data[:at])), Text: text}, true
		}
		at += size
	}
	return Mistake{}, false
}

// forbidden says why a character cannot stand in YAML, "" where it can.
func forbidden(r rune, size int) string {
	switch {
	case r == utf8.RuneError && size == 1:
		return "this line is not UTF-8: save the file as UTF-8; it may also be damaged, or of another kind"
	case r == byteOrderMark:
		return "an invisible byte order mark, U+FEFF, stands in this line: take it out; it is left where files were put together"
	case r == '\t' || r == '\n' || r == '\r' || r == '\u0085':
		return ""
	case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffe' || r == '\uffff':
		return fmt.Sprintf("the control character U+%04X stands in this line: take it out; the file may also be damaged, or of another kind", r)
	}
	return ""
}
