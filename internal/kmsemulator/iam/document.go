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
	Resource             // of a key, or the trust policy of a role
	Endpoint             // of a VPC endpoint
)

// A Policy is a document that was read. It is never changed.
type Policy struct {
	kind       Kind
	statements []statement
}

type statement struct {
	deny       bool
	principals []string // "*", an account or an ARN; none for Identity
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
	Statement []struct {
		Sid       string
		Effect    string
		Principal json.RawMessage
		Action    texts
		Resource  texts
		Condition map[string]map[string]texts
	}
}

// Parse reads a policy document.
func Parse(kind Kind, text string) (*Policy, error) {
	in := json.NewDecoder(strings.NewReader(text))
	in.DisallowUnknownFields()
	var d document
	if err := in.Decode(&d); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("policy: something follows the document")
	}
	// The version before has no variables, and takes them for words.
	if d.Version != "2012-10-17" {
		return nil, fmt.Errorf("policy: version %q: want 2012-10-17", d.Version)
	}
	if len(d.Statement) == 0 {
		return nil, errors.New("policy: no statement")
	}
	p := &Policy{kind: kind}
	sids := map[string]bool{}
	for i, in := range d.Statement {
		s := statement{deny: in.Effect == "Deny", resources: in.Resource}
		fail := func(format string, args ...any) error {
			return fmt.Errorf("policy: statement %d (%s): %w", i+1, in.Sid, fmt.Errorf(format, args...))
		}
		if in.Effect != "Allow" && in.Effect != "Deny" {
			return nil, fail("effect %q", in.Effect)
		}
		if strings.Trim(in.Sid, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" || in.Sid != "" && sids[in.Sid] {
			return nil, fail("a Sid has letters and digits alone, and is there once")
		}
		sids[in.Sid] = true
		var err error
		if s.principals, err = principals(kind, in.Principal); err != nil {
			return nil, fail("%w", err)
		}
		if s.actions, err = actions(in.Action); err != nil {
			return nil, fail("%w", err)
		}
		if kind != Resource && len(in.Resource) == 0 {
			return nil, fail("no resource")
		}
		if s.conditions, err = conditions(in.Condition); err != nil {
			return nil, fail("%w", err)
		}
		p.statements = append(p.statements, s)
	}
	return p, nil
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
	if err := json.Unmarshal(raw, &named); err != nil || len(named) != 1 || len(named["AWS"]) == 0 {
		return nil, fmt.Errorf(`principal %s: want "*" or {"AWS": ...}`, raw)
	}
	for _, name := range named["AWS"] {
		if name != "*" && !isAccount(name) && !strings.HasPrefix(name, "arn:") || name != "*" && strings.ContainsAny(name, "*?") {
			return nil, fmt.Errorf("principal %q: want *, an account or a whole ARN", name)
		}
	}
	return named["AWS"], nil
}

func isAccount(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789") == "" }

func actions(all texts) ([]string, error) {
	if len(all) == 0 {
		return nil, errors.New("no action")
	}
	var lower []string
	for _, a := range all {
		service, name, ok := strings.Cut(a, ":")
		if a != "*" && (!ok || name == "" || service != "kms" && service != "sts") {
			return nil, fmt.Errorf("action %q: want kms: or sts: and a name", a)
		}
		lower = append(lower, strings.ToLower(a))
	}
	return lower, nil
}

// keys are the condition keys that are known, in lower case, and whether each
// has several values. Those of an encryption context's pairs are besides.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
func keys() map[string]bool {
	return map[string]bool{
		"aws:principalarn": false, "aws:principalaccount": false, "aws:resourceaccount": false,
		"kms:calleraccount": false, "kms:requestalias": false, "kms:viaservice": false, "sts:externalid": false,
		"kms:encryptioncontextkeys": true, "kms:resourcealiases": true,
	}
}

const contextPrefix = "kms:encryptioncontext:"

func conditions(in map[string]map[string]texts) ([]condition, error) {
	var all []condition
	for _, op := range slices.Sorted(maps.Keys(in)) {
		for _, key := range slices.Sorted(maps.Keys(in[op])) {
			c, err := newCondition(op, key, in[op][key])
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}
