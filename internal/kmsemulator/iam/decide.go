package iam

import (
	"slices"
	"strings"
)

// A Request is what is to be decided: who wants to do what with what.
type Request struct {
	Principal       string // ARN of a user or role; for a session its role's
	Session         string // ARN of a session of the role; "" for a user
	Action          string // such as kms:Encrypt
	Resource        string // ARN of the key or role, "*" where there is none
	ResourceAccount string // its owner; "": there is no resource

	// Keys are the condition keys of the request besides those of the fields
	// above, as AWS writes them. One that is absent has no value.
	Keys map[string][]string

	keys map[string][]string // all of them, in lower case
}

// Policies are those that bear on a request. Those that only limit what others
// allow are nil where there are none.
type Policies struct {
	Identity []*Policy
	Resource *Policy // nil: the resource has none of its own
	Endpoint *Policy // nil: the request comes by no endpoint with a policy

	ServiceControl, ResourceControl *Policy // of the principal's and of the resource's organization
	Boundary, Session               *Policy // of the principal, and of its credentials
}

// A limit is a kind of policy that allows nothing by itself.
type limit struct {
	name   string // by which AWS calls it
	policy *Policy
}

// limits are in an order of ours: AWS names one of several, and does not say which.
func (p Policies) limits() []limit {
	return []limit{
		{"resource control policy", p.ResourceControl},
		{"service control policy", p.ServiceControl},
		{"VPC endpoint policy", p.Endpoint},
		{"permissions boundary", p.Boundary},
		{"session policy", p.Session},
	}
}

// AccountOf returns the account of an ARN, "" where it has none.
func AccountOf(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 {
		return ""
	}
	return parts[4]
}

// Refusal says why a request is refused, in the words that AWS puts after
// "is not authorized to perform: kms:Encrypt on resource: ARN "; "" where it is
// allowed.
//
// Words: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
// Logic: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
func Refusal(r Request, p Policies) string {
	r.complete()
	for _, policy := range p.Identity {
		if policy.says(&r, true) != silent {
			return "with an explicit deny in an identity-based policy"
		}
	}
	for _, side := range append(p.limits(), limit{"resource-based policy", p.Resource}) {
		if side.policy.says(&r, true) != silent {
			return "with an explicit deny in a " + side.name
		}
	}
	for _, side := range p.limits() {
		if side.policy != nil && side.policy.says(&r, false) == silent {
			return "because no " + side.name + " allows the " + r.Action + " action"
		}
	}
	own := silent
	for _, policy := range p.Identity {
		own = max(own, policy.says(&r, false))
	}
	identity := "because no identity-based policy allows the " + r.Action + " action"
	if r.ResourceAccount == "" {
		if own == silent {
			return identity
		}
		return ""
	}
	// A key's and a role's policy is the root of all access to it: what others
	// allow counts only where it leaves the decision to their account.
	switch given := p.Resource.says(&r, false); {
	case given == silent:
		return "because no resource-based policy allows the " + r.Action + " action"
	case given == named && AccountOf(r.Principal) == r.ResourceAccount, own != silent:
		return ""
	}
	return identity
}

func (r *Request) complete() {
	r.keys = map[string][]string{
		"aws:principalarn": {r.Principal}, "aws:principalaccount": {AccountOf(r.Principal)}, "kms:calleraccount": {AccountOf(r.Principal)},
	}
	if r.ResourceAccount != "" {
		r.keys["aws:resourceaccount"] = []string{r.ResourceAccount}
	}
	for name, values := range r.Keys {
		if len(values) > 0 {
			r.keys[strings.ToLower(name)] = values
		}
	}
}

// What a policy says of a request.
const (
	silent  = iota
	account // the request's account: it decides
	named   // the principal itself, or anybody
)

// says is the most that a policy says of a request.
func (p *Policy) says(r *Request, deny bool) int {
	most := silent
	if p == nil {
		return most
	}
	for _, s := range p.statements {
		if s.deny == deny && s.concerns(r) {
			most = max(most, s.means(r, p.kind))
		}
	}
	return most
}

func (s statement) concerns(r *Request) bool {
	action := strings.ToLower(r.Action)
	return slices.ContainsFunc(s.actions, func(a string) bool { return like(a, action) }) &&
		(len(s.resources) == 0 || slices.ContainsFunc(s.resources, func(p string) bool { return like(r.fill(p, true), r.Resource) })) &&
		!slices.ContainsFunc(s.conditions, func(c condition) bool { return !c.holds(r) })
}

// means says how a statement that concerns a request means its principal.
func (s statement) means(r *Request, kind Kind) int {
	if kind == Identity {
		return named
	}
	id := AccountOf(r.Principal)
	for _, p := range s.principals {
		if p == "*" || p == r.Principal || r.Session != "" && p == r.Session {
			return named
		}
	}
	for _, p := range s.principals {
		if p == id || AccountOf(p) == id && strings.HasSuffix(p, ":root") {
			return account
		}
	}
	return silent
}
