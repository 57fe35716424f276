package awskms_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// The sentences are those of AWS's own page and of its knowledge center, broken into
// lines as they are there.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
func TestDenialNamesTheKindOfPolicyAndItsOwnCure(t *testing.T) {
	t.Parallel()
	const (
		role = "arn:aws:sts::111122223333:assumed-role/control-plane/i-0123456789abcdef0"
		key  = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
		scp  = "arn:aws:organizations::444455556666:policy/o-exampleorgid/service_control_policy/p-examplepolicy"
	)
	on := func(why string) string {
		return "User: " + role + " is not authorized to perform: kms:Encrypt on resource: " + key + " " + why
	}
	without := func(why string) string {
		return "User: " + role + " is not authorized to perform:\nkms:Encrypt " + why
	}
	for sentence, c := range map[string]struct {
		by       cause.Policy
		explicit bool
		what     string // in what happened
		next     string // in the next step
	}{
		on("because no identity-based policy allows the kms:Encrypt action"):       {cause.IdentityPolicy, false, "no identity-based policy allows it", "grant kms:Encrypt on " + key + " to " + role + " in an IAM policy"},
		without("because no identity-based policy allows the kms:Encrypt action"):  {cause.IdentityPolicy, false, "no identity-based policy", "grant kms:Encrypt on " + key},
		on("with an explicit deny in an identity-based policy"):                    {cause.IdentityPolicy, true, "an explicit deny in an identity-based policy", "no further Allow helps"},
		on("because no resource-based policy allows the kms:Encrypt action"):       {cause.ResourcePolicy, false, "no key policy (resource-based policy) allows it", "let the key policy of " + key + " allow kms:Encrypt to " + role},
		on("with an explicit deny in a resource-based policy"):                     {cause.ResourcePolicy, true, "key policy", "except " + role + " from the Deny in the key policy"},
		without("because no service control policy allows the kms:Encrypt action"): {cause.ServiceControl, false, "no service control policy (SCP)", "allow kms:Encrypt in a service control policy at each level"},
		without("with an explicit deny in a service control policy"):               {cause.ServiceControl, true, "explicit deny in a service control policy (SCP)", "from the Deny in its service control policy: no policy of the account"},
		on("with an explicit deny in a service control policy: " + scp):            {cause.ServiceControl, true, "service control policy", "service control policy " + scp + ": no policy of the account"},
		on("with an explicit deny in a resource control policy"):                   {cause.ResourceControl, true, "resource control policy (RCP)", "organization of the key's account"},
		on("because no resource control policy allows the kms:Encrypt action"):     {cause.ResourceControl, false, "resource control policy (RCP)", "organization of the key's account"},
		without("because no VPC endpoint policy allows the kms:Encrypt action"):    {cause.EndpointPolicy, false, "no VPC endpoint policy", "in the policy of the VPC endpoint that this node's calls go through"},
		on("with\nan explicit deny in a VPC endpoint policy"):                      {cause.EndpointPolicy, true, "explicit deny in a VPC endpoint policy", "VPC endpoint that this node's calls go through"},
		on("because no permissions boundary allows the kms:Encrypt action"):        {cause.Boundary, false, "no permissions boundary", "in the permissions boundary of " + role},
		without("with an explicit deny in a permissions boundary"):                 {cause.Boundary, true, "explicit deny in a permissions boundary", "permissions boundary of " + role},
		without("because no session policy allows the kms:Encrypt action"):         {cause.SessionPolicy, false, "no session policy", "session policy with which these credentials were issued"},
		on("with an explicit deny in a sessions policy"):                           {cause.SessionPolicy, true, "explicit deny in a session policy", "session policy with which these credentials were issued"},
		on("with an explicit deny in a session policy"):                            {cause.SessionPolicy, true, "explicit deny in a session policy", "session policy with which these credentials were issued"},
		on("with an explicit deny in a VPC endpoint policy transitively through a service control policy"): {
			cause.ServiceControl, true, "service control policy (SCP)", "ask who manages the organization",
		},
		"User: " + role + " is not authorized to perform: kms:Encrypt on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access": {
			cause.ResourcePolicy, false, "the key does not exist in this Region, or its key policy", "compare " + key + " and its Region",
		},

		// What says no more gets no more than the general advice.
		"User: " + role + " is not authorized to perform: kms:Encrypt": {"", false, "access is denied", "grant kms:Encrypt on " + key + " to " + role + ", in IAM and in the key policy"},
		on(""):                      {"", false, "access is denied", "in IAM and in the key policy"},
		on("with an explicit deny"): {"", true, "access is denied by an explicit deny", "no further Allow helps"},
		on("with an explicit deny in a policy of a kind to come"):  {"", true, "access is denied by an explicit deny", "no further Allow helps"},
		on("because no moon policy allows the kms:Encrypt action"): {"", false, "access is denied", "in IAM and in the key policy"},
		"Access Denied": {"", false, "access is denied", "in IAM and in the key policy"},
		"":              {"", false, "access is denied", "in IAM and in the key policy"},
	} {
		e := awskms.Denied(key, sentence)
		if e.Denial.By != c.by || e.Denial.Explicit != c.explicit {
			t.Errorf("%q: by %q, explicit %v; want %q, %v", sentence, e.Denial.By, e.Denial.Explicit, c.by, c.explicit)
		}
		if !strings.Contains(e.What(), c.what) {
			t.Errorf("%q: what happened is %q, want %q in it", sentence, e.What(), c.what)
		}
		if !strings.Contains(e.Next(), c.next) || strings.ContainsAny(e.Next(), "{}") {
			t.Errorf("%q: the next step is %q, want %q in it", sentence, e.Next(), c.next)
		}
		if c.by != cause.IdentityPolicy && c.by != "" && strings.Contains(e.Next(), "grant ") {
			t.Errorf("%q: a grant does not help, and the next step is %q", sentence, e.Next())
		}
	}
}

