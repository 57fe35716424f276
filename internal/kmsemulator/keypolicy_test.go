package kmsemulator_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const (
	lockout           = "The new key policy will not allow you to update the key policy in the future."
	invalidPrincipals = "Policy contains a statement with one or more invalid principals."
	noPrincipal       = "Policy contains a statement with no principal."
)

// open is a policy that leaves everything to the account.
func open() string {
	return statement(`"Principal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"`)
}

// beside is open and one more statement.
func beside(more string) string { return strings.TrimSuffix(open(), "]}") + "," + more + "]}" }

func allowing(principal string) string {
	return `{"Effect":"Allow","Principal":` + principal + `,"Action":"kms:Decrypt","Resource":"*"}`
}

// malformed are policies that AWS refuses, and its words where they are known.
func malformedPolicies() map[string]struct{ policy, words string } {
	return map[string]struct{ policy, words string }{
		"no JSON":                    {"not a real policy statement", ""},
		"no object":                  {"[]", ""},
		"nothing in it":              {"{}", ""},
		"two documents":              {open() + open(), ""},
		"no statement":               {`{"Version":"2012-10-17","Statement":[]}`, ""},
		"another version":            {strings.ReplaceAll(open(), "2012", "2013"), ""},
		"a member twice":             {strings.ReplaceAll(open(), `"Effect":"Allow"`, `"Effect":"Deny","Effect":"Allow"`), ""},
		"a member that is none":      {strings.ReplaceAll(open(), `"Effect"`, `"Effects"`), ""},
		"another effect":             {strings.ReplaceAll(open(), "Allow", "allow"), ""},
		"an action without service":  {strings.ReplaceAll(open(), "kms:*", "Decrypt"), ""},
		"a Sid twice":                {beside(strings.ReplaceAll(`{"Sid":"a",X},{"Sid":"a",X}`, "X", allowing(`"*"`)[1:len(allowing(`"*"`))-1])), ""},
		"no principal":               {statement(`"Action":"kms:*","Resource":"*"`), noPrincipal},
		"an empty principal":         {beside(allowing(`{}`)), noPrincipal},
		"an empty list":              {beside(allowing(`{"AWS":[]}`)), noPrincipal},
		"a principal by its id":      {beside(allowing(`{"AWS":"AIDACKCEVSQ6C2EXAMPLE"}`)), invalidPrincipals},
		"a principal that is a text": {beside(allowing(`"111122223333"`)), invalidPrincipals},
		"a wildcard in an ARN":       {beside(allowing(`{"AWS":"arn:aws:iam::111122223333:role/*"}`)), invalidPrincipals},
		"an ARN of another kind":     {beside(allowing(`{"AWS":"arn:aws:iam::111122223333:group/a"}`)), invalidPrincipals},
		"an ARN with a colon more":   {beside(allowing(`{"AWS":"arn:aws:iam:::111122223333:role/a"}`)), invalidPrincipals},
		"another partition":          {beside(allowing(`{"AWS":"arn:aws-cn:iam::111122223333:role/a"}`)), invalidPrincipals},
		"a service that is none":     {beside(allowing(`{"Service":"logs"}`)), invalidPrincipals},
		"others may change it":       {statement(`"Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"`), lockout},
		"nobody may change it":       {statement(`"Principal":{"AWS":"111122223333"},"Action":"kms:Decrypt","Resource":"*"`), lockout},
		"changing it is denied":      {beside(`{"Effect":"Deny","Principal":"*","Action":"kms:PutKeyPolicy","Resource":"*"}`), lockout},
		"another may change it":      {statement(`"Principal":{"AWS":"` + worker + `"},"Action":"kms:*","Resource":"*"`), lockout},
		"on a condition":             {statement(`"Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:ViaService":"a"}}`), lockout},
		"of another resource":        {statement(`"Principal":"*","Action":"kms:*","Resource":"arn:aws:kms:us-west-2:111122223333:key/other"`), lockout},
		"no action":                  {statement(`"Principal":"*","Resource":"*"`), lockout},
		"no resource":                {statement(`"Principal":"*","Action":"kms:*"`), lockout},
	}
}

