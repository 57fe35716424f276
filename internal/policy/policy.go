// Package policy writes the policies that a configuration needs at AWS, and
// nothing more: of the program's identity, of the roles that it assumes, of the
// keys and of VPC endpoints. It asks nothing of AWS.
//
// The policies of identities and of keys are made so that each alone allows
// nothing: a key's policy leaves the decision to the account of the one principal
// that may use it, and that principal's policy allows it.
//
// Language: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html
package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// A Kind is what a policy hangs on.
type Kind string

// The kinds of policies.
const (
	Identity Kind = "identity" // of a role or user
	Trust    Kind = "trust"    // of a role: who may assume it
	Key      Kind = "key"
	Endpoint Kind = "endpoint" // of a VPC endpoint
)

// Options say what is to be allowed.
type Options struct {
	Config    *config.Config
	Principal string // ARN of the role or user whose credentials the program has; "": not known
	Doctor    bool   // also what doctor asks, and the program does not
}

// A Document is one policy and what it is for.
type Document struct {
	Kind   Kind   `json:"kind"`
	For    string `json:"for"` // ARN or alias; the service of an endpoint; "" for an identity that is not known
	Policy Policy `json:"policy"`

	Name string `json:"-"` // of a file, without extension; unique
}

// A Policy is a document as IAM reads it.
type Policy struct {
	Version   string
	Statement []Statement
}

// A Statement allows actions on resources.
type Statement struct {
	Sid       string
	Effect    string
	Principal map[string]Texts `json:",omitempty"`
	Action    Texts
	Resource  Texts     `json:",omitempty"`
	Condition Condition `json:",omitempty"`
}

// A Condition has values by operator and key.
type Condition map[string]map[string]Texts

// Texts are one text or a list of them.
type Texts []string

// MarshalJSON writes one text as people do.
func (t Texts) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

const (
	encrypt    = "kms:Encrypt"
	decrypt    = "kms:Decrypt"
	describe   = "kms:DescribeKey"
	rotation   = "kms:GetKeyRotationStatus"
	assumeRole = "sts:AssumeRole"
	whoAmI     = "sts:GetCallerIdentity"
)

// Documents returns the policies of a configuration, in a fixed order. Without a
// principal there are only those of identities. Every error is of
// [config.Mistakes].
func Documents(o Options) ([]Document, error) {
	base, err := parsePrincipal(o.Principal)
	if err != nil {
		return nil, config.Mistakes{{Field: "--principal", Text: err.Error()}}
	}
	uses, mistakes := usesOf(o.Config, base)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	roles := rolesOf(o.Config)
	var all []Document
	add := func(kind Kind, of, name string, statements []Statement) {
		if len(statements) > 0 {
			number(statements)
			name = another(name, of, func(name string) bool {
				return slices.ContainsFunc(all, func(d Document) bool { return d.Name == name })
			})
			all = append(all, Document{kind, of, Policy{"2012-10-17", statements}, name})
		}
	}
	for _, who := range callers(uses, base) {
		statements := identity(uses.of(who), o.Doctor)
		if who == base {
			statements = append(statements, assume(roles)...)
		}
		add(Identity, who.arn, "identity-policy"+suffix(who, base), statements)
	}
	if base.arn == "" {
		return all, nil
	}
	for _, role := range roles {
		add(Trust, role.arn, "trust-policy-"+lastWord(role.arn), trust(role, base))
	}
	for _, k := range uses.keys() {
		add(Key, k.String(), "key-policy-"+k.file(), ofKey(uses, k, o.Doctor))
	}
	add(Endpoint, "kms", "kms-endpoint-policy", kmsEndpoint(uses, o.Doctor))
	add(Endpoint, "sts", "sts-endpoint-policy", stsEndpoint(roles, base, o.Doctor))
	return all, nil
}

// another is a document's name, or one beside it where that is taken: with the
// account, which is what differs between roles of one name.
func another(name, of string, taken func(string) bool) string {
	if parts := strings.SplitN(of, ":", 6); taken(name) && len(parts) == 6 && !taken(name+"-"+parts[4]) {
		name += "-" + parts[4]
	}
	free := name
	for i := 2; taken(free); i++ {
		free = fmt.Sprintf("%s-%d", name, i)
	}
	return free
}

// number makes the Sids of a document differ.
func number(statements []Statement) {
	count := map[string]int{}
	for _, s := range statements {
		count[s.Sid]++
	}
	seen := map[string]int{}
	for i, s := range statements {
		if count[s.Sid] > 1 {
			seen[s.Sid]++
			statements[i].Sid = fmt.Sprintf("%s%d", s.Sid, seen[s.Sid])
		}
	}
}

// identity allows what one principal does with its keys. Keys that it does the
// same with are in one statement.
func identity(all []use, doctor bool) []Statement {
	var out statements
	for _, u := range all {
		out.add(Statement{Sid: u.sid(), Effect: "Allow", Action: u.actions(), Resource: Texts{u.resource()}, Condition: u.conditions()})
	}
	if doctor {
		for _, u := range all {
			out.add(Statement{Sid: "Look", Effect: "Allow", Action: u.looks(), Resource: Texts{u.resource()}, Condition: u.whose()})
		}
	}
	return out
}

// statements grow by what they do not allow yet.
type statements []Statement

func (all *statements) add(s Statement) {
	i := slices.IndexFunc(*all, s.goesWith)
	if i < 0 {
		*all = append(*all, s)
		return
	}
	for _, r := range s.Resource {
		if into := &(*all)[i]; !slices.Contains(into.Resource, r) {
			into.Resource = append(into.Resource, r)
		}
	}
}

