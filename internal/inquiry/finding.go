package inquiry

import (
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// Parts of an answer of Status.
var (
	codeForm     = regexp.MustCompile(`KMS[0-9]{4}\b`)
	providerForm = regexp.MustCompile(`^ provider "[^"]*"`)
)

// A Finding is one thing that is wrong, however many answers show it.
type Finding struct {
	Code  string `json:"code"`
	Cause string `json:"cause"`
	Next  string `json:"next"` // what to do
}

// found adds what only a question finds. seen is what was seen of it, next replaces
// the table's next step; both may be "".
func (r *Report) found(code Code, problem, seen, next string) {
	info := code.Info()
	f := Finding{Code: info.ID, Cause: info.What, Next: info.Next}
	if seen != "" {
		f.Cause += " (" + seen + ")"
	}
	if next != "" {
		f.Next = next
	}
	r.add(problem, f)
}

// add adds a problem, and a finding where it is a new one: the APIs share their keys,
// so that most causes show in several answers.
func (r *Report) add(problem string, f Finding) {
	r.Problems = append(r.Problems, problem)
	same := func(o Finding) bool { // one may say more: Encrypt waits for a Decrypt that is refused
		return o.Code == f.Code && (strings.HasPrefix(f.Next, o.Next) || strings.HasPrefix(o.Next, f.Next))
	}
	if !slices.ContainsFunc(r.Findings, same) {
		r.Findings = append(r.Findings, f)
	}
}

// told adds what the program itself says is wrong.
func (r *Report) told(problem, text string) {
	f, ok := findingIn(text)
	if !ok {
		r.found(Untold, problem, text, "")
		return
	}
	r.add(problem, f)
}

// findingIn takes the program's own sentence apart, which [cause.Error] makes: a code,
// where, the cause, and after a semicolon what to do. What stands before the code, such
// as since when it is so, belongs to the cause.
func findingIn(text string) (f Finding, ok bool) {
	at := codeForm.FindStringIndex(text)
	if at == nil {
		return Finding{}, false
	}
	f.Code = text[at[0]:at[1]]
	why, next := cutSentence(text[at[1]:])
	why = providerForm.ReplaceAllString(why, "")
	next, _, _ = strings.Cut(next, "; more: ") // where to read on is the code
	f.Cause, f.Next = text[:at[0]]+strings.TrimLeft(why, ": "), next
	if f.Next == "" {
		f.Next = nextOf(f.Code)
	}
	return f, true
}

// cutSentence cuts at the first semicolon that is neither quoted nor in brackets:
// AWS's own words are both.
func cutSentence(text string) (before, after string) {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')':
			depth = max(0, depth-1)
		case c == ';' && depth == 0:
			return text[:i], strings.TrimSpace(text[i+1:])
		}
	}
	return text, ""
}

// nextOf is what to do about a code that came without that.
func nextOf(id string) string {
	if c, ok := ofCall(id); ok {
		return (&cause.Error{Code: c}).Next()
	}
	return Untold.Info().Next
}

// classOf is the class of a code; "" where it is of no call.
func classOf(id string) cause.Class {
	if c, ok := ofCall(id); ok {
		return c.Info().Class
	}
	return ""
}

// ofCall is the code of a call that has an ID.
func ofCall(id string) (c cause.Code, ok bool) {
	all := cause.Codes()
	i := slices.IndexFunc(all, func(c cause.Code) bool { return c.Info().ID == id })
	if i < 0 {
		return 0, false
	}
	return all[i], true
}
