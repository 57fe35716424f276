package iam_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
)

const (
	role = "arn:aws:iam::111122223333:role/a/control-plane"
	key  = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

func must(t testing.TB, kind iam.Kind, text string) *iam.Policy {
	t.Helper()
	p, err := iam.Parse(kind, text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func document(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func allow(principal, more string) string {
	if principal != "" {
		principal = `"Principal":{"AWS":"` + principal + `"},`
	}
	return `{"Effect":"Allow",` + principal + `"Action":"kms:Decrypt","Resource":"*"` + more + `}`
}

// TestConditions is IAM's own logic.
func TestConditions(t *testing.T) {
	for _, c := range []struct {
		condition string
		keys      map[string][]string
		want      bool
	}{
		{`"StringEquals":{"kms:EncryptionContext:Cluster":"a"}`, map[string][]string{"kms:EncryptionContext:cluster": {"a"}}, true},
		{`"StringEquals":{"kms:EncryptionContext:Cluster":"a"}`, map[string][]string{"kms:EncryptionContext:cluster": {"A"}}, false},
		{`"StringEquals":{"kms:EncryptionContext:Cluster":["b","a"]}`, map[string][]string{"kms:EncryptionContext:cluster": {"a"}}, true},
		{`"StringEquals":{"kms:EncryptionContext:Cluster":"a*"}`, map[string][]string{"kms:EncryptionContext:cluster": {"ab"}}, false},
		{`"StringEquals":{"kms:EncryptionContext:Cluster":"a"}`, nil, false},
		{`"StringNotEquals":{"kms:EncryptionContext:Cluster":"a"}`, nil, true},
		{`"StringNotEquals":{"kms:EncryptionContext:Cluster":["a","b"]}`, map[string][]string{"kms:EncryptionContext:cluster": {"b"}}, false},
		{`"StringLike":{"kms:EncryptionContext:Cluster":"a?c*"}`, map[string][]string{"kms:EncryptionContext:cluster": {"abcd"}}, true},
		{`"StringLike":{"kms:RequestAlias":"alias/*"}`, nil, false},
		{`"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["a","b"]}`, nil, true},
		{`"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["a","b"]}`, map[string][]string{"kms:EncryptionContextKeys": {"b"}}, true},
		{`"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["a","b"]}`, map[string][]string{"kms:EncryptionContextKeys": {"b", "c"}}, false},
		{`"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/a"}`, map[string][]string{"kms:ResourceAliases": {"alias/b", "alias/a"}}, true},
		{`"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/a"}`, nil, false},
		{`"Null":{"kms:EncryptionContextKeys":"true"}`, nil, true},
		{`"Null":{"kms:EncryptionContextKeys":"true"}`, map[string][]string{"kms:EncryptionContextKeys": {"a"}}, false},
		{`"Null":{"kms:ViaService":"false"}`, nil, false},
		{`"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/*/control-plane"}`, nil, true},
		{`"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/control-plane"}`, nil, false},
		{`"ArnEquals":{"aws:PrincipalArn":"arn:*:role/a/control-plane"}`, nil, false},
		{`"ArnLike":{"aws:PrincipalArn":"arn:*:iam::*:role/*"}`, nil, true},
		{`"StringEquals":{"aws:ResourceAccount":"${aws:PrincipalAccount}"}`, nil, true},
		{`"StringEquals":{"aws:ResourceAccount":"${aws:username}"}`, nil, false},
		{`"StringEquals":{"kms:EncryptionContext:a":"${$}{x}${*}"}`, map[string][]string{"kms:EncryptionContext:a": {"${x}*"}}, true},
		{`"StringLike":{"kms:EncryptionContext:a":"${*}b"}`, map[string][]string{"kms:EncryptionContext:a": {"ab"}}, false},
		{`"StringEquals":{"kms:CallerAccount":"111122223333","aws:PrincipalAccount":"444455556666"}`, nil, false},
	} {
		p := must(t, iam.Identity, document(allow("", `,"Condition":{`+c.condition+`}`)))
		r := iam.Request{Principal: role, Action: "kms:Decrypt", Resource: key, ResourceAccount: "111122223333", Keys: c.keys}
		got := iam.Refusal(r, iam.Policies{Identity: []*iam.Policy{p}, Resource: must(t, iam.Key, document(allow("111122223333", "")))})
		if (got == "") != c.want {
			t.Errorf("%s with %v: %q, want allowed %t", c.condition, c.keys, got, c.want)
		}
	}
}

func TestWhoseWordCounts(t *testing.T) {
	const (
		byIdentity = "because no identity-based policy allows the kms:Decrypt action"
		byResource = "because no resource-based policy allows the kms:Decrypt action"
		root       = "arn:aws:iam::111122223333:root"
		deny       = `{"Effect":"Deny","Action":"kms:De*","Resource":"*"}`
		denyAll    = `{"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*"}`
	)
	for name, c := range map[string]struct {
		principal, identity, resource, endpoint, want string
	}{
		"both":                        {role, document(allow("", "")), document(allow(root, "")), "", ""},
		"the key leaves it to nobody": {role, document(allow("", "")), "", "", byResource},
		"the key's account alone":     {role, "", document(allow(root, "")), "", byIdentity},
		"the key names the role":      {role, "", document(allow(role, "")), "", ""},
		"the key names another":       {role, document(allow("", "")), document(allow(role+"s", "")), "", byResource},
		"an account's number":         {role, document(allow("", "")), document(allow("111122223333", "")), "", ""},
		"of another account, named":   {"arn:aws:iam::444455556666:role/x", "", document(allow("arn:aws:iam::444455556666:role/x", "")), "", byIdentity},
		"of another account, both":    {"arn:aws:iam::444455556666:role/x", document(allow("", "")), document(allow("444455556666", "")), "", ""},
		"of an account not let in":    {"arn:aws:iam::444455556666:role/x", document(allow("", "")), document(allow(root, "")), "", byResource},
		"denied by the identity":      {role, document(allow("", ""), deny), document(allow(role, "")), "", "with an explicit deny in an identity-based policy"},
		"denied by the key":           {role, document(allow("", "")), document(allow(role, ""), denyAll), "", "with an explicit deny in a resource-based policy"},
		"by an endpoint":              {role, document(allow("", "")), document(allow(root, "")), document(allow("*", "")), ""},
		"by an endpoint for others":   {role, document(allow("", "")), document(allow(root, "")), document(allow("444455556666", "")), "because no VPC endpoint policy allows the kms:Decrypt action"},
		"denied by the endpoint":      {role, document(allow("", "")), document(allow(root, "")), document(allow("*", ""), denyAll), "with an explicit deny in a VPC endpoint policy"},
		"another action":              {role, strings.ReplaceAll(document(allow("", "")), "Decrypt", "Encrypt"), document(allow(root, "")), "", byIdentity},
		"another key":                 {role, strings.ReplaceAll(document(allow("", "")), `"Resource":"*"`, `"Resource":"`+key[:len(key)-1]+`"`), document(allow(root, "")), "", byIdentity},
		"actions are blind to case":   {role, strings.ReplaceAll(document(allow("", "")), "kms:Decrypt", "kms:dECRYPT"), document(allow(root, "")), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var p iam.Policies
			if c.identity != "" {
				p.Identity = append(p.Identity, must(t, iam.Identity, c.identity))
			}
			if c.resource != "" {
				p.Resource = must(t, iam.Key, c.resource)
			}
			if c.endpoint != "" {
				p.Endpoint = must(t, iam.Endpoint, c.endpoint)
			}
			if got := iam.Refusal(iam.Request{Principal: c.principal, Action: "kms:Decrypt", Resource: key, ResourceAccount: "111122223333"}, p); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestWhatIsNotKnownIsRefused: it could mean something else at AWS.
func TestWhatIsNotKnownIsRefused(t *testing.T) {
	with := func(condition string) string { return document(allow("", `,"Condition":{`+condition+`}`)) }
	for text, kind := range map[string]iam.Kind{
		`{}`: iam.Identity, `[]`: iam.Identity, ``: iam.Identity, document(): iam.Identity,
		document(allow("", "")) + "{}":                                                     iam.Identity,
		strings.ReplaceAll(document(allow("", "")), "2012-10-17", "2008-10-17"):            iam.Identity,
		strings.ReplaceAll(document(allow("", "")), `"Action"`, `"NotAction"`):             iam.Identity,
		strings.ReplaceAll(document(allow("", "")), `"Resource":"*"`, `"NotResource":"*"`): iam.Identity,
		strings.ReplaceAll(document(allow("", "")), `,"Resource":"*"`, ``):                 iam.Identity,
		strings.ReplaceAll(document(allow("", "")), "Allow", "allow"):                      iam.Identity,
		strings.ReplaceAll(document(allow("", "")), "kms:Decrypt", "s3:Get*"):              iam.Identity,
		strings.ReplaceAll(document(allow("", "")), `"kms:Decrypt"`, `[]`):                 iam.Identity,
		document(allow("*", "")):                                           iam.Identity,
		document(allow("", "")):                                            iam.Trust,
		document(allow("arn:aws:iam::111122223333:role/*", "")):            iam.Trust,
		document(allow("somebody", "")):                                    iam.Trust,
		document(strings.ReplaceAll(allow("*", ""), `"AWS"`, `"Service"`)): iam.Trust,
		with(`"StringEquals":{"aws:username":"x"}`):                        iam.Identity,
		with(`"StringEqualsIgnoreCase":{"kms:RequestAlias":"x"}`):          iam.Identity,
		with(`"StringEqualsIfExists":{"kms:RequestAlias":"x"}`):            iam.Identity,
		with(`"StringEquals":{"kms:EncryptionContextKeys":"x"}`):           iam.Identity,
		with(`"ForAllValues:StringEquals":{"kms:RequestAlias":"x"}`):       iam.Identity,
		with(`"ForSome:StringEquals":{"kms:ResourceAliases":"x"}`):         iam.Identity,
		with(`"Null":{"kms:RequestAlias":"x"}`):                            iam.Identity,
		with(`"StringEquals":{"kms:RequestAlias":[]}`):                     iam.Identity,
	} {
		if p, err := iam.Parse(kind, text); err == nil {
			t.Errorf("%s: taken as %v", text, p)
		}
	}
}

// TestFaultsOfADocument: whether AWS refuses it too, or only this package.
func TestFaultsOfADocument(t *testing.T) {
	const (
		fault = iota
		notKnown
		noPrincipal
		noSuchPrincipal
	)
	of := func(principal string) string {
		return document(`{"Effect":"Allow","Principal":` + principal + `,"Action":"kms:Decrypt","Resource":"*"}`)
	}
	for text, want := range map[string]int{
		`{"Version":"2012-10-17"`: fault,
		`{"Version":"2012-10-17","version":"2012-10-17","Statement":[]}`:                                      fault,
		document(`{"Effect":"Allow","Effect":"Allow","Principal":"*"}`):                                       fault,
		strings.ReplaceAll(of(`"*"`), "2012-10-17", "2020-10-17"):                                             fault,
		document(`{"Sid":"a","Effect":"Allow","Principal":"*"},{"Sid":"a","Effect":"Allow","Principal":"*"}`): fault,
		strings.ReplaceAll(of(`"*"`), `"kms:Decrypt"`, `":Decrypt"`):                                          fault,
		strings.ReplaceAll(of(`"*"`), "2012-10-17", "2008-10-17"):                                             notKnown,
		strings.ReplaceAll(of(`"*"`), `"Version":"2012-10-17",`, ``):                                          notKnown,
		strings.ReplaceAll(of(`"*"`), `"Action"`, `"NotAction"`):                                              notKnown,
		strings.ReplaceAll(of(`"*"`), "kms:Decrypt", "s3:GetObject"):                                          notKnown,
		document(allow("*", `,"Condition":{"Bool":{"aws:SecureTransport":"true"}}`)):                          notKnown,
		document(allow("*", `,"Condition":{"StringLike":{"aws:ResourceTag/a":"b"}}`)):                         notKnown,
		of(`{"Federated":"cognito-identity.amazonaws.com"}`):                                                  notKnown,
		document(`{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}`):                                  noPrincipal,
		of(`null`): noPrincipal, of(`{}`): noPrincipal, of(`{"AWS":[]}`): noPrincipal,
		of(`"arn:aws:iam::111122223333:root"`): noSuchPrincipal, of(`["*"]`): noSuchPrincipal,
		of(`{"AWS":"arn:aws:iam::111122223333:root/a"}`):             noSuchPrincipal,
		of(`{"AWS":"arn:aws:iam::11112222333:root"}`):                noSuchPrincipal,
		of(`{"AWS":"arn:aws:iam:us-west-2:111122223333:root"}`):      noSuchPrincipal,
		of(`{"AWS":"arn:aws:iam::111122223333:role/"}`):              noSuchPrincipal,
		of(`{"AWS":"arn:aws:iam::111122223333:user/a?"}`):            noSuchPrincipal,
		of(`{"AWS":"arn:aws:sts::111122223333:assumed-role/a"}`):     noSuchPrincipal,
		of(`{"AWS":"arn:aws:sts::111122223333:assumed-role/a/b/c"}`): noSuchPrincipal,
		of(`{"Service":"kms"}`):                                      noSuchPrincipal,
		of(`{"AWS":["111122223333","AIDACKCEVSQ6C2EXAMPLE"]}`):       noSuchPrincipal,
	} {
		_, err := iam.Parse(iam.Key, text)
		if err == nil {
			t.Errorf("%s: taken", text)
			continue
		}
		got := fault
		if _, ok := errors.AsType[*iam.UnknownError](err); ok {
			got = notKnown
		}
		if e, ok := errors.AsType[*iam.PrincipalError](err); ok {
			got = noSuchPrincipal
			if e.None {
				got = noPrincipal
			}
		}
		if got != want {
			t.Errorf("%s: %v is taken for %d, want %d", text, err, got, want)
		}
	}
}

// TestKeyPoliciesAreLessStrict than others where KMS is.
func TestKeyPoliciesAreLessStrict(t *testing.T) {
	for _, text := range []string{
		document(strings.ReplaceAll(allow("*", ""), `{"Effect"`, `{"Sid":"Allow use of the key","Effect"`)),
		strings.NewReplacer("[", "", "]", "").Replace(document(allow("*", ""))),
		document(strings.ReplaceAll(allow("*", ""), `,"Resource":"*"`, "")),
		document(`{"Effect":"Allow","Principal":{"Service":"logs.us-west-2.amazonaws.com"},"Action":"kms:Decrypt","Resource":"*"}`),
	} {
		must(t, iam.Key, text)
		if strings.HasPrefix(text, `{"Version":"2012-10-17","Statement":{`) {
			continue
		}
		if _, err := iam.Parse(iam.Endpoint, text); err == nil {
			t.Errorf("%s: taken for an endpoint", text)
		}
	}
	r := iam.Request{Principal: role, Action: "kms:Decrypt", Resource: key, ResourceAccount: "111122223333"}
	mine := must(t, iam.Identity, document(allow("", "")))
	for name, c := range map[string]struct {
		statement string
		allowed   bool
	}{
		"no resource, allow": {`{"Effect":"Allow","Principal":"*","Action":"kms:*"}`, false},
		"no action, allow":   {`{"Effect":"Allow","Principal":"*","Resource":"*"}`, false},
		"no resource, deny":  {`{"Effect":"Deny","Principal":"*","Action":"kms:*"},` + allow("*", ""), true},
		"a service":          {`{"Effect":"Allow","Principal":{"Service":"logs.amazonaws.com"},"Action":"kms:*","Resource":"*"}`, false},
		"deny a service":     {`{"Effect":"Deny","Principal":{"Service":"logs.amazonaws.com"},"Action":"kms:*","Resource":"*"},` + allow("*", ""), true},
	} {
		got := iam.Refusal(r, iam.Policies{Identity: []*iam.Policy{mine}, Resource: must(t, iam.Key, document(c.statement))})
		if (got == "") != c.allowed {
			t.Errorf("%s: %q, want allowed %t", name, got, c.allowed)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document(allow("", `,"Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["${a}"]}}`)))
	f.Add(document(allow("111122223333", "")))
	f.Add(strings.NewReplacer("[", "", "]", "").Replace(document(allow("*", ""))))
	f.Add(document(`{"Sid":"a b","Effect":"Deny","Principal":{"Service":["logs.amazonaws.com"],"AWS":"*"},"Action":"kms:*"}`))
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []iam.Kind{iam.Identity, iam.Trust, iam.Key, iam.Endpoint} {
			p, err := iam.Parse(kind, text)
			if err != nil {
				continue
			}
			if !json.Valid([]byte(text)) {
				t.Errorf("taken, and no JSON: %q", text)
			}
			for _, who := range p.Principals() {
				if who != "*" && strings.ContainsAny(who, "*?") {
					t.Errorf("principal %q is a pattern", who)
				}
			}
			iam.Refusal(iam.Request{Principal: role, Action: "kms:Decrypt", Resource: key, ResourceAccount: "111122223333"},
				iam.Policies{Identity: []*iam.Policy{p}, Resource: p, Endpoint: p})
		}
	})
}
