package cause

import "strings"

// A Policy is a kind of AWS policy, in AWS's own words. Each kind has its own
// place, its own owner and so its own cure.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies.html
type Policy string

// The kinds that AWS names where it denies access. What it says of the policy of
// a KMS key is "resource-based".
const (
	IdentityPolicy  Policy = "identity-based policy"
	ResourcePolicy  Policy = "resource-based policy"
	ServiceControl  Policy = "service control policy"
	ResourceControl Policy = "resource control policy"
	EndpointPolicy  Policy = "VPC endpoint policy"
	Boundary        Policy = "permissions boundary"
	SessionPolicy   Policy = "session policy"
	TrustPolicy     Policy = "role trust policy"
)

// Policies returns every kind, in the order in which docs show them.
func Policies() []Policy {
	return []Policy{
		IdentityPolicy, ResourcePolicy, ServiceControl, ResourceControl, EndpointPolicy, Boundary, SessionPolicy, TrustPolicy,
	}
}

// A Denial is why AWS denied access, as far as it said so. The zero value is that
// it did not.
type Denial struct {
	By       Policy
	Explicit bool   // a Deny statement of it says no; else it lacks an Allow
	Unsure   bool   // or the resource does not exist: KMS does not say which
	ARN      string // of the policy, where AWS named it
	Resource string // what access was denied to, where AWS named it
}

// What is the denial in words that follow "access is denied".
func (d Denial) what() string {
	switch {
	case d.By == "" && d.Explicit:
		return " by an explicit deny, of a policy that AWS did not name"
	case d.By == "":
		return ""
	case d.Unsure:
		return ": the key does not exist in this Region, or its key policy does not let this identity in"
	case d.Explicit:
		return " by an explicit deny in " + article(d.name())
	}
	return ": no " + d.name() + " allows it"
}

func article(name string) string {
	if strings.ContainsAny(name[:1], "aeiou") {
		return "an " + name
	}
	return "a " + name
}

func (d Denial) name() string {
	switch d.By { //nolint:exhaustive // the others go by AWS's name alone
	case ResourcePolicy:
		return "key policy (resource-based policy)"
	case ServiceControl:
		return "service control policy (SCP) of the organization"
	case ResourceControl:
		return "resource control policy (RCP) of the organization"
	}
	return string(d.By)
}

// next is the cure of a denial, "" where AWS did not say enough for one.
// The placeholders are those of [Info], with {resource} and {policy} besides.
func (d Denial) next() string {
	if d.Unsure {
		return "compare {resource} and its Region with the other nodes' configuration; if it is the key that you mean, let its key policy allow {action} to {principal}, or to its account" + replacesAll
	}
	allow, except := cures(d.By)
	if d.Explicit {
		return except
	}
	return allow
}

// cures are what to do about a policy of a kind, "" for one that AWS did not name:
// where it lacks an Allow, and where it has a Deny.
func cures(p Policy) (allow, except string) {
	switch p {
	case IdentityPolicy:
		return "grant {action} on {resource} to {principal} in an IAM policy; its own policy has to leave that to IAM, or to name the principal",
			"except {resource} from the Deny in the IAM policy{policy} of {principal}: no further Allow helps against a Deny"
	case ResourcePolicy:
		return "let the key policy of {resource} allow {action} to {principal}, or to its account, whose IAM policies decide then" + replacesAll,
			"except {principal} from the Deny in the key policy of {resource}: no further Allow helps against a Deny" + replacesAll
	case ServiceControl:
		return "ask who manages the organization of the node's account to allow {action} in a service control policy at each level, from the root to the account: " + notOurs,
			"ask who manages the organization of the node's account to except {principal} from the Deny in its service control policy{policy}: " + notOurs
	case ResourceControl:
		return "ask who manages the organization of the key's account to allow {action} in its resource control policies: " + notOurs,
			"ask who manages the organization of the key's account to except {principal} from the Deny in its resource control policy{policy}: " + notOurs
	case EndpointPolicy:
		return "allow {action} on {resource} to {principal} in the policy of the VPC endpoint that this node's calls go through: `aws-encryption-provider policy` prints one; no IAM policy and no key policy helps",
			"except {principal} from the Deny in the policy{policy} of the VPC endpoint that this node's calls go through: no IAM policy and no key policy helps; compare the endpoints of the other nodes"
	case Boundary:
		return "allow {action} on {resource} in the permissions boundary{policy} of {principal}: what it does not allow, no other policy can",
			"except {resource} from the Deny in the permissions boundary{policy} of {principal}: no other policy helps"
	case SessionPolicy:
		return "allow {action} on {resource} in the session policy with which these credentials were issued: it belongs to whatever issues them, and what it does not allow, no other policy can",
			"except {resource} from the Deny in the session policy with which these credentials were issued: it belongs to whatever issues them, and no other policy helps"
	case TrustPolicy:
		return "let the trust policy of the role {resource} allow {action} to {principal}",
			"except {principal} from the Deny in the trust policy of the role {resource}"
	}
	return "", "find the Deny and except this use from it: in IAM, the key policy, the organization's SCPs and RCPs, and the policies of VPC endpoints, boundaries and sessions; no further Allow helps against a Deny"
}

const (
	notOurs     = "no policy of the account, no IAM policy and no key policy helps"
	replacesAll = "; start from what aws kms get-key-policy {cli} prints, since put-key-policy replaces all of it"
)
