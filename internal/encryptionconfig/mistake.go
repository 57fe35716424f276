package encryptionconfig

import (
	"fmt"
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

	onReload bool   // kube-apiserver refuses it only if it reloads the file
	at       string // Path as the file has it, where that must not be told
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
