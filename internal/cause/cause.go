// Package cause is the one table of everything that can go wrong with a call:
// a stable code, a class, and words for the person who has to mend it.
//
// It is a leaf: every room may import it, and it imports none. The class of a
// cause decides what follows from it (health, the form of Status, the gRPC
// code, the metrics label, the log level); the code names the cause in errors,
// Status, /readyz, the log field "code" and docs/errors.md, which is generated
// from the table. Codes are never reused or renumbered.
package cause

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Class says what a failed call means for the key that it used. Its text is
// the value of the metrics label "class", so a name never changes.
type Class string

// Every failure has one of these classes.
const (
	Refused     Class = "refused"     // the key's owner or IAM says no
	Outage      Class = "outage"      // KMS, or the way to it, fails
	Credentials Class = "credentials" // nothing, or nothing valid, to sign the request with
	BadData     Class = "bad_data"    // no key will ever make anything of these bytes
	Cancelled   Class = "cancelled"   // the caller left, or gave too little time
	Overload    Class = "overload"    // more calls at once than this process takes
	Bug         Class = "bug"         // nobody foresaw it: ours to fix
	Node        Class = "node"        // the node keeps something from this process. Of no call, so no value of the label
)

// Classes returns every class that a call can have, in the order in which a reader of metrics or
// docs wants them.
func Classes() []Class {
	return []Class{Refused, Outage, Credentials, BadData, Cancelled, Overload, Bug}
}

// OfKeyState reports whether KMS refuses with this code for the state of the key,
// and not for who asks.
func (c Code) OfKeyState() bool {
	return c == KeyDisabled || c == KeyPendingDeletion || c == KeyPendingImport
}

// TellsHealth reports whether a failure of this class is evidence about a key.
// Bad data, cancelled and refused-for-overload calls are none.
func (c Class) TellsHealth() bool {
	switch c {
	case Refused, Outage, Credentials, Bug:
		return true
	case BadData, Cancelled, Overload, Node:
		return false
	}
	return true
}

// Level is the log level of a failure of this class.
func (c Class) Level() slog.Level {
	switch c {
	case Refused, Credentials, Bug, Node:
		return slog.LevelError
	case Outage, BadData, Overload:
		return slog.LevelWarn
	case Cancelled:
		return slog.LevelInfo
	}
	return slog.LevelError
}

// severity orders classes for Worst: what a person has to mend comes before
// what may pass by itself.
func (c Class) severity() int {
	switch c {
	case Refused:
		return 6
	case Credentials:
		return 5
	case Bug:
		return 4
	case Outage:
		return 3
	case Overload:
		return 2
	case Cancelled:
		return 1
	case BadData, Node:
		return 0
	}
	return 4
}

// An Error is a call that failed, or was refused before it was made. It carries
// no plaintext, no ciphertext and no credential, and its text is safe to show:
// foreign words are quoted and cut.
type Error struct {
	Code      Code
	Provider  string   // name of the provider; "" below the keyring
	Op        string   // the API's own name for the call, such as "Decrypt"; may be ""
	Key       string   // ARN or name of the key; "" where no key was chosen
	AlsoTried []string // further keys that answered the same
	Note      string   // what else helps to find out, already safe to print; may be ""
	AWSCode   string   // the error code of AWS, such as "DisabledException"; may be ""
	RequestID string   // AWS's id of the request; may be ""
	Said      string   // what the other side said, in its own words; may be ""
	Principal string   // who was refused, where AWS said it
	Action    string   // what was refused, where AWS said it
	Denial    Denial   // why it was refused, where AWS said it
	Source    string   // which source of credentials was asked, already safe to print; may be ""
	Check     string   // what to do about that source, instead of the table's next step, already safe to print; may be ""
	Called    Names    // what the operator calls settings; nil: by their names alone
	Later     *Error   // what failed since then, where that is something else; may be nil
	Err       error    // what happened underneath; may be nil. Never printed: see Said
}

// Names say what the operator calls a setting of a key, such as "region": the flag, or
// the field with its file. An instruction names each as {setting:region}.
type Names func(setting string) string

func (n Names) fillIn(text string) string {
	return settingForm.ReplaceAllStringFunc(text, func(placeholder string) string {
		setting := settingForm.FindStringSubmatch(placeholder)[1]
		if n == nil {
			return "the setting " + setting
		}
		return n(setting)
	})
}

var settingForm = regexp.MustCompile(`\{setting:(\w+)\}`)

// CalledBy returns a copy of the error that names settings so. It is nil for nil.
func (e *Error) CalledBy(n Names) *Error {
	if e == nil || n == nil {
		return e
	}
	called := *e
	called.Called = n
	return &called
}

// Class returns the class of the cause.
func (e *Error) Class() Class { return e.Code.Info().Class }

// Unwrap returns what happened underneath.
func (e *Error) Unwrap() error { return e.Err }

// Noted returns a copy of the error with one more note.
func (e *Error) Noted(note string) *Error {
	noted := *e
	noted.Note = strings.TrimPrefix(e.Note+"; ", "; ") + note
	return &noted
}

// Explain is the command that prints the page of a code: it works where there is no
// network.
func Explain(id string) string { return "aws-encryption-provider explain " + id }

