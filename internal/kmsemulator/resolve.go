package kmsemulator

import (
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
)

// isKeyID tells whether a text has the form of a key id: a UUID, or "mrk-" and
// 32 hexadecimal digits. KMS tells other texts from ids that do not exist.
func isKeyID(s string) bool {
	const hexDigits = "0123456789abcdef"
	if rest, ok := strings.CutPrefix(s, "mrk-"); ok {
		return len(rest) == 32 && strings.Trim(rest, hexDigits) == ""
	}
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return strings.Count(s, "-") == 4 && strings.Trim(s, hexDigits+"-") == ""
}

// anyKey finds the key that a key id, key ARN, alias or alias ARN names.
func (c *call) anyKey(name string) (*key, error) {
	isARN := strings.HasPrefix(name, "arn:")
	switch {
	case !isARN && c.foreign():
		return nil, notFound("Key '%s' does not exist in account %s", name, iam.AccountOf(c.principal))
	case strings.HasPrefix(name, "alias/"):
		return c.aliased(name)
	case !isARN:
		return c.keyByID(name)
	}
	resource, err := c.resource(name)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(resource, "alias/") {
		return c.aliased(resource)
	}
	return c.keyOfARN(name, resource)
}

// plainKey is anyKey for the operations that take no alias.
func (c *call) plainKey(name string) (*key, error) {
	if strings.HasPrefix(name, "alias/") || strings.Contains(name, ":alias/") {
		return nil, notFound("Invalid keyId '%s'", name)
	}
	return c.anyKey(name)
}

// resource returns the last part of an ARN of this account and Region.
func (c *call) resource(arn string) (string, error) {
	p := strings.SplitN(arn, ":", 6)
	if len(p) != 6 || p[2] != "kms" {
		return "", refuse("InvalidArnException", "Invalid arn %s", arn)
	}
	partition, region, account := p[1], p[3], p[4]
	if region != c.region || partition != c.partition {
		return "", notFound("Invalid arn %s", region)
	}
	if account != c.account {
		return "", denied(c.principal, c.operation, arn, "because the resource does not exist in this Region, "+
			"no resource-based policies allow access, or a resource-based policy explicitly denies access")
	}
	return p[5], nil
}

func (c *call) keyOfARN(arn, resource string) (*key, error) {
	id, ok := strings.CutPrefix(resource, "key/")
	if !ok {
		return nil, refuse("InvalidArnException", "Invalid arn %s", arn)
	}
	return c.keyByID(id)
}

// foreign reports whether the caller is of another account, in which there is no key.
func (c *call) foreign() bool { return iam.AccountOf(c.principal) != c.account }

func (c *call) keyByID(id string) (*key, error) {
	if !isKeyID(id) {
		return nil, notFound("Invalid keyId '%s'", id)
	}
	if k := c.key(keyRef{c.region, id}); k != nil {
		return k, nil
	}
	return nil, notFound("Key '%s' does not exist", c.arn("kms", c.region, "key/"+id))
}

// key returns a key as this connection sees it. A new key is seen everywhere
// at once, and so is its end.
func (c *call) key(ref keyRef) *key {
	now := c.store.latest.Load().keys[ref]
	if now == nil {
		return nil
	}
	if k := c.view.keys[ref]; k != nil {
		return k
	}
	return now
}

// line returns what a key shares over Regions, as this connection sees it.
func (c *call) line(k *key) *line {
	if l := c.view.lines[k.ref.id]; l != nil {
		return l
	}
	return c.store.latest.Load().lines[k.ref.id]
}

func (c *call) aliased(name string) (*key, error) {
	ref := aliasRef{c.region, name}
	if a := c.view.aliases[ref]; a != nil {
		if k := c.key(keyRef{c.region, a.target}); k != nil {
			return k, nil
		}
	}
	return nil, notFound("Alias %s is not found.", c.arn("kms", c.region, name))
}

// usable reports whether a key's state lets it do its work.
//
// See https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html for
// this and what other operations make of each state.
func usable(k *key) error {
	switch k.state {
	case enabled, updating:
		return nil
	case disabled:
		return refuse("DisabledException", "%s is disabled.", k.arn)
	default:
		return stateError(k)
	}
}

// stateError is the refusal of an operation that a state does not allow.
func stateError(k *key) error {
	words := map[string]string{
		enabled: "enabled", disabled: "disabled", pendingDeletion: "pending deletion",
		pendingReplicaDeletion: "pending replica deletion", pendingImport: "pending import",
		creating: "creating", updating: "updating", unavailable: "unavailable",
	}
	return badState("%s is %s.", k.arn, words[k.state])
}
