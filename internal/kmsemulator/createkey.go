package kmsemulator

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"time"
)

const maxDescription = 8192

func createKey(c *call) (any, error) {
	var in struct {
		BypassPolicyLockoutSafetyCheck *bool
		CustomerMasterKeySpec          *string
		CustomKeyStoreId               *string
		Description                    *string
		KeySpec                        *string
		KeyUsage                       *string
		MultiRegion                    *bool
		Origin                         *string
		Policy                         *string
		Tags                           sentTags
		XksKeyId                       *string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.policyText(in.Policy)
	ch.text("description", in.Description, 0, maxDescription)
	ch.enum("keySpec", in.KeySpec, specNames()...)
	ch.enum("customerMasterKeySpec", in.CustomerMasterKeySpec, specNames()...)
	ch.enum("keyUsage", in.KeyUsage, encryptDecrypt, signVerify, verifyMac, keyAgreement, encapsulate)
	ch.enum("origin", in.Origin, "AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE")
	ch.tags(in.Tags)
	if err := ch.err(); err != nil {
		return nil, err
	}
	if in.CustomKeyStoreId != nil || in.XksKeyId != nil {
		return nil, unsupported("This emulator has no custom key stores.")
	}
	if in.KeySpec != nil && in.CustomerMasterKeySpec != nil {
		return nil, invalid("You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.")
	}
	if in.KeySpec == nil {
		in.KeySpec = in.CustomerMasterKeySpec
	}
	n := newKey{
		region: c.region, spec: value(in.KeySpec, symmetric), usage: value(in.KeyUsage, ""), origin: value(in.Origin, "AWS_KMS"),
		multiRegion: in.MultiRegion != nil && *in.MultiRegion, description: value(in.Description, ""),
	}
	err := n.check()
	if err != nil {
		return nil, err
	}
	if n.tags, err = in.Tags.read(); err != nil {
		return nil, err
	}
	if err := c.allowedNew("CreateKey", n.tags); err != nil {
		return nil, err
	}
	n.id = randomKeyID(n.multiRegion)
	if n.policy, err = c.newPolicy(in.Policy, in.BypassPolicyLockoutSafetyCheck, nil, c.arn("kms", c.region, "key/"+n.id)); err != nil {
		return nil, err
	}
	k, err := c.create(n, c.now)
	if err != nil {
		return nil, err
	}
	w := c.store.latest.Load()
	return struct{ KeyMetadata keyMetadata }{c.metadata(k, w.lines[k.ref.id], w)}, nil
}

// allowedNew is allowed for an operation that makes a key, and gives it tags.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateKey.html
func (c *call) allowedNew(operation string, tags []tag) error {
	if err := c.allowed(nil, operation); err != nil || len(tags) == 0 {
		return err
	}
	return c.allowed(nil, "TagResource")
}

func value(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return *s
}

// A newKey is what a key is to become.
type newKey struct {
	region      string
	id          string // "": a random one
	spec        string
	usage       string // "": the only one of a symmetric key
	origin      string
	multiRegion bool
	description string
	policy      keyPolicy
	tags        []tag
}

// check refuses what cannot be combined, and completes the usage.
func (n *newKey) check() error {
	spec, ok := findSpec(n.spec)
	if !ok {
		return unsupported("KeySpec %s is not supported in this region", n.spec)
	}
	switch {
	case n.usage == "" && n.spec == symmetric:
		n.usage = encryptDecrypt
	case n.usage == "":
		return invalid("You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
	case !slices.Contains(spec.usages, n.usage):
		return invalid("KeyUsage %s is not compatible with KeySpec %s", n.usage, n.spec)
	}
	if n.origin == "AWS_CLOUDHSM" || n.origin == "EXTERNAL_KEY_STORE" {
		return invalid("The request must include a CustomKeyStoreId for a key of origin %s.", n.origin)
	}
	return nil
}

// create makes a key and returns it once it is on disk.
func (e *Emulator) create(n newKey, now time.Time) (*key, error) {
	id := n.id
	if id == "" {
		id = randomKeyID(n.multiRegion)
	}
	ref := keyRef{n.region, id}
	k := &key{
		ref: ref, arn: e.arn("kms", n.region, "key/"+id), description: n.description,
		state: enabled, created: now, policy: n.policy, tags: n.tags,
	}
	l := &line{
		id: id, spec: n.spec, usage: n.usage, origin: n.origin, multiRegion: n.multiRegion, primary: n.region,
	}
	if n.origin == "EXTERNAL" {
		k.state = pendingImport
	}
	err := e.store.change(now, func(w *world) error {
		if w.lines[id] != nil {
			return refuse("AlreadyExistsException", "Key %s already exists", k.arn)
		}
		w.keys[ref], w.lines[id] = k, l
		// Of other keys the emulator has the name alone.
		if n.spec == symmetric && n.origin == "AWS_KMS" {
			w.addMaterial(l, newMaterial(id))
		}
		return nil
	})
	return k, err
}

func randomKeyID(multiRegion bool) string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	if multiRegion {
		return "mrk-" + hex.EncodeToString(b[:])
	}
	return uuid(b)
}
