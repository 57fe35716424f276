package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

var principalForm = regexp.MustCompile(`^arn:aws[a-z0-9-]*:iam::[0-9]{12}:(role|user)/[A-Za-z0-9+=,.@_/-]+$`)

// maxPrincipal is the most bytes of a path and a name, 512 and 64.
const maxPrincipal = 576

// A principal is a role or user. Without an ARN it is the program's own, which is
// not known; id is its account, where that is known.
type principal struct{ arn, partition, id string }

func parsePrincipal(arn string) (principal, error) {
	if arn == "" {
		return principal{}, nil
	}
	parts := strings.SplitN(arn, ":", 6)
	switch {
	case len(parts) == 6 && parts[2] == "sts" && strings.HasPrefix(parts[5], "assumed-role/"):
		return principal{}, errors.New("is a session: name its role, such as arn:aws:iam::111122223333:role/control-plane")
	case !principalForm.MatchString(arn) || strings.HasSuffix(arn, "/") || len(arn)-strings.Index(arn, "/")-1 > maxPrincipal:
		return principal{}, errors.New("is no ARN of a role or user: want arn:aws:iam::111122223333:role/NAME")
	}
	return principal{arn, parts[1], parts[4]}, nil
}

// account leaves a decision to the principal's account. A policy that names the
// principal itself is tied to this one: deleted and made again it has another id.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
func (p principal) account() map[string]Texts {
	return map[string]Texts{"AWS": {"arn:" + p.partition + ":iam::" + p.id + ":root"}}
}

// alone is the condition that no other principal meets.
func (p principal) alone() Condition {
	return Condition{"ArnEquals": {"aws:PrincipalArn": {p.arn}}}
}

// A key is one that a configuration names, with all that is known of where it is.
type key struct{ ref keyref.Ref }

func (k key) String() string { return k.ref.String() }

// file is a name for it without slashes.
func (k key) file() string {
	return strings.ReplaceAll(strings.TrimPrefix(k.ref.Region+"-", "-")+k.ref.Key+strings.TrimPrefix(k.ref.Alias, "alias/"), "/", "-")
}

// An encryptionContext is what goes with each call.
type encryptionContext map[string]string

// conditions are met by exactly this context: condition keys are blind to case,
// and do not see what is there besides.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-encryption-context
func (c encryptionContext) conditions() Condition {
	out := Condition{}
	if len(c) == 0 {
		out.add("Null", "kms:EncryptionContextKeys", "true")
		return out
	}
	var names Texts
	for _, name := range slices.Sorted(maps.Keys(c)) {
		out.add("StringEquals", "kms:EncryptionContext:"+name, literal(c[name]))
		names = append(names, literal(name))
	}
	out.add("ForAllValues:StringEquals", "kms:EncryptionContextKeys", names...)
	return out
}

// A use is what a principal does with a key in one context.
type use struct {
	who     principal
	key     key
	context encryptionContext
	writes  bool
}

type uses []use

// usesOf are the uses of a configuration, each once.
func usesOf(cfg *config.Config, base principal) (uses, config.Mistakes) {
	var all uses
	var mistakes config.Mistakes
	for _, p := range cfg.Providers {
		for i, k := range p.Keys {
			u, err := newUse(k, base)
			if err != nil {
				mistakes = append(mistakes, config.Mistake{Text: fmt.Sprintf("provider %s, key %s: %v", p.Name, k.Key, err)})
				continue
			}
			u.writes = i == 0
			if j := slices.IndexFunc(all, u.same); j >= 0 {
				all[j].writes = all[j].writes || u.writes
				continue
			}
			all = append(all, u)
		}
	}
	return all, mistakes
}

func newUse(k config.Key, base principal) (use, error) {
	u := use{who: base, context: k.EncryptionContext}
	lower := map[string]string{}
	for name := range k.EncryptionContext {
		if other, ok := lower[strings.ToLower(name)]; ok {
			return use{}, fmt.Errorf("no condition can tell %q and %q in its encryption context apart: rename one", min(name, other), max(name, other))
		}
		lower[strings.ToLower(name)] = name
	}
	if k.AssumeRoleARN != "" {
		var err error
		if u.who, err = parsePrincipal(k.AssumeRoleARN); err != nil {
			return use{}, fmt.Errorf("the role to assume %w", err)
		}
	}
	ref, err := keyref.Parse(k.Key)
	if err != nil {
		return use{}, err
	}
	if !ref.IsARN() { // of the account whose credentials ask for it
		ref.Region, ref.Account, ref.Partition = k.Region, u.who.id, u.who.partition
		if ref.Partition == "" {
			ref.Partition = keyref.PartitionOf(k.Region)
		}
	}
	for _, p := range []principal{base, u.who} {
		if p.partition != "" && p.partition != ref.Partition {
			return use{}, fmt.Errorf("the key is of the partition %s, %s of %s: AWS lets none into the other", ref.Partition, p.arn, p.partition)
		}
	}
	u.key = key{ref}
	return u, nil
}