// TestMalformedPoliciesAreRefused by every operation that takes one.
func TestMalformedPoliciesAreRefused(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	for name, c := range malformedPolicies() {
		t.Run(name, func(t *testing.T) {
			want := kmsRefusal("MalformedPolicyDocumentException", c.words)
			wantRefusal(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": c.policy}, want)
			wantRefusal(t, s, here, "CreateKey", m{"Policy": c.policy}, want)
			wantRefusal(t, s, here, "ReplicateKey", m{"KeyId": arn, "ReplicaRegion": there, "Policy": c.policy}, want)
			if c.words != lockout {
				wantRefusal(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": c.policy, "BypassPolicyLockoutSafetyCheck": true}, want)
			}
		})
	}
	if got := call(t, s, here, "GetKeyPolicy", m{"KeyId": arn})["Policy"].(string); !strings.Contains(got, "Enable IAM User Permissions") {
		t.Errorf("the policy is now %s", got)
	}
	if keys := call(t, s, here, "ListKeys", m{})["Keys"].([]any); len(keys) != 1 {
		t.Errorf("%d keys", len(keys))
	}
}

func TestPutKeyPolicyRefusals(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.CreateAlias(here, "alias/a", arn); err != nil {
		t.Fatal(err)
	}
	const null = "1 validation error detected: Value null at '%s' failed to satisfy constraint: Member must not be null"
	big := func(n int) string { return open() + strings.Repeat(" ", n-len(open())) }
	for name, c := range map[string]struct {
		operation string
		in        m
		want      refusal
	}{
		"no key":           {"PutKeyPolicy", m{"Policy": open()}, kmsRefusal("ValidationException", fmt.Sprintf(null, "keyId"))},
		"no policy":        {"PutKeyPolicy", m{"KeyId": arn}, kmsRefusal("ValidationException", fmt.Sprintf(null, "policy"))},
		"null":             {"PutKeyPolicy", m{"KeyId": arn, "Policy": nil}, kmsRefusal("ValidationException", fmt.Sprintf(null, "policy"))},
		"no text":          {"PutKeyPolicy", m{"KeyId": arn, "Policy": m{}}, kmsRefusal("SerializationException", "Start of structure or map found where not expected.")},
		"no Boolean":       {"PutKeyPolicy", m{"KeyId": arn, "Policy": open(), "BypassPolicyLockoutSafetyCheck": "x"}, kmsRefusal("SerializationException", "STRING_VALUE can not be converted to a Boolean")},
		"an alias":         {"PutKeyPolicy", m{"KeyId": "alias/a", "Policy": open()}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"an absent key":    {"PutKeyPolicy", m{"KeyId": absentID, "Policy": open()}, kmsRefusal("NotFoundException", "Key 'arn:aws:kms:us-west-2:111122223333:key/"+absentID+"' does not exist")},
		"too big":          {"PutKeyPolicy", m{"KeyId": arn, "Policy": big(32_769)}, kmsRefusal("LimitExceededException", "The key policy exceeds the limit of 32768 bytes.")},
		"a created one":    {"CreateKey", m{"Policy": big(32_769)}, kmsRefusal("LimitExceededException", "The key policy exceeds the limit of 32768 bytes.")},
		"another name":     {"PutKeyPolicy", m{"KeyId": arn, "Policy": open(), "PolicyName": "mine"}, kmsRefusal("UnsupportedOperationException", "Policy name mine is not supported: the only valid name is default.")},
		"a name's pattern": {"PutKeyPolicy", m{"KeyId": arn, "Policy": open(), "PolicyName": "a b"}, kmsRefusal("ValidationException", `1 validation error detected: Value 'a b' at 'policyName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w]+`)},
		"characters":       {"PutKeyPolicy", m{"KeyId": arn, "Policy": "→"}, kmsRefusal("ValidationException", `1 validation error detected: Value '→' at 'policy' failed to satisfy constraint: Member must satisfy regular expression pattern: [\u0009\u000A\u000D\u0020-\u00FF]+`)},
		"not our language": {"PutKeyPolicy", m{"KeyId": arn, "Policy": beside(`{"Effect":"Allow","Principal":"*","NotAction":"kms:Decrypt","Resource":"*"}`)}, kmsRefusal("UnsupportedOperationException", "This emulator does not know all of the policy language: NotPrincipal, NotAction and NotResource are not known")},
		"an older version": {"PutKeyPolicy", m{"KeyId": arn, "Policy": strings.ReplaceAll(open(), "2012", "2008")}, kmsRefusal("UnsupportedOperationException", `This emulator does not know all of the policy language: version "2008-10-17": want 2012-10-17`)},
		"get by an alias":  {"GetKeyPolicy", m{"KeyId": "alias/a"}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"get another":      {"GetKeyPolicy", m{"KeyId": arn, "PolicyName": "mine"}, kmsRefusal("NotFoundException", "No such policy exists")},
		"list by an alias": {"ListKeyPolicies", m{"KeyId": "alias/a"}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"list too many":    {"ListKeyPolicies", m{"KeyId": arn, "Limit": 1001}, kmsRefusal("ValidationException", "1 validation error detected: Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000")},
		"a made-up marker": {"ListKeyPolicies", m{"KeyId": arn, "Marker": "x"}, kmsRefusal("InvalidMarkerException", "Could not deserialize marker 'x'")},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, s, here, c.operation, c.in, c.want) })
	}
	a := raw(t, s, here, "PutKeyPolicy", mustJSON(t, m{"KeyId": arn, "Policy": ""}))
	if !strings.Contains(a.body, "Member must have length greater than or equal to 1") {
		t.Errorf("an empty policy: %d %s", a.status, a.body)
	}
	call(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": big(32_768)})
}

// TestPoliciesThatAWSTakesAreTaken, and answered with an empty body.
func TestPoliciesThatAWSTakesAreTaken(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	fallback := call(t, s, here, "GetKeyPolicy", m{"KeyId": arn})["Policy"].(string)
	for name, policy := range map[string]string{
		"the default":              fallback,
		"a Sid with spaces":        strings.ReplaceAll(open(), `{"Effect"`, `{"Sid":"Allow use of the key, 1.","Effect"`),
		"one statement, no list":   strings.NewReplacer("[", "", "]", "").Replace(open()),
		"anybody":                  statement(`"Principal":{"AWS":"*"},"Action":"kms:*","Resource":"*"`),
		"the caller":               statement(`"Principal":{"AWS":"` + tester + `"},"Action":"kms:PutKeyPolicy","Resource":"*"`),
		"the caller, by condition": statement(`"Principal":{"AWS":"*"},"Action":"kms:*","Resource":"*","Condition":{"ArnEquals":{"aws:PrincipalArn":"` + tester + `"}}`),
		"a service":                beside(allowing(`{"Service":"logs.us-west-2.amazonaws.com"}`)),
		"a service and an account": beside(allowing(`{"Service":["logs.amazonaws.com"],"AWS":["444455556666"]}`)),
		"a statement of no effect": beside(`{"Effect":"Deny","Principal":"*","Action":"kms:*"},{"Effect":"Deny","Principal":"*","Resource":"*"}`),
		"a session":                beside(allowing(`{"AWS":"arn:aws:sts::111122223333:assumed-role/worker/session"}`)),
	} {
		t.Run(name, func(t *testing.T) {
			call(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": fallback})
			if a := raw(t, s, here, "PutKeyPolicy", mustJSON(t, m{"KeyId": arn, "PolicyName": "default", "Policy": policy})); a.status != 200 || a.body != "" {
				t.Fatalf("answered %d %q", a.status, a.body)
			}
			if name != "the caller" {
				if got := call(t, s, here, "GetKeyPolicy", m{"KeyId": arn}); got["Policy"] != policy || got["PolicyName"] != "default" {
					t.Errorf("put\n%s\ngot %v", policy, got)
				}
			}
		})
	}
}

// TestAKeysPolicyDecides every later call, whoever gave it.
func TestAKeysPolicyDecides(t *testing.T) {
	s := kmstest.Start(t)
	denied := func(operation, arn string) refusal {
		return kmsRefusal("AccessDeniedException", "User: "+tester+" is not authorized to perform: kms:"+operation+" on resource: "+arn+
			" because no resource-based policy allows the kms:"+operation+" action")
	}
	reader := statement(`"Principal":{"AWS":"111122223333"},"Action":["kms:Encrypt","kms:PutKeyPolicy","kms:ReplicateKey"],"Resource":"*"`)
	created := call(t, s, here, "CreateKey", m{"Policy": reader, "MultiRegion": true})["KeyMetadata"].(m)["Arn"].(string)
	put := mustCreate(t, s, kmsemulator.KeyOptions{})
	call(t, s, here, "PutKeyPolicy", m{"KeyId": put, "Policy": reader})
	out := call(t, s, here, "ReplicateKey", m{"KeyId": created, "ReplicaRegion": there, "Policy": reader})
	if out["ReplicaPolicy"] != reader {
		t.Errorf("replicated with %v", out["ReplicaPolicy"])
	}
	for region, arns := range map[string][]string{here: {created, put}, there: {inRegion(created, there)}} {
		for _, arn := range arns {
			call(t, s, region, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})
			for _, operation := range []string{"GenerateDataKey", "DescribeKey", "DisableKey", "GetKeyPolicy", "ListKeyPolicies", "TagResource", "ListResourceTags", "UntagResource", "GetKeyLastUsage", "UpdateKeyDescription"} {
				in := m{"KeyId": arn, "KeySpec": "AES_256", "Tags": []m{}, "TagKeys": []string{}, "Description": ""}
				wantRefusal(t, s, region, operation, in, denied(operation, arn))
			}
		}
	}
	call(t, s, here, "PutKeyPolicy", m{"KeyId": put, "Policy": open()})
	call(t, s, here, "DescribeKey", m{"KeyId": put})
	// The replica has a policy of its own.
	call(t, s, here, "PutKeyPolicy", m{"KeyId": created, "Policy": open()})
	wantRefusal(t, s, there, "DescribeKey", m{"KeyId": inRegion(created, there)}, denied("DescribeKey", inRegion(created, there)))
}

// TestLockedOutOnRequest: nobody can change such a policy back.
func TestLockedOutOnRequest(t *testing.T) {
	s := kmstest.Start(t)
	client := sdkClient(t, s, here)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	policy := statement(`"Principal":{"AWS":"111122223333"},"Action":"kms:Encrypt","Resource":"*"`)
	if _, err := client.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &arn, Policy: &policy}); !isA[*types.MalformedPolicyDocumentException](err) {
		t.Errorf("without a word: %v", err)
	}
	if _, err := client.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &arn, Policy: &policy, BypassPolicyLockoutSafetyCheck: true}); err != nil {
		t.Fatal(err)
	}
	_, err := client.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &arn, Policy: aws.String(open()), BypassPolicyLockoutSafetyCheck: true})
	if err == nil || !strings.Contains(err.Error(), "no resource-based policy allows the kms:PutKeyPolicy action") {
		t.Errorf("changing it back: %v", err)
	}
}

