package kmsemulator_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestKeysOfAGivenID(t *testing.T) {
	s := kmstest.Start(t)
	const id = "1234abcd-12ab-34cd-56ef-1234567890ab"
	arn := mustCreate(t, s, kmsemulator.KeyOptions{KeyID: id})
	if arn != "arn:aws:kms:us-west-2:111122223333:key/"+id || !s.HasKey(arn) {
		t.Errorf("the key is %s", arn)
	}
	for name, tc := range map[string]struct {
		region string
		o      kmsemulator.KeyOptions
	}{
		"that exists":       {here, kmsemulator.KeyOptions{KeyID: id}},
		"that exists there": {there, kmsemulator.KeyOptions{KeyID: id}},
		"of no form":        {here, kmsemulator.KeyOptions{KeyID: "mine"}},
		"in capitals":       {here, kmsemulator.KeyOptions{KeyID: strings.ToUpper(id)}},
		"of another kind":   {here, kmsemulator.KeyOptions{KeyID: id, MultiRegion: true}},
		"in no Region":      {"mars", kmsemulator.KeyOptions{}},
	} {
		if got, err := s.CreateKey(tc.region, tc.o); err == nil {
			t.Errorf("%s: made %s", name, got)
		}
	}
	mrk := "mrk-" + strings.Repeat("ab", 16)
	if got := mustCreate(t, s, kmsemulator.KeyOptions{KeyID: mrk, MultiRegion: true}); idOf(got) != mrk {
		t.Errorf("the multi-Region key is %s", got)
	}
}

func TestAccountAndPartition(t *testing.T) {
	s := kmstest.Start(t, kmsemulator.Options{Account: "012345678901", Partition: "aws-cn"})
	arn, err := s.CreateKey("cn-north-1", kmsemulator.KeyOptions{})
	if err != nil || !strings.HasPrefix(arn, "arn:aws-cn:kms:cn-north-1:012345678901:key/") {
		t.Errorf("the key is %s, %v", arn, err)
	}
}

func TestDirectChangesKeepKMSRules(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	absent := "arn:aws:kms:us-west-2:111122223333:key/" + absentID
	gone := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.ScheduleKeyDeletion(gone, 7); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"absent key":              {s.DisableKey(absent), "does not exist"},
		"no ARN":                  {s.EnableKey("alias/x"), "is not the ARN of a key here"},
		"another account":         {s.RotateKey("arn:aws:kms:us-west-2:999999999999:key/" + absentID), "is not the ARN of a key here"},
		"state":                   {s.EnableKey(gone), "is pending deletion."},
		"6 days":                  {s.ScheduleKeyDeletion(arn, 6), "7 to 30 days"},
		"no deletion to cancel":   {s.CancelKeyDeletion(arn), "is not pending deletion."},
		"unknown state":           {s.SetKeyState(arn, "Tired"), "is no key state"},
		"deletion by state":       {s.SetKeyState(arn, "PendingDeletion"), "use ScheduleKeyDeletion"},
		"alias without prefix":    {s.CreateAlias(here, "x", arn), `must start with the prefix "alias/"`},
		"alias of odd characters": {s.CreateAlias(here, "alias/a b", arn), "is no name for an alias"},
		"alias elsewhere":         {s.CreateAlias(there, "alias/x", arn), "is not a key of eu-central-1"},
		"absent alias":            {s.UpdateAlias(here, "alias/x", arn), "is not found."},
	} {
		if tc.err == nil || !strings.Contains(tc.err.Error(), tc.want) {
			t.Errorf("%s: %v, want ... %s", name, tc.err, tc.want)
		}
	}
	if _, err := s.ReplicateKey(arn, there); err == nil || !strings.Contains(err.Error(), "is not a multi-region primary key.") {
		t.Errorf("replicated a single-Region key: %v", err)
	}
	if s.HasKey(absent) || s.HasKey("x") || s.CurrentMaterial(absent) != "" || s.CurrentMaterial("x") != "" {
		t.Error("an absent key is there")
	}
	imported := call(t, s, here, "CreateKey", m{"Origin": "EXTERNAL"})["KeyMetadata"].(m)["Arn"].(string)
	if err := s.SetKeyState(imported, "Enabled"); err == nil || s.CurrentMaterial(imported) != "" {
		t.Errorf("a key without material is enabled: %v", err)
	}
}