// Error says code, provider, operation and key, why, what AWS said, what to do next,
// and what prints the code's page.
func (e *Error) Error() string {
	info := e.Code.Info()
	var b strings.Builder
	b.WriteString(info.ID)
	if e.Provider != "" {
		b.WriteString(" provider " + Quote(e.Provider))
	}
	if e.Op != "" {
		b.WriteString(": " + e.Op)
	}
	if e.Key != "" {
		b.WriteString(" with " + clip(e.Key))
	}
	for _, key := range e.AlsoTried {
		b.WriteString(", " + clip(key))
	}
	b.WriteString(": " + e.What())
	if said := e.said(); said != "" {
		b.WriteString(" (" + said + ")")
	}
	b.WriteString("; " + e.Next())
	if e.Note != "" {
		b.WriteString("; " + e.Note)
	}
	if e.Later != nil {
		b.WriteString("; since then: " + e.Later.Short())
	}
	b.WriteString("; more: " + Explain(info.ID))
	return b.String()
}

// Short is the cause and the next step without the key and AWS's words.
func (e *Error) Short() string {
	return e.Code.Info().ID + " " + e.What() + "; " + e.Next()
}

// What is what happened, with the kind of policy that denied access where AWS
// named it.
func (e *Error) What() string {
	what := e.Code.Info().What
	if e.Code == AccessDenied {
		what += e.Denial.what()
	}
	return what
}

// Next is the next step for a person, with the key (as text, and as arguments of
// the AWS CLI), the action, the principal and the source of credentials filled in
// where they are known.
func (e *Error) Next() string {
	next := e.Code.Info().Next
	if cure := e.Denial.next(); cure != "" && (e.Code == AccessDenied || e.Code == RoleRefused) {
		next = cure
	} else if e.Check != "" {
		return e.Check
	}
	source := e.Source
	if source == "" {
		source = "the source of the credentials"
	}
	orElse := func(s, other string) string {
		if s == "" {
			return other
		}
		return clip(s)
	}
	policy := ""
	if e.Denial.ARN != "" {
		policy = " " + clip(e.Denial.ARN)
	}
	return strings.NewReplacer(
		"{key}", orElse(e.Key, "the key"),
		"{resource}", orElse(e.Denial.Resource, orElse(e.Key, "the key")),
		"{policy}", policy,
		"{cli}", "--key-id "+orElse(e.cliKey(), "KEY")+regionArgument(e.cliKey()),
		"{action}", orElse(e.Action, "kms:"+orElse(e.Op, "Encrypt and kms:Decrypt")),
		"{principal}", orElse(e.Principal, "the identity that this process runs as"),
		"{source}", source,
	).Replace(e.Called.fillIn(next))
}

// Asked is the source of credentials that was asked, "" where the next step names
// it already. It is safe to print.
func (e *Error) Asked() string {
	if e.Check == "" && strings.Contains(e.Code.Info().Next, "{source}") {
		return ""
	}
	return e.Source
}

// cliKey is the key as commands of the AWS CLI take it that change its state: no
// alias, whose key KMS mostly names in its own words.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_EnableKey.html
func (e *Error) cliKey() string {
	if !strings.HasPrefix(e.Key, "alias/") && !strings.Contains(e.Key, ":alias/") {
		return e.Key
	}
	return regexp.MustCompile(`arn:aws[a-z0-9-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+`).FindString(e.Said)
}

// regionArgument is what the AWS CLI needs beside an ARN: it does not look into it.
func regionArgument(key string) string {
	const regionPart = 3
	if parts := strings.Split(key, ":"); strings.HasPrefix(key, "arn:") && len(parts) > regionPart && parts[regionPart] != "" {
		return " --region " + clip(parts[regionPart])
	}
	return ""
}

func (e *Error) said() string {
	var parts []string
	if asked := e.Asked(); asked != "" {
		parts = append(parts, asked)
	}
	if e.AWSCode != "" {
		parts = append(parts, clip(e.AWSCode))
	}
	if e.Said != "" {
		parts = append(parts, Quote(e.Said))
	}
	if e.RequestID != "" {
		parts = append(parts, "request "+clip(e.RequestID))
	}
	return strings.Join(parts, ", ")
}

// Of returns the first Error in err's tree. Where there is none, it wraps err
// as an unforeseen one, so that nothing goes out without a code.
func Of(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Unforeseen, Said: err.Error(), Err: err}
}

// ClassOf returns the class of err's cause. A nil err has no class: do not ask.
func ClassOf(err error) Class { return Of(err).Class() }

// Worst returns the error of the worst class, the first of them where several
// share it, and nil for none.
func Worst(errs []*Error) *Error {
	var worst *Error
	for _, e := range errs {
		if worst == nil || e.Class().severity() > worst.Class().severity() {
			worst = e
		}
	}
	return worst
}

// maxForeign is how many bytes of a foreign string are shown. AWS's sentences begin
// with who was refused, and end with why, such as the ARN of a policy: of a longer
// string the middle is left out.
const maxForeign = 320

// Quote makes a string from outside safe to print: its first line, at most 320
// bytes of it, quoted so that control characters and line breaks cannot forge output.
// Only the first line is kept, since AWS follows some refusals of a signature
// with the signed headers, the session token among them.
func Quote(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strconv.Quote(cut(s))
}

// clip is Quote for identifiers: unquoted as long as they look like one.
func clip(s string) string {
	for _, r := range s {
		if r <= ' ' || r == '"' || r > '~' {
			return Quote(s)
		}
	}
	return cut(s)
}

// cut leaves out the middle of a string that is too long, and splits no rune.
func cut(s string) string {
	const gap, tail = "...", 180
	if len(s) <= maxForeign {
		return s
	}
	end, begin := maxForeign-len(gap)-tail, len(s)-tail
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	for begin < len(s) && !utf8.RuneStart(s[begin]) {
		begin++
	}
	return s[:end] + gap + s[begin:]
}

var _ fmt.Stringer = Code(0)