// TestEachLimitIsNamedFromAWSsAnswer goes all the way: the emulator decides by
// policies of each kind, and says why as AWS does.
func TestEachLimitIsNamedFromAWSsAnswer(t *testing.T) {
	s, key := start(t)
	me := s.Credential.Principal
	document := func(effect, who, action string) string {
		return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow",%[2]s"Action":"kms:Decrypt","Resource":"*"},{"Effect":%[1]q,%[2]s"Action":%[3]q,"Resource":"*"}]}`, effect, who, action)
	}
	const anyone = `"Principal":"*",`
	deny, no := document("Deny", "", "kms:Encrypt"), document("Allow", "", "kms:Decrypt")
	may := map[string][]string{me: {document("Allow", "", "kms:*")}}
	for name, c := range map[string]struct {
		policies kmsemulator.Policies
		want     string
	}{
		"SCP denies":        {kmsemulator.Policies{ServiceControl: deny}, "explicit deny in a service control policy"},
		"SCP lacks":         {kmsemulator.Policies{ServiceControl: no}, "no service control policy"},
		"RCP denies":        {kmsemulator.Policies{ResourceControl: document("Deny", anyone, "kms:Encrypt")}, "explicit deny in a resource control policy"},
		"endpoint lacks":    {kmsemulator.Policies{KMSEndpoint: document("Allow", anyone, "kms:Decrypt")}, "no VPC endpoint policy"},
		"boundary lacks":    {kmsemulator.Policies{Boundary: map[string]string{me: no}}, "no permissions boundary"},
		"session denies":    {kmsemulator.Policies{Session: map[string]string{me: deny}}, "explicit deny in a session policy"},
		"key policy denies": {kmsemulator.Policies{Keys: map[string]string{key: document("Deny", anyone, "kms:Encrypt")}}, "explicit deny in a key policy"},
	} {
		c.policies.Identity = may
		if err := s.Enforce(c.policies); err != nil {
			t.Fatal(err)
		}
		_, err := newClient(t, awskms.Options{}).Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		if e := cause.Of(err); e.Code != cause.AccessDenied || !strings.Contains(e.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}