// goesWith reports whether two statements differ in their resources alone.
func (s Statement) goesWith(o Statement) bool {
	s.Resource, o.Resource = nil, nil
	return reflect.DeepEqual(s, o)
}

func assume(roles []role) []Statement {
	if len(roles) == 0 {
		return nil
	}
	return []Statement{{Sid: "AssumeRole", Effect: "Allow", Action: Texts{assumeRole}, Resource: arns(roles)}}
}

func arns(roles []role) (all Texts) {
	for _, r := range roles {
		all = append(all, r.arn)
	}
	return all
}

// trust lets the program's identity assume a role, and nobody else.
func trust(r role, base principal) []Statement {
	s := Statement{Sid: "AssumeRole", Effect: "Allow", Principal: base.account(), Action: Texts{assumeRole}, Condition: base.alone()}
	// Without one, a caller may give whatever it likes.
	if !slices.Contains(r.externalIDs, "") {
		var words Texts
		for _, id := range r.externalIDs {
			words = append(words, literal(id))
		}
		s.Condition.add("StringEquals", "sts:ExternalId", words...)
	}
	return []Statement{s}
}

// ofKey keeps a key with its account, and lets each principal do its part.
func ofKey(all uses, k key, doctor bool) []Statement {
	out := statements{administer(k)}
	for _, u := range all {
		if u.key != k {
			continue
		}
		c := u.context.conditions()
		c.merge(u.who.alone())
		out.add(Statement{Sid: u.sid(), Effect: "Allow", Principal: u.who.account(), Action: u.actions(), Resource: Texts{"*"}, Condition: c})
	}
	for _, u := range all { // within the account the administrators' statement leaves looking to it
		if doctor && u.key == k && u.foreign() {
			out.add(Statement{Sid: "Look", Effect: "Allow", Principal: u.who.account(), Action: u.looks(), Resource: Texts{"*"}, Condition: u.who.alone()})
		}
	}
	return out
}

// administer leaves a key in the hands of its account's administrators, but for
// its use, and for what would end it: who wants to disable or delete the key of a
// cluster has to change this policy first, as [Notes] says.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html#key-policy-default-allow-administrators
func administer(k key) Statement {
	actions := Texts{
		"kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:EnableKey", "kms:EnableKeyRotation",
		"kms:GetKeyLastUsage", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies",
		"kms:ListKeyRotations", "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:RotateKeyOnDemand", "kms:TagResource", "kms:UntagResource",
		"kms:UpdateAlias", "kms:UpdateKeyDescription",
	}
	if strings.HasPrefix(k.ref.Key, "mrk-") {
		actions = append(actions, "kms:ReplicateKey", "kms:UpdatePrimaryRegion")
		slices.Sort(actions)
	}
	owner := principal{partition: k.ref.Partition, id: k.ref.Account}
	return Statement{Sid: "Administer", Effect: "Allow", Principal: owner.account(), Action: actions, Resource: Texts{"*"}}
}

// kmsEndpoint lets nothing but the program's calls through. What each call may be
// like the other policies say.
func kmsEndpoint(all uses, doctor bool) []Statement {
	var out statements
	through := func(of []use, sid string, actions func(use) Texts) {
		for _, u := range of {
			out.add(Statement{Sid: sid, Effect: "Allow", Principal: anybody(), Action: actions(u), Resource: Texts{u.resource()}, Condition: u.who.alone()})
		}
	}
	writes := all.where(func(u use) bool { return u.writes })
	reads := all.where(func(u use) bool { return !u.writes && !slices.ContainsFunc(writes, u.coveredBy) })
	through(narrowed(writes), "EncryptAndDecrypt", use.actions)
	through(narrowed(reads), "Decrypt", use.actions)
	if doctor {
		through(narrowed(all), "Look", use.looks)
	}
	return out
}

func stsEndpoint(roles []role, base principal, doctor bool) []Statement {
	var out []Statement
	if len(roles) > 0 {
		out = append(out, Statement{
			Sid: "AssumeRole", Effect: "Allow", Principal: anybody(), Action: Texts{assumeRole}, Resource: arns(roles), Condition: base.alone(),
		})
	}
	if doctor {
		c := base.alone()
		for _, r := range roles {
			c.add("ArnEquals", "aws:PrincipalArn", append(c["ArnEquals"]["aws:PrincipalArn"], r.arn)...)
		}
		out = append(out, Statement{Sid: "Look", Effect: "Allow", Principal: anybody(), Action: Texts{whoAmI}, Resource: Texts{"*"}, Condition: c})
	}
	return out
}

func anybody() map[string]Texts { return map[string]Texts{"AWS": {"*"}} }

// add sets the values of a key.
func (c Condition) add(op, key string, values ...string) {
	if c[op] == nil {
		c[op] = map[string]Texts{}
	}
	c[op][key] = values
}

func (c Condition) merge(o Condition) {
	for op, keys := range o {
		for key, values := range keys {
			c.add(op, key, values...)
		}
	}
}

// literal is a text that a policy takes for nothing but itself.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
func literal(s string) string { return strings.ReplaceAll(s, "${", "${$}{") }

func suffix(who, base principal) string {
	if who == base {
		return ""
	}
	return "-" + lastWord(who.arn)
}

func lastWord(arn string) string { return arn[strings.LastIndexAny(arn, ":/")+1:] }