func (u use) same(o use) bool {
	return u.who == o.who && u.key == o.key && maps.Equal(u.context, o.context)
}

func (u use) sid() string {
	if u.writes {
		return "EncryptAndDecrypt"
	}
	return "Decrypt"
}

// actions are what a key is called for: only the first of a provider encrypts,
// and what it encrypts it proves to be able to decrypt.
func (u use) actions() Texts {
	if u.writes {
		return Texts{encrypt, decrypt}
	}
	return Texts{decrypt}
}

// looks are what doctor asks besides. The rotation of a key is told within its
// account alone.
func (u use) looks() Texts {
	if u.foreign() {
		return Texts{describe}
	}
	return Texts{describe, rotation}
}

// foreign reports whether the key is of another account than who uses it. Of a
// principal that is not known nothing says so.
func (u use) foreign() bool { return u.who.id != "" && u.key.ref.Account != u.who.id }

// resource is the key as a policy names it. No policy can name one by its alias.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/alias-authorization.html
func (u use) resource() string {
	r := u.key.ref
	if r.Alias != "" {
		r.Key = "*"
	}
	return "arn:" + r.Partition + ":kms:" + cmp.Or(r.Region, "*") + ":" + cmp.Or(r.Account, "*") + ":key/" + r.Key
}

// conditions are those of the identity's policy.
func (u use) conditions() Condition {
	c := u.context.conditions()
	c.merge(u.whose())
	return c
}

// whose is what narrows the resource down, where it says less than the name.
func (u use) whose() Condition {
	c := Condition{}
	if u.key.ref.Alias != "" {
		c.add("ForAnyValue:StringEquals", "kms:ResourceAliases", u.key.ref.Alias)
	}
	if u.key.ref.Account == "" {
		c.add("StringEquals", "aws:ResourceAccount", "${aws:PrincipalAccount}")
	}
	return c
}

func (all uses) where(holds func(use) bool) (found uses) {
	for _, u := range all {
		if holds(u) {
			found = append(found, u)
		}
	}
	return found
}

func (all uses) of(who principal) uses {
	return all.where(func(u use) bool { return u.who == who })
}

// coveredBy reports whether what names the other's key for its principal names this
// one too: an alias may be any key of its Region.
func (u use) coveredBy(o use) bool {
	wide, isAny := strings.CutSuffix(o.resource(), "*")
	return u.who == o.who && (u.resource() == o.resource() || isAny && strings.HasPrefix(u.resource(), wide))
}

// narrowed leaves out what another names too.
func narrowed(all uses) (left uses) {
	for i, u := range all {
		covered := func(o use) bool { return u.coveredBy(o) && o.resource() != u.resource() }
		if !slices.ContainsFunc(all, covered) && !slices.ContainsFunc(all[:i], u.coveredBy) {
			left = append(left, u)
		}
	}
	return left
}

// keys are those whose account is known, each once.
func (all uses) keys() []key {
	var found []key
	for _, u := range all {
		if u.key.ref.Account != "" && !slices.Contains(found, u.key) {
			found = append(found, u.key)
		}
	}
	return found
}

// callers are who uses keys: the program's own identity first, which is there
// also where it only assumes roles.
func callers(all uses, base principal) []principal {
	found := []principal{base}
	for _, u := range all {
		if !slices.Contains(found, u.who) {
			found = append(found, u.who)
		}
	}
	return found
}

// A role is one that is assumed, with the external ids that are sent.
type role struct {
	arn         string
	externalIDs []string // "" among them: also without
}

func rolesOf(cfg *config.Config) []role {
	var all []role
	for _, p := range cfg.Providers {
		for _, k := range p.Keys {
			if k.AssumeRoleARN == "" {
				continue
			}
			i := slices.IndexFunc(all, func(r role) bool { return r.arn == k.AssumeRoleARN })
			if i < 0 {
				all = append(all, role{arn: k.AssumeRoleARN})
				i = len(all) - 1
			}
			if !slices.Contains(all[i].externalIDs, k.ExternalID) {
				all[i].externalIDs = append(all[i].externalIDs, k.ExternalID)
			}
		}
	}
	return all
}
