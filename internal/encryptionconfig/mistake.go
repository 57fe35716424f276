package encryptionconfig

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A Rule says what kind of rule a file breaks, for those who have a code for it.
type Rule uint8

// Rules. What has no rule of its own is of Form.
const (
	Form         Rule = iota // what the file looks like
	Name                     // a name that a kms entry of v2 must not have
	NameTwice                // a name that another kms entry has
	NameOnReload             // warning: the same, where both lead to one plugin and kube-apiserver may take it
	CacheSize
	Timeout
	Plain   // warning: nothing encrypts Secrets
	Unread  // warning: a part of the file has no effect
	Strayed // warning: an endpoint that leads elsewhere than it seems to
)

// A Mistake is something in a file that kube-apiserver refuses, or that is
// certainly not what was meant.
type Mistake struct {
	Line int    // from 1; 0 where it is not known
	Path string // such as "resources[0].providers[1].kms.timeout"; "" for the whole file
	Text string
	Rule Rule

	onReload bool // kube-apiserver refuses it only if it reloads the file
}

// String returns where and what, in one line.
func (m Mistake) String() string {
	var where string
	if m.Line > 0 {
		where = fmt.Sprintf("line %d: ", m.Line)
	}
	if m.Path != "" {
		where += m.Path + ": "
	}
	return where + m.Text
}

// Mistakes are all that is wrong with a file.
type Mistakes []Mistake //nolint:errname // a list, and called what it is

// Error returns all in one line.
func (m Mistakes) Error() string {
	texts := make([]string, len(m))
	for i, one := range m {
		texts[i] = one.String()
	}
	return strings.Join(texts, "; ")
}

func (m *Mistakes) add(rule Rule, path, format string, args ...any) {
	*m = append(*m, Mistake{Path: path, Text: fmt.Sprintf(format, args...), Rule: rule})
}

// quote makes a value safe to print: short, in one line, and not where it may be a
// key that stands in the wrong place.
func quote(value string) string {
	if mayBeKey(value) {
		return "a text that may be a key"
	}
	return fmt.Sprintf("%.100q", value)
}

// mayBeKey reports whether a text looks like a key in base64: names have dots or
// hyphens, or no digits, and are seldom as long as 16, 24 or 32 bytes are there.
func mayBeKey(text string) bool {
	if len(text) < 16 || !regexp.MustCompile(`^[A-Za-z0-9+/\s]+=*$`).MatchString(text) || strings.ToLower(text) == text {
		return false
	}
	return strings.ContainsAny(text, "0123456789+/=") || slices.Contains([]int{22, 32, 43}, len(text))
}

// field makes the name of an unknown field safe to print.
func field(name string) string {
	if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,19}$`).MatchString(name) {
		return "this"
	}
	return name
}
