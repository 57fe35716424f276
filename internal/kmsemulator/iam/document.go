// Package iam decides by policies, as AWS IAM does, for the emulator. It knows
// the part of IAM's language that policies for KMS and for roles need, and
// refuses to read whatever it does not know: a policy that it takes means here
// what it means at AWS.
//
// Language: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html
package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// A Kind is what a policy hangs on.
type Kind int

// The kinds: only those of a principal name no principal.
const (
	Identity Kind = iota // of a user or role
	Trust                // of a role: who may assume it
	Key                  // of a KMS key
	Endpoint             // of a VPC endpoint
)

// An UnknownError is about a document that AWS may take, in a part of the language
// that this package does not know.
type UnknownError struct{ what string }

// Error says which part.
func (e *UnknownError) Error() string { return e.what }

func unknown(format string, args ...any) error {
	return &UnknownError{fmt.Sprintf(format, args...)}
}

// A PrincipalError is about a statement that names no principal, or one that
// cannot be.
type PrincipalError struct {
	None bool // none is named

	what string
}

// Error says which.
func (e *PrincipalError) Error() string { return e.what }

// A Policy is a document that was read. It is never changed.
type Policy struct {
	kind       Kind
	statements []statement
}

type statement struct {
	deny       bool
	principals []string // "*", an account or an ARN; none for Identity and services
	actions    []string // lower-case patterns
	resources  []string // patterns; none for a trust policy: its role
	conditions []condition
}

// texts are one text or a list of them.
type texts []string

// UnmarshalJSON takes both forms.
func (t *texts) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*t = texts{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil || many == nil {
		return errors.New("want a text or a list of texts")
	}
	*t = many
	return nil
}

type document struct {
	Version   string
	ID        string `json:"Id"`
	Statement rawStatements
}

type rawStatement struct {
	Sid       string
	Effect    string
	Principal json.RawMessage
	Action    texts
	Resource  texts
	Condition map[string]map[string]texts

	NotPrincipal, NotAction, NotResource json.RawMessage
}

// rawStatements are one statement or a list of them.
type rawStatements []rawStatement

// UnmarshalJSON takes both forms.
func (s *rawStatements) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte("{")) {
		data = slices.Concat([]byte("["), data, []byte("]"))
	}
	in := json.NewDecoder(bytes.NewReader(data))
	in.DisallowUnknownFields()
	var all []rawStatement
	if err := in.Decode(&all); err != nil {
		return err
	}
	*s = all
	return nil
}

// Parse reads a policy document. Its error is an [UnknownError] or a
// [PrincipalError] where it says so, and otherwise one that AWS refuses too.
func Parse(kind Kind, text string) (*Policy, error) {
	if err := uniqueMembers(text); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	in := json.NewDecoder(strings.NewReader(text))
	in.DisallowUnknownFields()
	var d document
	if err := in.Decode(&d); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	const version, before = "2012-10-17", "2008-10-17"
	if d.Version != version && d.Version != before && d.Version != "" {
		return nil, fmt.Errorf("policy: version %q: want %s", d.Version, version)
	}
	if len(d.Statement) == 0 {
		return nil, errors.New("policy: no statement")
	}
	p := &Policy{kind: kind}
	sids := map[string]bool{}
	for i, in := range d.Statement {
		s, err := in.read(kind)
		if err == nil && in.Sid != "" && sids[in.Sid] {
			err = errors.New("the Sid is there before")
		}
		if err != nil {
			return nil, fmt.Errorf("policy: statement %d (%s): %w", i+1, in.Sid, err)
		}
		sids[in.Sid] = true
		if !in.idle(kind) {
			p.statements = append(p.statements, s)
		}
	}
	if d.Version != version { // has no variables, and takes them for words
		return nil, fmt.Errorf("policy: %w", unknown("version %q: want %s", d.Version, version))
	}
	return p, nil
}

