package kmsemulator

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
)

const (
	policyName = "default" // the only one that a key's policy has

	// What a request may hold, and what a key may have.
	//
	// https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html
	maxPolicy     = 131_072
	maxPolicySize = 32_768
)

// A keyPolicy is a key's policy. The zero value is KMS's default one.
type keyPolicy struct {
	text string
	read *iam.Policy // nil with a text: saved before policies decided, and decides nothing
	lent bool        // by Enforce, whose next call takes it back
}

// shown is what GetKeyPolicy tells.
func (p keyPolicy) shown(e *Emulator) string {
	if p.text == "" {
		return e.defaultPolicy()
	}
	return p.text
}

// defaultPolicy is the policy of a key that is made without one. It leaves the
// decision to the key's account.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
func (e *Emulator) defaultPolicy() string {
	return `{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "arn:` + e.partition + `:iam::` + e.account + `:root"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`
}

// policyText checks the form of a policy in a request.
func (c *checks) policyText(s *string) {
	c.text("policy", s, 1, maxPolicy)
	c.patternAs("policy", s, regexp.MustCompile(`^[\t\n\r\x{20}-\x{ff}]+$`), `[\u0009\u000A\u000D\u0020-\u00FF]+`)
}

func (c *checks) policyName(s *string) {
	c.text("policyName", s, 1, 128)
	c.patternAs("policyName", s, regexp.MustCompile(`^\w+$`), `[\w]+`)
}

// newPolicy reads what a request gives a key of this ARN for a policy, nil for
// the default one, and refuses one that would keep the caller from changing it
// again, unless bypass is true.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_PutKeyPolicy.html
func (c *call) newPolicy(text *string, bypass *bool, k *key, arn string) (keyPolicy, error) {
	if text == nil {
		return keyPolicy{}, nil
	}
	if len(*text) > maxPolicySize {
		return keyPolicy{}, refuse("LimitExceededException", "The key policy exceeds the limit of %d bytes.", maxPolicySize)
	}
	read, err := iam.Parse(iam.Key, *text)
	if err != nil {
		return keyPolicy{}, policyRefusal(err)
	}
	if !c.exist(read.Principals()) {
		return keyPolicy{}, malformedPolicy(invalidPrincipals)
	}
	if (bypass == nil || !*bypass) && c.lockedOut(read, k, arn) {
		return keyPolicy{}, malformedPolicy("The new key policy will not allow you to update the key policy in the future.")
	}
	return keyPolicy{text: *text, read: read}, nil
}

const invalidPrincipals = "Policy contains a statement with one or more invalid principals."

func malformedPolicy(text string) error {
	return refuse("MalformedPolicyDocumentException", "%s", text)
}

// policyRefusal is the answer to a document that cannot be read. Of most faults
// KMS says nothing.
func policyRefusal(err error) error {
	if unknown, ok := errors.AsType[*iam.UnknownError](err); ok {
		return unsupported("This emulator does not know all of the policy language: %s", unknown)
	}
	if who, ok := errors.AsType[*iam.PrincipalError](err); ok {
		if who.None {
			return malformedPolicy("Policy contains a statement with no principal.")
		}
		return malformedPolicy(invalidPrincipals)
	}
	return malformedPolicy("")
}

// exist reports whether KMS sees these principals. Users come and go unknown to the
// emulator; roles of the account do not where it was given some.
func (e *Emulator) exist(principals []string) bool {
	for _, arn := range principals {
		if !strings.HasPrefix(arn, "arn:") {
			continue
		}
		if partition, _, _ := strings.Cut(arn[len("arn:"):], ":"); partition != e.partition {
			return false
		}
		named := func(r Role) bool { return r.ARN == arn }
		if strings.HasPrefix(arn, e.arn("iam", "", "role/")) && len(e.options.Roles) > 0 && !slices.ContainsFunc(e.options.Roles, named) {
			return false
		}
	}
	return true
}

// lockedOut reports whether a policy of a key, nil for one that is to come, would
// refuse the caller's next PutKeyPolicy.
func (c *call) lockedOut(p *iam.Policy, k *key, arn string) bool {
	const next = "PutKeyPolicy"
	if !c.policy.allows(k, next) || c.foreign() {
		return true
	}
	r, policies := c.question(k, next)
	r.Resource, r.ResourceAccount = arn, c.account
	policies.Resource, policies.Endpoint = p, nil
	return iam.Refusal(r, policies) != ""
}

func putKeyPolicy(c *call) (any, error) {
	var in struct {
		BypassPolicyLockoutSafetyCheck *bool
		KeyId                          *string
		Policy                         *string
		PolicyName                     *string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.policyName(in.PolicyName)
	if ch.required("policy", in.Policy != nil) {
		ch.policyText(in.Policy)
	}
	if err := ch.err(); err != nil {
		return nil, err
	}
	if name := value(in.PolicyName, policyName); name != policyName {
		return nil, unsupported("Policy name %s is not supported: the only valid name is %s.", name, policyName)
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "PutKeyPolicy"); err != nil {
		return nil, err
	}
	p, err := c.newPolicy(in.Policy, in.BypassPolicyLockoutSafetyCheck, k, k.arn)
	if err != nil {
		return nil, err
	}
	return nil, c.changeKey(k, func(w *world) error {
		w.editKey(k.ref).policy = p
		return nil
	})
}

func getKeyPolicy(c *call) (any, error) {
	var in struct{ KeyId, PolicyName *string }
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.policyName(in.PolicyName)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "GetKeyPolicy"); err != nil {
		return nil, err
	}
	if value(in.PolicyName, policyName) != policyName {
		return nil, notFound("No such policy exists")
	}
	return struct{ Policy, PolicyName string }{k.policy.shown(c.Emulator), policyName}, nil
}

func listKeyPolicies(c *call) (any, error) {
	k, limit, marker, err := c.listing(1000)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "ListKeyPolicies"); err != nil {
		return nil, err
	}
	part, next, err := page([]string{policyName}, limit, marker, 100, func(s string) string { return s })
	if err != nil {
		return nil, err
	}
	return struct {
		NextMarker  string `json:",omitempty"`
		PolicyNames []string
		Truncated   bool
	}{next, part, next != ""}, nil
}

// listing decodes and checks a request for one key's list, and finds the key.
func (c *call) listing(most int32) (k *key, limit *int32, marker *string, err error) {
	var in struct {
		KeyId  *string
		Limit  *int32
		Marker *string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, nil, nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.paging(in.Limit, in.Marker, most)
	if err := ch.err(); err != nil {
		return nil, nil, nil, err
	}
	k, err = c.plainKey(*in.KeyId)
	return k, in.Limit, in.Marker, err
}
