package policy_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
	"sigs.k8s.io/aws-encryption-provider/internal/policy"
)

// TestAdministratorsKeepTheKey: the account's administrators do with the key what
// they have to, do not use it, and do not end it.
func TestAdministratorsKeepTheKey(t *testing.T) {
	for _, id := range []string{keyA, mrk} {
		sc := stage(t, setup{flags: []string{"--key=" + arnOf(id), "--listen=DIR/aws"}, principal: nodeRole, runs: nodeSession})
		documents := sc.documents(t, false)
		i := slices.IndexFunc(documents, func(d policy.Document) bool { return d.Kind == policy.Key })
		may := func(documents []policy.Document, action string) bool {
			text, err := json.Marshal(documents[i].Policy)
			if err != nil {
				t.Fatal(err)
			}
			return allows(t, string(text), otherUser, action, arnOf(id))
		}
		statement := documents[i].Policy.Statement[0]
		for n, action := range statement.Action {
			if !may(documents, action) {
				t.Errorf("%s: administrators may not %s", id, action)
			}
			if may(cut(t, documents, i, 0, func(s *policy.Statement) { s.Action = slices.Delete(s.Action, n, n+1) }), action) {
				t.Errorf("%s: administrators may %s without being allowed to", id, action)
			}
		}
		for _, action := range []string{"kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:CreateGrant", "kms:ScheduleKeyDeletion", "kms:DisableKey"} {
			if may(documents, action) {
				t.Errorf("%s: administrators may %s", id, action)
			}
		}
		if got := slices.Contains(statement.Action, "kms:ReplicateKey"); got != (id == mrk) {
			t.Errorf("%s: administrators may replicate: %t", id, got)
		}
	}
}

// allows reports whether a key's policy lets a principal act whose own policy lets
// it do everything.
func allows(t *testing.T, text, principal, action, key string) bool {
	t.Helper()
	of, err := iam.Parse(iam.Key, text)
	if err != nil {
		t.Fatal(err)
	}
	own, err := iam.Parse(iam.Identity, everything)
	if err != nil {
		t.Fatal(err)
	}
	return iam.Refusal(iam.Request{Principal: principal, Action: action, Resource: key, ResourceAccount: iam.AccountOf(key)},
		iam.Policies{Identity: []*iam.Policy{own}, Resource: of}) == ""
}

// TestNotesSayWhatAKeysPolicyTakesAway, all of it and nothing else: of what one
// does to manage a key, as AWS lists it, each is allowed to administrators or in
// the note.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/kms-api-permissions-reference.html
func TestNotesSayWhatAKeysPolicyTakesAway(t *testing.T) {
	taken := map[string]string{
		"kms:DisableKey": "disable the key", "kms:ScheduleKeyDeletion": "schedule its deletion",
		"kms:DisableKeyRotation": "turn off its rotation", "kms:CreateGrant": "create grants",
		"kms:GetParametersForImport": "import or delete its material", "kms:ImportKeyMaterial": "import or delete its material",
		"kms:DeleteImportedKeyMaterial": "import or delete its material",
	}
	for _, id := range []string{keyA, mrk} {
		sc := stage(t, setup{flags: []string{"--key=" + arnOf(id), "--listen=DIR/aws"}, principal: nodeRole, runs: nodeSession})
		documents := sc.documents(t, false)
		notes := policy.Notes(documents)
		if len(notes) != 1 {
			t.Fatalf("notes are %q", notes)
		}
		i := slices.IndexFunc(documents, func(d policy.Document) bool { return d.Kind == policy.Key })
		text, err := json.Marshal(documents[i].Policy)
		if err != nil {
			t.Fatal(err)
		}
		manage := []string{
			"CancelKeyDeletion", "CreateAlias", "CreateGrant", "DeleteAlias", "DeleteImportedKeyMaterial", "DescribeKey", "DisableKey", "DisableKeyRotation",
			"EnableKey", "EnableKeyRotation", "GetKeyLastUsage", "GetKeyPolicy", "GetKeyRotationStatus", "GetParametersForImport", "ImportKeyMaterial",
			"ListGrants", "ListKeyPolicies", "ListKeyRotations", "ListResourceTags", "PutKeyPolicy", "RevokeGrant", "RotateKeyOnDemand",
			"ScheduleKeyDeletion", "TagResource", "UntagResource", "UpdateAlias", "UpdateKeyDescription",
		}
		if id == mrk { // of other keys nobody can
			manage = append(manage, "ReplicateKey", "UpdatePrimaryRegion")
		}
		for _, action := range manage {
			action = "kms:" + action
			for _, who := range []string{otherUser, nodeRole, "arn:aws:iam::111122223333:root"} {
				if may := allows(t, string(text), who, action, arnOf(id)); may == (taken[action] != "") {
					t.Errorf("%s: %s may %s: %t", id, who, action, may)
				}
			}
			if words := taken[action]; !strings.Contains(notes[0], words) {
				t.Errorf("%s: %q does not say of %s: %s", id, notes[0], action, words)
			}
		}
	}
	if notes := policy.Notes([]policy.Document{{Kind: policy.Identity}, {Kind: policy.Trust}, {Kind: policy.Endpoint}}); len(notes) > 0 {
		t.Errorf("no key's policy: %q", notes)
	}
}