// TestLockoutCheckSeesIdentities: the caller's own policies count too.
func TestLockoutCheckSeesIdentities(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	named := statement(`"Principal":{"AWS":"` + tester + `"},"Action":"kms:PutKeyPolicy","Resource":"*"`)
	// The key's present policy lets the caller change it, by name.
	enforce := func(identity string) {
		t.Helper()
		p := kmsemulator.Policies{Keys: map[string]string{arn: named}}
		if identity != "" {
			p.Identity = map[string][]string{tester: {identity}}
		}
		if err := s.Enforce(p); err != nil {
			t.Fatal(err)
		}
	}
	malformed := kmsRefusal("MalformedPolicyDocumentException", lockout)
	enforce("")
	wantRefusal(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": open()}, malformed)
	call(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": named})
	enforce(statement(`"Action":"kms:PutKeyPolicy","Resource":"` + arn + `"`))
	call(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": open()})
	s.Deny(arn, "PutKeyPolicy")
	wantRefusal(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": open()},
		kmsRefusal("AccessDeniedException", "User: "+tester+" is not authorized to perform: kms:PutKeyPolicy on resource: "+arn+" because no identity-based policy allows the kms:PutKeyPolicy action"))
	s.Deny("", "PutKeyPolicy")
	s.Deny("", "CreateKey")
	s.Allow("", "CreateKey")
	if err := s.Enforce(kmsemulator.Policies{Identity: map[string][]string{tester: {statement(`"Action":"kms:*","Resource":"*"`)}}}); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, s, here, "CreateKey", m{"Policy": open()}, malformed)
	call(t, s, here, "CreateKey", m{"Policy": open(), "BypassPolicyLockoutSafetyCheck": true})
}

// TestEnforceAndPutKeyPolicyAgree on what a key's policy is.
func TestEnforceAndPutKeyPolicyAgree(t *testing.T) {
	s := kmstest.Start(t)
	lent, put := mustCreate(t, s, kmsemulator.KeyOptions{}), mustCreate(t, s, kmsemulator.KeyOptions{})
	all := map[string][]string{tester: {statement(`"Action":"kms:*","Resource":"*"`)}}
	mine := beside(allowing(`{"AWS":"444455556666"}`))
	call(t, s, here, "PutKeyPolicy", m{"KeyId": put, "Policy": mine})
	if err := s.Enforce(kmsemulator.Policies{Identity: all, Keys: map[string]string{lent: open()}}); err != nil {
		t.Fatal(err)
	}
	show := func(arn string) string { return call(t, s, here, "GetKeyPolicy", m{"KeyId": arn})["Policy"].(string) }
	if show(lent) != open() || show(put) != mine {
		t.Errorf("enforced %s beside %s", show(lent), show(put))
	}
	if err := s.Enforce(kmsemulator.Policies{Identity: all}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(show(lent), "key-default-1") || show(put) != mine {
		t.Errorf("afterwards %s beside %s", show(lent), show(put))
	}
	absent := "arn:aws:kms:us-west-2:111122223333:key/" + absentID
	if err := s.Enforce(kmsemulator.Policies{Keys: map[string]string{absent: open()}}); err == nil || !strings.Contains(err.Error(), "there is no key "+absentID) {
		t.Errorf("of a key that is not there: %v", err)
	}
}

// TestRolesThatAreNotThereAreInvalidPrincipals where the emulator knows the roles.
func TestRolesThatAreNotThereAreInvalidPrincipals(t *testing.T) {
	s := kmstest.Start(t, kmsemulator.Options{Roles: []kmsemulator.Role{{ARN: worker}}})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	call(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": beside(allowing(`{"AWS":["` + worker + `","arn:aws:iam::444455556666:role/x"]}`))})
	wantRefusal(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": beside(allowing(`{"AWS":["` + worker + `s"]}`))},
		kmsRefusal("MalformedPolicyDocumentException", invalidPrincipals))
}

// TestCallersOfOtherAccounts: a key lets them in or not, and they manage none.
func TestCallersOfOtherAccounts(t *testing.T) {
	const stranger = "arn:aws:iam::444455556666:user/stranger"
	own := kmstest.Credential()
	other := kmsemulator.Credential{AccessKeyID: "AKIAOTHER", SecretAccessKey: "other", Principal: stranger}
	s := kmstest.Start(t, kmsemulator.Options{Credentials: []kmsemulator.Credential{own, other}})
	s.Credential = own
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	denied := func(operation string) refusal {
		return kmsRefusal("AccessDeniedException", "User: "+stranger+" is not authorized to perform: kms:"+operation+" on resource: "+arn+
			" because no resource-based policy allows the kms:"+operation+" action")
	}
	as := func(c kmsemulator.Credential) { s.Credential = c }
	as(other)
	wantRefusal(t, s, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="}, denied("Encrypt"))
	as(own)
	call(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": beside(`{"Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"}`)})
	as(other)
	call(t, s, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})
	for operation, in := range map[string]m{
		"PutKeyPolicy": {"Policy": open()}, "GetKeyPolicy": {}, "ListKeyPolicies": {}, "GetKeyLastUsage": {}, "ListResourceTags": {},
		"TagResource": {"Tags": []m{}}, "UntagResource": {"TagKeys": []string{}}, "UpdateKeyDescription": {"Description": ""},
	} {
		in["KeyId"] = arn
		wantRefusal(t, s, here, operation, in, denied(operation))
	}
}

// TestPolicyInEveryState: a key's policy can be read and changed in all of them.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
func TestPolicyInEveryState(t *testing.T) {
	for _, state := range []string{"Creating", "Disabled", "PendingImport", "Unavailable", "Updating", "PendingDeletion"} {
		t.Run(state, func(t *testing.T) {
			s := kmstest.Start(t)
			arn := mustCreate(t, s, kmsemulator.KeyOptions{})
			put := func() error { return s.SetKeyState(arn, state) }
			if state == "PendingDeletion" {
				put = func() error { return s.ScheduleKeyDeletion(arn, 7) }
			}
			if err := put(); err != nil {
				t.Fatal(err)
			}
			for _, operation := range []string{"PutKeyPolicy", "GetKeyPolicy", "ListKeyPolicies", "ListResourceTags", "GetKeyLastUsage"} {
				call(t, s, here, operation, m{"KeyId": arn, "Policy": open()})
			}
			words := kmsRefusal("KMSInvalidStateException", arn+" is pending deletion.")
			for operation, in := range map[string]m{
				"TagResource": {"Tags": []m{{"TagKey": "a", "TagValue": "b"}}}, "UntagResource": {"TagKeys": []string{"a"}}, "UpdateKeyDescription": {"Description": "d"},
			} {
				in["KeyId"] = arn
				if state == "PendingDeletion" {
					wantRefusal(t, s, here, operation, in, words)
				} else {
					call(t, s, here, operation, in)
				}
			}
		})
	}
}

// TestPolicyPropagates as other changes do, to what is decided and what is shown.
func TestPolicyPropagates(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{PropagationDelay: time.Minute, Seed: 3})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	s.Settle()
	c.advance(time.Second)
	lines := connect(t, s, c, 12)
	allowed := func(out m) string { return fmt.Sprint(out["KeyId"]) }
	encrypt := m{"KeyId": arn, "Plaintext": "aa=="}
	if got := lines.see(t, "Encrypt", encrypt, allowed); count(got, arn) != 12 {
		t.Fatalf("before: %v", got)
	}
	policy := statement(`"Principal":"*","Action":["kms:GetKeyPolicy","kms:PutKeyPolicy"],"Resource":"*"`)
	callAt(t, s, c, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": policy})
	c.advance(30 * time.Second)
	may := count(lines.see(t, "Encrypt", encrypt, allowed), arn)
	old := 12 - count(lines.see(t, "GetKeyPolicy", m{"KeyId": arn}, func(out m) string { return fmt.Sprint(out["Policy"]) }), policy)
	if may == 0 || may == 12 || may != old {
		t.Errorf("half-way %d of 12 connections encrypt, and %d show the old policy", may, old)
	}
	c.advance(30 * time.Second)
	if got := lines.see(t, "Encrypt", encrypt, allowed); count(got, arn) != 0 {
		t.Errorf("in the end: %v", got)
	}
}

func TestPolicySurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	s, stop := startIn(t, dir, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	policy := statement(`"Principal":"*","Action":"kms:*KeyPolicy","Resource":"*"`)
	call(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": policy})
	stop()
	s, _ = startIn(t, dir, kmsemulator.Options{})
	if got := call(t, s, here, "GetKeyPolicy", m{"KeyId": arn})["Policy"]; got != policy {
		t.Errorf("the policy is now %v", got)
	}
	if a := raw(t, s, here, "Encrypt", mustJSON(t, m{"KeyId": arn, "Plaintext": "aa=="})); !strings.Contains(a.body, "no resource-based policy") {
		t.Errorf("it decides nothing: %d %s", a.status, a.body)
	}
}