// uniqueMembers reads JSON, one value and nothing behind it, whose objects name no
// member twice: what is said twice could be read either way.
func uniqueMembers(text string) error {
	in := json.NewDecoder(strings.NewReader(text))
	in.UseNumber()
	if err := uniqueValue(in); err != nil {
		return err
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

func uniqueValue(in *json.Decoder) error {
	t, err := in.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for in.More() {
		if open == '{' {
			name, err := in.Token()
			if err != nil {
				return err
			}
			word := strings.ToLower(fmt.Sprint(name)) // as decoding sees it
			if seen[word] {
				return fmt.Errorf("%q is there twice", word)
			}
			seen[word] = true
		}
		if err := uniqueValue(in); err != nil {
			return err
		}
	}
	_, err = in.Token()
	return err
}

// idle reports whether a key policy's statement has no effect, which KMS does not
// complain of.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_PutKeyPolicy.html
func (in rawStatement) idle(kind Kind) bool {
	return kind == Key && (in.Action == nil || in.Resource == nil)
}

func (in rawStatement) read(kind Kind) (statement, error) {
	s := statement{deny: in.Effect == "Deny", resources: in.Resource}
	if in.Effect != "Allow" && in.Effect != "Deny" {
		return s, fmt.Errorf("effect %q", in.Effect)
	}
	if in.NotPrincipal != nil || in.NotAction != nil || in.NotResource != nil {
		return s, unknown("NotPrincipal, NotAction and NotResource are not known")
	}
	// A key policy's may say anything:
	// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html#key-policy-elements
	if kind != Key && strings.Trim(in.Sid, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
		return s, errors.New("a Sid has letters and digits alone")
	}
	var err error
	if s.principals, err = principals(kind, in.Principal); err != nil {
		return s, err
	}
	if in.Action != nil || kind != Key {
		if s.actions, err = actions(in.Action); err != nil {
			return s, err
		}
	}
	if len(in.Resource) == 0 && kind != Trust && !in.idle(kind) {
		return s, errors.New("no resource")
	}
	s.conditions, err = conditions(kind, in.Condition)
	return s, err
}

func principals(kind Kind, raw json.RawMessage) ([]string, error) {
	if kind == Identity {
		if raw != nil {
			return nil, errors.New("a policy of a principal names none")
		}
		return nil, nil
	}
	if bytes.Equal(raw, []byte(`"*"`)) {
		return []string{"*"}, nil
	}
	var named map[string]texts
	if err := json.Unmarshal(raw, &named); len(raw) > 0 && err != nil {
		return nil, &PrincipalError{what: fmt.Sprintf(`principal %s: want "*" or {"AWS": ...}`, raw)}
	}
	all := named["AWS"]
	services := named["Service"]
	for _, of := range slices.Sorted(maps.Keys(named)) {
		if of != "AWS" && (of != "Service" || kind != Key) {
			return nil, unknown("principals of %q are not known", of)
		}
	}
	if len(all)+len(services) == 0 {
		return nil, &PrincipalError{None: true, what: "no principal"}
	}
	for _, name := range all {
		if name != "*" && !isAccount(name) && !isPrincipal(name) {
			return nil, &PrincipalError{what: fmt.Sprintf("principal %q: want *, an account or a whole ARN", name)}
		}
	}
	// A service calls nothing here, so that it matches no caller.
	for _, name := range services {
		if !strings.HasSuffix(name, ".amazonaws.com") && !strings.HasSuffix(name, ".amazonaws.com.cn") {
			return nil, &PrincipalError{what: fmt.Sprintf("principal %q is no service of AWS", name)}
		}
	}
	return all, nil
}

// isPrincipal reports whether a text is the whole ARN of who can call: a wildcard
// stands for no part of it.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
func isPrincipal(arn string) bool {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[1] == "" || parts[3] != "" || !isAccount(parts[4]) || strings.ContainsAny(arn, "*? ") {
		return false
	}
	kind, name, _ := strings.Cut(parts[5], "/")
	switch parts[2] + ":" + kind {
	case "iam:root":
		return parts[5] == "root"
	case "iam:user", "iam:role", "sts:federated-user":
		return name != "" && !strings.HasSuffix(name, "/")
	case "sts:assumed-role":
		role, session, _ := strings.Cut(name, "/")
		return role != "" && session != "" && !strings.Contains(session, "/")
	}
	return false
}

// Principals returns whom the statements name besides services: "*", accounts and
// ARNs, sorted.
func (p *Policy) Principals() []string {
	var all []string
	for _, s := range p.statements {
		all = append(all, s.principals...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func isAccount(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789") == "" }

func actions(all texts) ([]string, error) {
	if len(all) == 0 {
		return nil, errors.New("no action")
	}
	var lower []string
	for _, a := range all {
		service, name, ok := strings.Cut(a, ":")
		switch {
		case a == "*":
		case !ok || name == "" || service == "":
			return nil, fmt.Errorf("action %q: want kms: or sts: and a name", a)
		case service != "kms" && service != "sts":
			return nil, unknown("action %q: want kms: or sts: and a name", a)
		}
		lower = append(lower, strings.ToLower(a))
	}
	return lower, nil
}

// keys are the condition keys that are known, in lower case, and whether each
// has several values. Those of prefixes are besides.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
func keys() map[string]bool {
	return map[string]bool{
		"aws:principalarn": false, "aws:principalaccount": false, "aws:resourceaccount": false, "aws:tagkeys": true,
		"kms:calleraccount": false, "kms:requestalias": false, "kms:viaservice": false, "sts:externalid": false,
		"kms:encryptioncontextkeys": true, "kms:resourcealiases": true,
	}
}

const resourceTagPrefix = "aws:resourcetag/"

// prefixes are those of condition keys with a name of their own behind, which have
// one value each: of an encryption context's pairs, and of tags.
func prefixes() []string {
	return []string{"kms:encryptioncontext:", "aws:requesttag/", resourceTagPrefix}
}

func conditions(kind Kind, in map[string]map[string]texts) ([]condition, error) {
	var all []condition
	for _, op := range slices.Sorted(maps.Keys(in)) {
		for _, key := range slices.Sorted(maps.Keys(in[op])) {
			// https://docs.aws.amazon.com/kms/latest/developerguide/tag-authorization.html
			if kind == Key && strings.HasPrefix(strings.ToLower(key), resourceTagPrefix) {
				return nil, unknown("condition key %q is for policies of principals", key)
			}
			c, err := newCondition(op, key, in[op][key])
			if err != nil {
				return nil, &UnknownError{err.Error()}
			}
			all = append(all, c)
		}
	}
	return all, nil
}