func TestRefusals(t *testing.T) {
	sc := stage(t, setups()[0])
	for principal, want := range map[string]string{
		nodeSession:                            "is a session: name its role",
		"arn:aws:iam::111122223333:root":       "is no ARN of a role or user",
		"arn:aws:iam::111122223333:role/*":     "is no ARN of a role or user",
		"arn:aws:iam::111122223333:role/":      "is no ARN of a role or user",
		"control-plane":                        "is no ARN of a role or user",
		"arn:aws:iam::1111:role/control-plane": "is no ARN of a role or user",

		"arn:aws:iam::111122223333:role/" + strings.Repeat("a", 577): "is no ARN of a role or user",
	} {
		_, err := policy.Documents(policy.Options{Config: sc.config(t), Principal: principal})
		if err == nil || !strings.Contains(err.Error(), "--principal: "+want) {
			t.Errorf("principal %s: %v, want %q", principal, err, want)
		}
	}
	cfg := *sc.config(t)
	cfg.Providers[0].Keys[0].EncryptionContext = map[string]string{"Cluster": "a", "cluster": "b"}
	if _, err := policy.Documents(policy.Options{Config: &cfg}); err == nil || !strings.Contains(err.Error(), `no condition can tell "Cluster" and "cluster"`) {
		t.Errorf("names that differ by case: %v", err)
	}
}

