package kmsemulator_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestAliasesNameKeysOfTheirRegion(t *testing.T) {
	s := kmstest.Start(t)
	a, b := mustCreate(t, s, kmsemulator.KeyOptions{}), mustCreate(t, s, kmsemulator.KeyOptions{})
	encrypt := func() any {
		return call(t, s, here, "Encrypt", m{"KeyId": "alias/x", "Plaintext": "aa=="})["KeyId"]
	}
	call(t, s, here, "CreateAlias", m{"AliasName": "alias/x", "TargetKeyId": idOf(a)})
	if got := encrypt(); got != a {
		t.Errorf("encrypted under %s, want %s", got, a)
	}
	call(t, s, here, "UpdateAlias", m{"AliasName": "alias/x", "TargetKeyId": b})
	if got := encrypt(); got != b {
		t.Errorf("after the move: encrypted under %s, want %s", got, b)
	}
	absent := kmsRefusal("NotFoundException", "Alias arn:aws:kms:us-west-2:111122223333:alias/x is not found.")
	wantRefusal(t, s, there, "Encrypt", m{"KeyId": "alias/x", "Plaintext": "aa=="},
		kmsRefusal("NotFoundException", "Alias arn:aws:kms:eu-central-1:111122223333:alias/x is not found."))
	call(t, s, here, "DeleteAlias", m{"AliasName": "alias/x"})
	wantRefusal(t, s, here, "Encrypt", m{"KeyId": "alias/x", "Plaintext": "aa=="}, absent)
	wantRefusal(t, s, here, "DeleteAlias", m{"AliasName": "alias/x"}, absent)
	wantRefusal(t, s, here, "UpdateAlias", m{"AliasName": "alias/x", "TargetKeyId": a}, absent)
}

func TestAliasRefusals(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.CreateAlias(here, "alias/taken", arn); err != nil {
		t.Fatal(err)
	}
	hmac := call(t, s, here, "CreateKey", m{"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"})["KeyMetadata"].(m)["Arn"].(string)
	rsa := func(usage string) string {
		return call(t, s, here, "CreateKey", m{"KeySpec": "RSA_2048", "KeyUsage": usage})["KeyMetadata"].(m)["Arn"].(string)
	}
	cipher, signer := rsa("ENCRYPT_DECRYPT"), rsa("SIGN_VERIFY")
	if err := s.CreateAlias(here, "alias/rsa", cipher); err != nil {
		t.Fatal(err)
	}
	const sameKind = " Key usage and key type (symmetric, asymmetric or HMAC) must be the same."
	long := "alias/" + strings.Repeat("a", 251)
	for name, tc := range map[string]struct {
		operation string
		in        m
		want      refusal
	}{
		"no prefix":      {"CreateAlias", m{"AliasName": "x", "TargetKeyId": arn}, kmsRefusal("ValidationException", `Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`)},
		"odd characters": {"CreateAlias", m{"AliasName": "alias/a b", "TargetKeyId": arn}, oneError("Value 'alias/a b' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$")},
		"a colon":        {"CreateAlias", m{"AliasName": "alias/a:b", "TargetKeyId": arn}, kmsRefusal("ValidationException", "alias/a:b contains invalid characters for an alias")},
		"too long":       {"CreateAlias", m{"AliasName": long, "TargetKeyId": arn}, oneError("Value '" + long + "' at 'aliasName' failed to satisfy constraint: Member must have length less than or equal to 256")},
		"AWS's own":      {"CreateAlias", m{"AliasName": "alias/aws/s3", "TargetKeyId": arn}, kmsRefusal("NotAuthorizedException", "")},
		"taken":          {"CreateAlias", m{"AliasName": "alias/taken", "TargetKeyId": arn}, kmsRefusal("AlreadyExistsException", "An alias with the name arn:aws:kms:us-west-2:111122223333:alias/taken already exists")},
		"of an alias":    {"CreateAlias", m{"AliasName": "alias/a", "TargetKeyId": "alias/taken"}, kmsRefusal("ValidationException", "Aliases must refer to keys. Not aliases")},
		"of no key":      {"CreateAlias", m{"AliasName": "alias/a", "TargetKeyId": absentID}, kmsRefusal("NotFoundException", "Key 'arn:aws:kms:us-west-2:111122223333:key/"+absentID+"' does not exist")},
		"without target": {"UpdateAlias", m{"AliasName": "alias/taken"}, oneError("Value null at 'targetKeyId' failed to satisfy constraint: Member must not be null")},
		"of another kind": {"UpdateAlias", m{"AliasName": "alias/taken", "TargetKeyId": hmac}, kmsRefusal("ValidationException",
			"Alias arn:aws:kms:us-west-2:111122223333:alias/taken cannot be changed from key "+arn+" to key "+hmac+"."+sameKind)},
		"of another usage": {"UpdateAlias", m{"AliasName": "alias/rsa", "TargetKeyId": signer}, kmsRefusal("ValidationException",
			"Alias arn:aws:kms:us-west-2:111122223333:alias/rsa cannot be changed from key "+cipher+" to key "+signer+"."+sameKind)},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, s, here, tc.operation, tc.in, tc.want) })
	}
}

func TestListAliases(t *testing.T) {
	s := kmstest.Start(t)
	a, b := mustCreate(t, s, kmsemulator.KeyOptions{}), mustCreate(t, s, kmsemulator.KeyOptions{})
	for alias, key := range map[string]string{"alias/1": a, "alias/2": b, "alias/3": a} {
		if err := s.CreateAlias(here, alias, key); err != nil {
			t.Fatal(err)
		}
	}
	names := func(in m) string {
		var got []string
		for _, e := range call(t, s, here, "ListAliases", in)["Aliases"].([]any) {
			if want := "AliasArn AliasName CreationDate LastUpdatedDate TargetKeyId"; members(e.(m)) != want {
				t.Errorf("an entry has %s, want %s", members(e.(m)), want)
			}
			got = append(got, e.(m)["AliasName"].(string))
		}
		return strings.Join(got, " ")
	}
	for want, in := range map[string]m{
		"alias/1 alias/2 alias/3": {},
		"alias/1 alias/3":         {"KeyId": a},
		"alias/2":                 {"KeyId": idOf(b)},
		"alias/1 alias/2":         {"Limit": 2},
	} {
		if got := names(in); got != want {
			t.Errorf("ListAliases(%v) lists %s, want %s", in, got, want)
		}
	}
	next := call(t, s, here, "ListAliases", m{"Limit": 2})["NextMarker"]
	// An alias that goes meanwhile does not shift the next page.
	call(t, s, here, "DeleteAlias", m{"AliasName": "alias/2"})
	if got := names(m{"Limit": 2, "Marker": next}); got != "alias/3" {
		t.Errorf("the second page lists %s", got)
	}
	wantRefusal(t, s, here, "ListAliases", m{"KeyId": absentID}, kmsRefusal("NotFoundException", "Key 'arn:aws:kms:us-west-2:111122223333:key/"+absentID+"' does not exist"))
	wantRefusal(t, s, here, "ListAliases", m{"Limit": 101}, oneError("Value '101' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 100"))
}
