package keyref

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What people write in place of a part that they mean to fill in.
var (
	crossesForm   = regexp.MustCompile(`(?i)(^|[-_])x{4,12}([-_]|$)`)
	replaceForm   = regexp.MustCompile(`(?i)(^|[-_])(replace[-_]?(me|this|with)|change[-_]?(me|this)|placeholder|todo|fixme|insert[-_]?(your|the|here)|fill[-_]?(me|in))([-_]|$)`)
	yourForm      = regexp.MustCompile(`(?i)(^|[-_])your[-_]?(own[-_]?)?(kms|cmk|key|alias|account|region|role|arn|id|aws|cluster|name)`)
	keyWordForm   = regexp.MustCompile(`(?i)^(my[-_]?)?(kms[-_]?|cmk[-_]?)?key[-_]?(id|arn|uuid|here)$`)
	placeWordForm = regexp.MustCompile(`(?i)^(aws[-_]?)?(region|account)([-_]?(id|code|name|number))?$`)
	capitalsForm  = regexp.MustCompile(`^[A-Z][A-Z0-9]*([-_][A-Z0-9]+)*$`)
)

// Slip says what slipped into a name that somebody copied or was to fill in: a blank
// or a quotation mark at an end, which nobody sees, or a placeholder. It is ""
// where there is nothing of the kind, and never repeats the name.
//
// Account numbers that documentation uses (123456789012, 000000000000) are none:
// emulators have them.
func Slip(name string) string {
	if name == "" {
		return ""
	}
	last, _ := utf8.DecodeLastRuneInString(name)
	first, _ := utf8.DecodeRuneInString(name)
	switch end, begin := stray(last), stray(first); {
	case end == quotation || begin == quotation:
		return "is in quotation marks of its own: take them out"
	case end == lineBreak:
		return "has a line break at its end: take it out, and write the text on the line of its name"
	case end != "":
		return "has " + end + " at its end: take it out"
	case begin != "":
		return "has " + begin + " at its beginning: take it out, and separate a list by commas alone"
	case isPlaceholder(name):
		return "is a placeholder that nobody has filled in: put your own there"
	}
	return ""
}

const (
	quotation = "a quotation mark"
	lineBreak = "a line break"
)

// stray is what a character is called that is no part of any name.
func stray(r rune) string {
	switch {
	case strings.ContainsRune("\"'`´“”„‘’‚«»‹›", r):
		return quotation
	case r == '\n' || r == '\r' || r == '\u0085' || r == '\u2028' || r == '\u2029':
		return lineBreak
	case r == '\t':
		return "a tab"
	case r == '\u00a0' || r == '\u202f' || r == '\u2007':
		return "a no-break space"
	case unicode.IsSpace(r):
		return "a blank"
	case unicode.Is(unicode.Cf, r) || unicode.IsControl(r): // such as U+200B and U+FEFF, of web pages and editors
		return "an invisible character"
	}
	return ""
}

func isPlaceholder(name string) bool {
	if strings.ContainsAny(name, "<>{}$…") || strings.Contains(name, "...") {
		return true
	}
	chosen, fixed := pieces(name) // by a person, or by AWS
	for _, p := range append(chosen, fixed...) {
		if crossesForm.MatchString(p) ||
			replaceForm.MatchString(p) ||
			yourForm.MatchString(p) {
			return true
		}
	}
	for _, p := range fixed {
		if strings.Contains(p, "*") || keyWordForm.MatchString(p) ||
			placeWordForm.MatchString(p) ||
			capitalsForm.MatchString(p) && !isKeyID(p) {
			return true
		}
	}
	return false
}

// pieces takes a name apart: what a person chooses freely, such as an alias or the
// name of a role, and what AWS gives, such as a key id.
func pieces(name string) (chosen, fixed []string) {
	const most = 6
	parts := strings.SplitN(name, ":", most)
	resource := parts[len(parts)-1]
	kind, rest, ok := strings.Cut(resource, "/")
	switch {
	case ok && kind != "key":
		chosen = strings.Split(rest, "/")
	case ok:
		fixed = []string{rest}
	default:
		fixed = []string{resource}
	}
	return chosen, append(fixed, parts[:len(parts)-1]...)
}
