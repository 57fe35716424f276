package yamlwords

import (
	"regexp"
	"strings"
)

// A reason is what a kind of mistake is called, and how to recognise it.
type reason struct {
	marks []string // parts of the parser's error, or a pattern of the line
	text  string
}

// because chooses the words. What the line shows comes first: the parser only knows
// what it expected there.
func because(parser string, line []byte) string {
	for _, r := range byLine() {
		if regexp.MustCompile(r.marks[0]).Match(line) {
			return r.text
		}
	}
	for _, r := range byError() {
		for _, mark := range r.marks {
			if strings.Contains(parser, mark) {
				return r.text
			}
		}
	}
	return "look at the indentation of this line and of those above, and for quotes and brackets that are not closed"
}

// invisibles are a line that begins with a character that looks like a blank or like
// nothing, and is none: such as U+00A0 and U+200B, of web pages and editors.
const invisibles = `^[\s-]*[\x{a0}\x{ad}\x{1680}\x{2000}-\x{200f}\x{202a}-\x{202f}\x{205f}-\x{2064}\x{3000}]`

// misleads reports whether a line is YAML, but never what was meant, so that the next
// one does not fit: the invisible character is taken for a word, and the braces of a
// template's value for a whole one.
func misleads(line []byte) bool {
	return regexp.MustCompile(invisibles + `|[:-]\s+\{[\{%]`).Match(line)
}

// byLine are the reasons that a line shows by itself.
func byLine() []reason {
	return []reason{
		{[]string{`\{\{|\{%`}, "this line has a {{ or {% of a template: fill the template in first, and give the file that comes out"},
		{[]string{`^(<{7}|={7}|>{7}|\|{7})(\s|$)`}, "this line is left of a merge conflict: choose one side, and take the lines with <<<<<<<, ======= and >>>>>>> out"},
		{[]string{`(?i)^\s*<(!doctype|html|\?xml|head|body)\b`}, "this is a web page or XML: it may have come in the place of the file"},
		{[]string{`^[ -]*\t`}, "a tab stands where only blanks may: indent with blanks"},
		{[]string{invisibles}, "an invisible character that is not a blank stands before the first word: indent with blanks"},
	}
}

// byError are the reasons by the parser's error.
func byError() []reason {
	return []reason{
		{[]string{"a tab character"}, "a tab stands where only blanks may: indent with blanks"},
		{[]string{"mapping values are not allowed"}, "a field begins where none can: its indentation differs from the lines above, or a text with a colon and a blank in it needs quotes"},
		{[]string{"did not find expected key"}, "a field has to begin here: the indentation does not fit the lines above, a quote above is not closed, or something stands behind a closing quote"},
		{[]string{"did not find expected '-' indicator"}, "an element of a list, with its hyphen, has to begin here: the indentation does not fit the lines above"},
		{[]string{"block sequence entries are not allowed"}, "a list begins behind the name of its field: put its first hyphen on a line of its own"},
		{[]string{"could not find expected ':'"}, "a field needs a colon and a blank behind its name: write it as name: value"},
		{[]string{"cannot start any token"}, "a text cannot begin with @, %, ` or a tab: put it in quotes, and indent with blanks"},
		{[]string{"alphabetic or numeric character", "unknown anchor", "value contains itself"}, "a * or & begins an alias or anchor of YAML: write the value out, or put a text that begins so in quotes"},
		{[]string{"tag URI", "URI escaped octet", "undefined tag handle", "expected '!'", "expected '>'", "UTF-8 octet"}, "a ! begins a tag of YAML: leave the tag out, or put a text that begins so in quotes"},
		{[]string{"unexpected end of stream", "unexpected document indicator"}, "a quote that opens here or above is not closed"},
		{[]string{unclosed}, "a bracket or brace is not closed here or above, or a comma is missing between two elements"},
		{[]string{"did not find expected node content"}, "a bracket, a brace or a comma stands where a value has to, or a line above opens a bracket that is not closed: put a text that begins so in quotes"},
		{[]string{"<document start>"}, "this line belongs to nothing above it: write one document of fields, each as name: value"},
		{[]string{"escape character", "hexdecimal", "Unicode character escape"}, `a \ in double quotes begins an escape that YAML does not have: write \\, or use single quotes`},
		{[]string{"comment or line break", "indentation indicator"}, "behind a | or > only a comment may stand: begin the text on the next line"},
		{[]string{"directive", "YAML document", "version number", "non-alphabetical"}, "a line that begins with % is a directive of YAML, which is not taken: leave it out, or put the text in quotes"},
		{[]string{"mapping keys are not allowed"}, "a ? begins the name of a field where none can be: put the text in quotes"},
		{[]string{"map merge requires"}, "a << merges what is not a set of fields: write the fields out"},
		{[]string{"excessive aliasing"}, "anchors stand for more than any such file has: write the values out"},
		{[]string{"invalid map key"}, "the name of a field is not a text: put it in quotes; a template's {{ }} has to be filled in"},
		{[]string{"exceeded max depth"}, "brackets or fields stand too deep within each other"},
	}
}
