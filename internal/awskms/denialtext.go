package awskms

import (
	"regexp"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// unseen is what KMS says of a key in another account that it will not show, be it
// there or not.
const unseen = "because the resource does not exist in this Region, no resource-based policies allow access"

// denialOf reads out of the sentence of an AccessDenied which kind of policy decided,
// and whether it says no or only does not say yes. The zero value is a sentence
// of another kind: nothing but the advice depends on it.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
func denialOf(message string) cause.Denial {
	text := strings.Join(strings.Fields(message), " ") // AWS's own examples are broken into lines
	d := cause.Denial{Resource: group(`(?i) on resource: "?(arn:[^\s"]+)`, text)}
	switch {
	case strings.Contains(text, unseen):
		d.By, d.Unsure = cause.ResourcePolicy, true
		return d
	case strings.Contains(text, "explicit deny"):
		// With two kinds the second has the Deny: "in a VPC endpoint policy transitively
		// through a service control policy".
		by := group(`(?i)explicit deny in (?:an? |the )?([a-z -]*?(?:policy|boundary))\b`, text)
		if through := group(`(?i) transitively through (?:an? |the )?([a-z -]*?(?:policy|boundary))\b`, text); through != "" {
			by = through
		}
		d.By, d.Explicit = kindOf(by), true
	default:
		d.By = kindOf(group(`(?i)because no ([a-z -]*?(?:policy|boundary)) allows`, text))
	}
	if d.By == "" {
		return cause.Denial{Explicit: d.Explicit, Resource: d.Resource}
	}
	d.ARN = strings.TrimRight(group(`(?:policy|boundary): (arn:\S+)$`, text), ".")
	return d
}

func group(form, text string) string {
	if m := regexp.MustCompile(form).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// kindOf is the kind that AWS calls so. One of its examples has "sessions policy".
func kindOf(name string) cause.Policy {
	for _, p := range cause.Policies() {
		if strings.EqualFold(name, string(p)) || p == cause.SessionPolicy && strings.EqualFold(name, "sessions policy") {
			return p
		}
	}
	return ""
}

// denialOfRole is that of a role that could not be assumed. Its resource-based policy
// is its trust policy, and what to do about one that does not let the caller in is
// known without AWS's sentence: see [settings.Source.Check].
func denialOfRole(message, role string) cause.Denial {
	d := denialOf(message)
	if d.By == cause.ResourcePolicy {
		d.By, d.Unsure = cause.TrustPolicy, false
	}
	if d.By == "" || d.By == cause.TrustPolicy && !d.Explicit {
		return cause.Denial{}
	}
	if d.Resource == "" {
		d.Resource = role
	}
	return d
}