// TestRegionSaysThePartition, where nothing else does.
func TestRegionSaysThePartition(t *testing.T) {
	for region, want := range map[string]string{
		"us-west-2": "arn:aws:kms:us-west-2:*:key/" + keyA, "cn-north-1": "arn:aws-cn:kms:cn-north-1:*:key/" + keyA,
		"us-gov-west-1": "arn:aws-us-gov:kms:us-gov-west-1:*:key/" + keyA, "": "arn:aws:kms:*:*:key/" + keyA,
		"us-iso-east-1": "arn:aws-iso:kms:us-iso-east-1:*:key/" + keyA, "us-isob-east-1": "arn:aws-iso-b:kms:us-isob-east-1:*:key/" + keyA,
		"eu-isoe-west-1": "arn:aws-iso-e:kms:eu-isoe-west-1:*:key/" + keyA, "us-isof-south-1": "arn:aws-iso-f:kms:us-isof-south-1:*:key/" + keyA,
		"eusc-de-east-1": "arn:aws-eusc:kms:eusc-de-east-1:*:key/" + keyA,
	} {
		all, err := policy.Documents(policy.Options{Config: &config.Config{Providers: []config.Provider{{Keys: []config.Key{{Key: keyA, Region: region}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := all[0].Policy.Statement[0].Resource[0]; got != want {
			t.Errorf("Region %q: resource %s, want %s", region, got, want)
		}
	}
}

// keysOf is a configuration with a provider for each list of keys.
func keysOf(providers ...[]config.Key) *config.Config {
	cfg := &config.Config{}
	for i, keys := range providers {
		cfg.Providers = append(cfg.Providers, config.Provider{Name: fmt.Sprint(i), Keys: keys})
	}
	return cfg
}

// TestNamesSayWhoseTheyAre where two roles or keys have one name: nothing else in
// a file does.
func TestNamesSayWhoseTheyAre(t *testing.T) {
	var keys []config.Key
	for _, account := range []string{"111122223333", "444455556666"} {
		keys = append(keys, config.Key{Key: "arn:aws:kms:us-west-2:" + account + ":alias/cluster", AssumeRoleARN: "arn:aws:iam::" + account + ":role/etcd-1"})
	}
	keys = append(keys, config.Key{Key: "alias/a/b", Region: "us-west-2"}, config.Key{Key: "alias/a-b", Region: "us-west-2"})
	all, err := policy.Documents(policy.Options{Config: keysOf(keys), Principal: nodeRole})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range all {
		names = append(names, d.Name)
	}
	if want := []string{
		"identity-policy", "identity-policy-etcd-1", "identity-policy-etcd-1-444455556666",
		"trust-policy-etcd-1", "trust-policy-etcd-1-444455556666",
		"key-policy-us-west-2-cluster", "key-policy-us-west-2-cluster-444455556666", "key-policy-us-west-2-a-b", "key-policy-us-west-2-a-b-111122223333",
		"kms-endpoint-policy", "sts-endpoint-policy",
	}; !slices.Equal(names, want) {
		t.Errorf("names are %q, want %q", names, want)
	}
}

// TestPartitionsAreNotMixed: no principal of one uses a key or role of another.
func TestPartitionsAreNotMixed(t *testing.T) {
	china := "arn:aws-cn:kms:cn-north-1:111122223333:key/" + keyA
	for name, keys := range map[string][]config.Key{
		"key":         {{Key: china}},
		"role to key": {{Key: china, AssumeRoleARN: kmsRole}},
		"role":        {{Key: china, AssumeRoleARN: strings.Replace(kmsRole, "aws", "aws-cn", 1)}},
	} {
		if _, err := policy.Documents(policy.Options{Config: keysOf(keys), Principal: nodeRole}); err == nil || !strings.Contains(err.Error(), "AWS lets none into the other") {
			t.Errorf("%s of another partition: %v", name, err)
		}
	}
}

// TestBothOrdersOfKeysAreAllowedTogether, as a rotation needs it: nodes change the
// order one after the other.
func TestBothOrdersOfKeysAreAllowedTogether(t *testing.T) {
	one, two := config.Key{Key: arnOf(keyA)}, config.Key{Key: arnOf(keyB)}
	all, err := policy.Documents(policy.Options{Config: keysOf([]config.Key{one, two}, []config.Key{two, one}), Principal: nodeRole})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Kind != policy.Identity && d.Kind != policy.Key {
			continue
		}
		last := d.Policy.Statement[len(d.Policy.Statement)-1]
		if !slices.Equal(last.Action, policy.Texts{"kms:Encrypt", "kms:Decrypt"}) || d.Kind == policy.Identity && (len(d.Policy.Statement) > 1 || len(last.Resource) != 2) {
			t.Errorf("%s: %+v", d.Name, d.Policy.Statement)
		}
	}
}

func TestNotesTellWhatAWSWouldNotSay(t *testing.T) {
	documents := func(keys ...config.Key) []policy.Document {
		all, err := policy.Documents(policy.Options{Principal: nodeRole, Config: &config.Config{Providers: []config.Provider{{Keys: keys}}}})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	notesOf := func(keys ...config.Key) []string { // besides what each key's policy takes away
		t.Helper()
		all := policy.Notes(documents(keys...))
		if len(all) == 0 || !strings.Contains(all[0], "nobody may then") {
			t.Fatalf("%v: %q", keys, all)
		}
		return all[1:]
	}
	if notes := notesOf(config.Key{Key: arnOf(keyA)}, config.Key{Key: arnOf(keyB)}); len(notes) > 0 {
		t.Errorf("two keys: %q", notes)
	}
	notes := notesOf(config.Key{Key: "alias/cluster", Region: "us-west-2"}, config.Key{Key: arnOf(keyA)})
	if len(notes) != 1 || !strings.Contains(notes[0], "alias/cluster") || !strings.Contains(notes[0], arnOf(keyA)) || !strings.Contains(notes[0], "one policy") {
		t.Errorf("an alias and a key: %q", notes)
	}
	if notes := notesOf(config.Key{Key: "alias/cluster", Region: "us-west-2"}, config.Key{Key: "alias/other", Region: "us-west-2"}); len(notes) != 1 {
		t.Errorf("two aliases: %q", notes)
	}
	long := map[string]string{}
	for i := range 150 {
		long[fmt.Sprintf("a-name-of-some-length-%d", i)] = "value"
	}
	notes = notesOf(config.Key{Key: arnOf(keyA), EncryptionContext: long})
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "identity-policy has ") {
		t.Errorf("150 pairs: %q", notes)
	}
}
