package kmsemulator

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

func aliasPattern() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9:/_-]+$`) }

const aliasPrefixText = `Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`

func (c *checks) aliasName(s *string) {
	if c.required("aliasName", s != nil) {
		c.text("aliasName", s, 1, 256)
		c.pattern("aliasName", s, aliasPattern())
	}
}

// checkAlias refuses names that a customer's alias cannot have.
func checkAlias(name string) error {
	rest, ok := strings.CutPrefix(name, "alias/")
	switch {
	case !ok:
		return invalid("%s", aliasPrefixText)
	case rest == "":
		return invalid("Alias name must not be empty")
	case strings.HasPrefix(name, "alias/aws/"):
		return refuse("NotAuthorizedException", "")
	case strings.Contains(name, ":"):
		return invalid("%s contains invalid characters for an alias", name)
	}
	return nil
}

// aliasTarget decodes CreateAlias and UpdateAlias, and finds the alias' name
// and key.
func (c *call) aliasTarget() (aliasRef, *key, error) {
	var in struct{ AliasName, TargetKeyId *string }
	if err := c.params.decode(&in); err != nil {
		return aliasRef{}, nil, err
	}
	var ch checks
	ch.aliasName(in.AliasName)
	ch.keyID("targetKeyId", in.TargetKeyId)
	if err := ch.err(); err != nil {
		return aliasRef{}, nil, err
	}
	if err := checkAlias(*in.AliasName); err != nil {
		return aliasRef{}, nil, err
	}
	if strings.HasPrefix(*in.TargetKeyId, "alias/") || strings.Contains(*in.TargetKeyId, ":alias/") {
		return aliasRef{}, nil, invalid("Aliases must refer to keys. Not aliases")
	}
	k, err := c.anyKey(*in.TargetKeyId)
	if err != nil {
		return aliasRef{}, nil, err
	}
	return aliasRef{c.region, *in.AliasName}, k, c.allowed(k, c.operation)
}

func createAlias(c *call) (any, error) {
	ref, k, err := c.aliasTarget()
	if err != nil {
		return nil, err
	}
	return nil, c.change(func(w *world) error { return w.createAlias(c.Emulator, ref, k.ref, c.now) })
}

func updateAlias(c *call) (any, error) {
	ref, k, err := c.aliasTarget()
	if err != nil {
		return nil, err
	}
	return nil, c.change(func(w *world) error { return w.updateAlias(c.Emulator, ref, k.ref, c.now) })
}

func (w *world) createAlias(e *Emulator, ref aliasRef, target keyRef, now time.Time) error {
	arn := e.arn("kms", ref.region, ref.name)
	if w.aliases[ref] != nil {
		return refuse("AlreadyExistsException", "An alias with the name %s already exists", arn)
	}
	if err := w.nameable(e, target); err != nil {
		return err
	}
	w.aliases[ref] = &alias{ref: ref, arn: arn, target: target.id, created: now, updated: now}
	return nil
}

// updateAlias moves an alias to another key of the same kind.
func (w *world) updateAlias(e *Emulator, ref aliasRef, target keyRef, now time.Time) error {
	old := w.aliases[ref]
	if old == nil {
		return notFound("Alias %s is not found.", e.arn("kms", ref.region, ref.name))
	}
	if err := w.nameable(e, target); err != nil {
		return err
	}
	was, will := w.lines[old.target], w.lines[target.id]
	if was != nil && (was.usage != will.usage || (was.spec == symmetric) != (will.spec == symmetric)) {
		return invalid("Alias %s cannot be changed from key %s to key %s. Key usage and key type (symmetric, asymmetric or HMAC) must be the same.",
			old.arn, e.arn("kms", ref.region, "key/"+old.target), e.arn("kms", ref.region, "key/"+target.id))
	}
	a := *old
	a.target, a.updated = target.id, now
	w.aliases[ref] = &a
	return nil
}

// nameable reports whether an alias may be pointed to a key: not once its end is
// scheduled.
func (w *world) nameable(e *Emulator, ref keyRef) error {
	k := w.keys[ref]
	switch {
	case k == nil:
		return notFound("Key '%s' does not exist", e.arn("kms", ref.region, "key/"+ref.id))
	case k.state == pendingDeletion || k.state == pendingReplicaDeletion:
		return stateError(k)
	}
	return nil
}

func deleteAlias(c *call) (any, error) {
	var in struct{ AliasName *string }
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.aliasName(in.AliasName)
	if err := ch.err(); err != nil {
		return nil, err
	}
	if err := checkAlias(*in.AliasName); err != nil {
		return nil, err
	}
	ref := aliasRef{c.region, *in.AliasName}
	return nil, c.change(func(w *world) error {
		a := w.aliases[ref]
		if a == nil {
			return notFound("Alias %s is not found.", c.arn("kms", c.region, ref.name))
		}
		if err := c.allowed(w.keys[keyRef{c.region, a.target}], "DeleteAlias"); err != nil {
			return err
		}
		delete(w.aliases, ref)
		return nil
	})
}

func listAliases(c *call) (any, error) {
	var in struct {
		KeyId  *string
		Limit  *int32
		Marker *string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.text("keyId", in.KeyId, 1, 2048)
	ch.paging(in.Limit, in.Marker, 100)
	if err := ch.err(); err != nil {
		return nil, err
	}
	var only *key
	if in.KeyId != nil {
		var err error
		if only, err = c.plainKey(*in.KeyId); err != nil {
			return nil, err
		}
	}
	if err := c.allowed(only, "ListAliases"); err != nil {
		return nil, err
	}
	type entry struct {
		AliasArn        string
		AliasName       string
		CreationDate    *seconds
		LastUpdatedDate *seconds
		TargetKeyId     string
	}
	var all []entry
	for ref, a := range c.view.aliases {
		if ref.region == c.region && (only == nil || a.target == only.ref.id) {
			all = append(all, entry{a.arn, ref.name, at(a.created), at(a.updated), a.target})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.AliasName, b.AliasName) })
	part, next, err := page(all, in.Limit, in.Marker, 50, func(e entry) string { return e.AliasName })
	if err != nil {
		return nil, err
	}
	return struct {
		Aliases    []entry
		NextMarker string `json:",omitempty"`
		Truncated  bool
	}{part, next, next != ""}, nil
}
