package kmsemulator_test

import (
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func inRegion(arn, region string) string { return strings.Replace(arn, here, region, 1) }

func TestReplicasShareMaterialAndKeepTheirOwnState(t *testing.T) {
	s := kmstest.Start(t)
	primary := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	if !strings.HasPrefix(idOf(primary), "mrk-") {
		t.Fatalf("a multi-Region key %s", primary)
	}
	replica := inRegion(primary, there)
	out := call(t, s, here, "ReplicateKey", m{"KeyId": primary, "ReplicaRegion": there, "Description": "copy", "Tags": []m{{"TagKey": "a", "TagValue": "b"}}})
	if got, want := members(out), "ReplicaKeyMetadata ReplicaPolicy ReplicaTags"; got != want {
		t.Errorf("answered %s, want %s", got, want)
	}
	md := out["ReplicaKeyMetadata"].(m)
	if md["KeyState"] != "Creating" || md["Enabled"] != false || md["Arn"] != replica || md["CurrentKeyMaterialId"] != nil || md["Description"] != "copy" {
		t.Errorf("the replica begins as %v", md)
	}
	for region, kind := range map[string]string{here: "PRIMARY", there: "REPLICA"} {
		md := metadata(t, s, region, idOf(primary))
		want := m{
			"MultiRegionKeyType": kind, "PrimaryKey": m{"Arn": primary, "Region": here},
			"ReplicaKeys": []m{{"Arn": replica, "Region": there}},
		}
		if md["KeyState"] != "Enabled" || md["CurrentKeyMaterialId"] != s.CurrentMaterial(primary) || mustJSON(t, md["MultiRegionConfiguration"]) != mustJSON(t, want) {
			t.Errorf("in %s: %v", region, md)
		}
	}
	// Each opens what the other has sealed, and answers with its own ARN.
	for _, way := range [][2]string{{primary, there}, {replica, here}} {
		blob := sealed(t, s, way[0], []byte("x"), nil)
		got := call(t, s, way[1], "Decrypt", m{"CiphertextBlob": blob, "KeyId": idOf(primary)})
		if want := inRegion(primary, way[1]); got["KeyId"] != want {
			t.Errorf("sealed by %s, opened by %s, want %s", way[0], got["KeyId"], want)
		}
	}
	// Rotation is the primary's, and reaches all.
	notPrimary := kmsRefusal("UnsupportedOperationException", replica+" is not a multi-region primary key.")
	wantRefusal(t, s, there, "RotateKeyOnDemand", m{"KeyId": replica}, notPrimary)
	wantRefusal(t, s, there, "EnableKeyRotation", m{"KeyId": replica}, notPrimary)
	wantRefusal(t, s, there, "ReplicateKey", m{"KeyId": replica, "ReplicaRegion": "ap-southeast-1"}, notPrimary)
	call(t, s, here, "RotateKeyOnDemand", m{"KeyId": primary})
	if s.CurrentMaterial(replica) != s.CurrentMaterial(primary) {
		t.Error("the replica has other material after the rotation")
	}
	// State is each Region's.
	if err := s.DisableKey(primary); err != nil {
		t.Fatal(err)
	}
	sealed(t, s, replica, []byte("x"), nil)
	wantRefusal(t, s, here, "Encrypt", m{"KeyId": primary, "Plaintext": "aa=="}, kmsRefusal("DisabledException", primary+" is disabled."))
}

func TestReplicateKeyRefusals(t *testing.T) {
	s := kmstest.Start(t)
	single := mustCreate(t, s, kmsemulator.KeyOptions{})
	multi := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	for name, tc := range map[string]struct {
		in   m
		want refusal
	}{
		"single-Region": {m{"KeyId": single, "ReplicaRegion": there}, kmsRefusal("UnsupportedOperationException", single+" is not a multi-region primary key.")},
		"own Region":    {m{"KeyId": multi, "ReplicaRegion": here}, kmsRefusal("AlreadyExistsException", "Key "+multi+" already exists")},
		"no Region":     {m{"KeyId": multi}, oneError("Value null at 'replicaRegion' failed to satisfy constraint: Member must not be null")},
		"made-up one":   {m{"KeyId": multi, "ReplicaRegion": "mars"}, kmsRefusal("ValidationException", "Replica region mars is not a valid region.")},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, s, here, "ReplicateKey", tc.in, tc.want) })
	}
}

func TestReplicaStaysCreatingForItsDelay(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{ReplicaDelay: time.Minute})
	primary := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	replica, err := s.ReplicateKey(primary, there)
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, "Encrypt", sendAt(t, s, c, there, "Encrypt", m{"KeyId": replica, "Plaintext": "aa=="}), kmsRefusal("KMSInvalidStateException", replica+" is creating."))
	c.advance(time.Minute)
	callAt(t, s, c, there, "Encrypt", m{"KeyId": replica, "Plaintext": "aa=="})
}

func TestPrimaryOutlivesItsReplicas(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	primary := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	replica, err := s.ReplicateKey(primary, there)
	if err != nil {
		t.Fatal(err)
	}
	blob := callAt(t, s, c, here, "Encrypt", m{"KeyId": primary, "Plaintext": "aa=="})["CiphertextBlob"]
	out := callAt(t, s, c, here, "ScheduleKeyDeletion", m{"KeyId": primary, "PendingWindowInDays": 8})
	if members(out) != "KeyId KeyState PendingWindowInDays" || out["KeyState"] != "PendingReplicaDeletion" {
		t.Errorf("scheduled: %v", out)
	}
	describe := func() m { return callAt(t, s, c, here, "DescribeKey", m{"KeyId": primary})["KeyMetadata"].(m) }
	if md := describe(); md["PendingDeletionWindowInDays"] != 8.0 || md["DeletionDate"] != nil {
		t.Errorf("while it waits: %v", md)
	}
	c.advance(100 * day)
	callAt(t, s, c, there, "Decrypt", m{"CiphertextBlob": blob})
	callAt(t, s, c, there, "ScheduleKeyDeletion", m{"KeyId": replica, "PendingWindowInDays": 7})
	c.advance(7 * day)
	md := describe()
	if md["KeyState"] != "PendingDeletion" || md["DeletionDate"] != float64(c.Now().Add(8*day).Unix()) || md["PendingDeletionWindowInDays"] != nil {
		t.Errorf("after its last replica: %v", md)
	}
	c.advance(8 * day)
	if s.HasKey(primary) || s.HasKey(replica) {
		t.Error("the primary key is still there")
	}
}

func TestDeletedReplicaLeavesTheOthers(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	primary := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	replica, err := s.ReplicateKey(primary, there)
	if err != nil {
		t.Fatal(err)
	}
	blob := callAt(t, s, c, there, "Encrypt", m{"KeyId": replica, "Plaintext": "aa=="})["CiphertextBlob"]
	if err := s.ScheduleKeyDeletion(replica, 7); err != nil {
		t.Fatal(err)
	}
	c.advance(7 * day)
	callAt(t, s, c, here, "Decrypt", m{"CiphertextBlob": blob})
	checkRefusal(t, "Decrypt", sendAt(t, s, c, there, "Decrypt", m{"CiphertextBlob": blob}), kmsRefusal("AccessDeniedException", unreachable))
	if _, err := s.ReplicateKey(primary, there); err != nil {
		t.Errorf("cannot be replicated again: %v", err)
	}
	callAt(t, s, c, there, "Decrypt", m{"CiphertextBlob": blob})
}
