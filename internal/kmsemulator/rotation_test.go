package kmsemulator_test

import (
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestRotationKeepsOldMaterial(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	first := s.CurrentMaterial(arn)
	old := sealed(t, s, arn, []byte("old"), nil)
	if got := call(t, s, here, "RotateKeyOnDemand", m{"KeyId": idOf(arn)})["KeyId"]; got != arn {
		t.Errorf("rotated %s, want %s", got, arn)
	}
	second := s.CurrentMaterial(arn)
	if first == second || metadata(t, s, here, arn)["CurrentKeyMaterialId"] != second {
		t.Fatalf("material %s before, %s after", first, second)
	}
	for blob, want := range map[string]string{old: first, sealed(t, s, arn, []byte("new"), nil): second} {
		if got := call(t, s, here, "Decrypt", m{"CiphertextBlob": blob, "KeyId": arn})["KeyMaterialId"]; got != want {
			t.Errorf("opened with %s, want %s", got, want)
		}
	}
	out := call(t, s, here, "ReEncrypt", m{"CiphertextBlob": old, "DestinationKeyId": arn})
	if out["SourceKeyMaterialId"] != first || out["DestinationKeyMaterialId"] != second {
		t.Errorf("re-encrypted from %s to %s", out["SourceKeyMaterialId"], out["DestinationKeyMaterialId"])
	}
}

func TestOnDemandRotationsAreLimited(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	for range 25 {
		call(t, s, here, "RotateKeyOnDemand", m{"KeyId": arn})
	}
	wantRefusal(t, s, here, "RotateKeyOnDemand", m{"KeyId": arn}, kmsRefusal("LimitExceededException",
		"The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: "+arn))
	if err := s.RotateKey(arn); err == nil {
		t.Error("RotateKey rotates a 26th time")
	}
}

func TestAutomaticRotationFollowsTheClock(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	status := func() m { return callAt(t, s, c, here, "GetKeyRotationStatus", m{"KeyId": arn}) }
	for _, days := range []int{89, 2561} {
		if a := sendAt(t, s, c, here, "EnableKeyRotation", m{"KeyId": arn, "RotationPeriodInDays": days}); a.status != 400 {
			t.Errorf("a period of %d days is accepted", days)
		}
	}
	callAt(t, s, c, here, "EnableKeyRotation", m{"KeyId": arn})
	if got := status(); got["RotationPeriodInDays"] != 365.0 || got["NextRotationDate"] != float64(c.Now().Add(365*day).Unix()) || got["KeyId"] != arn {
		t.Errorf("by default: %v", got)
	}
	callAt(t, s, c, here, "EnableKeyRotation", m{"KeyId": arn, "RotationPeriodInDays": 90})
	materials := []string{s.CurrentMaterial(arn)}
	c.advance(90*day - time.Second)
	if got := s.CurrentMaterial(arn); got != materials[0] {
		t.Error("rotated a second early")
	}
	for range 3 {
		c.advance(90 * day)
		materials = append(materials, s.CurrentMaterial(arn))
	}
	seen := map[string]bool{}
	for _, id := range materials {
		seen[id] = true
	}
	if len(seen) != 4 {
		t.Errorf("materials %v, want four", materials)
	}
	entries := callAt(t, s, c, here, "ListKeyRotations", m{"KeyId": arn})["Rotations"].([]any)
	if len(entries) != 3 {
		t.Fatalf("%d rotations are listed, want 3", len(entries))
	}
	start := newClock().Now()
	for i, e := range entries {
		entry := e.(m)
		state := map[bool]string{true: "CURRENT", false: "NON_CURRENT"}[i == 2]
		if members(entry) != "KeyId KeyMaterialId KeyMaterialState RotationDate RotationType" || entry["RotationType"] != "AUTOMATIC" ||
			entry["KeyMaterialId"] != materials[i+1] || entry["KeyMaterialState"] != state ||
			entry["RotationDate"] != float64(start.Add(time.Duration(i+1)*90*day).Unix()) {
			t.Errorf("rotation %d is %v", i, entry)
		}
	}
	callAt(t, s, c, here, "DisableKeyRotation", m{"KeyId": arn})
	if got := members(status()); got != "KeyId KeyRotationEnabled" {
		t.Errorf("status when disabled has %s", got)
	}
	c.advance(900 * day)
	if s.CurrentMaterial(arn) != materials[3] {
		t.Error("rotated with rotation disabled")
	}
}

func TestRotationWaitsForADisabledKey(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	callAt(t, s, c, here, "EnableKeyRotation", m{"KeyId": arn, "RotationPeriodInDays": 90})
	first := s.CurrentMaterial(arn)
	if err := s.DisableKey(arn); err != nil {
		t.Fatal(err)
	}
	c.advance(400 * day)
	if s.CurrentMaterial(arn) != first {
		t.Error("a disabled key rotated")
	}
	if err := s.EnableKey(arn); err != nil {
		t.Fatal(err)
	}
	if s.CurrentMaterial(arn) == first {
		t.Error("the rotation that was due has not been made up for")
	}
	if n := len(callAt(t, s, c, here, "ListKeyRotations", m{"KeyId": arn})["Rotations"].([]any)); n != 1 {
		t.Errorf("%d rotations, want 1 for all that was missed", n)
	}
}

func TestRotationStatusOfAKeyPendingDeletion(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	call(t, s, here, "EnableKeyRotation", m{"KeyId": arn})
	enabled := func() any { return call(t, s, here, "GetKeyRotationStatus", m{"KeyId": arn})["KeyRotationEnabled"] }
	if err := s.ScheduleKeyDeletion(arn, 7); err != nil {
		t.Fatal(err)
	}
	if enabled() != false {
		t.Error("it still rotates")
	}
	if err := s.CancelKeyDeletion(arn); err != nil {
		t.Fatal(err)
	}
	if enabled() != true {
		t.Error("the setting is lost")
	}
}

func TestListKeyRotations(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	ids := []string{s.CurrentMaterial(arn)}
	for range 12 {
		if err := s.RotateKey(arn); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.CurrentMaterial(arn))
	}
	var got []string
	in := m{"KeyId": arn, "Limit": 5, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}
	for {
		out := call(t, s, here, "ListKeyRotations", in)
		for _, e := range out["Rotations"].([]any) {
			got = append(got, e.(m)["KeyMaterialId"].(string))
		}
		if out["Truncated"] != true {
			break
		}
		in["Marker"] = out["NextMarker"]
	}
	if mustJSON(t, got) != mustJSON(t, ids) {
		t.Errorf("listed %v, want %v", got, ids)
	}
	first := call(t, s, here, "ListKeyRotations", m{"KeyId": arn, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"})["Rotations"].([]any)[0].(m)
	if members(first) != "KeyId KeyMaterialId KeyMaterialState" {
		t.Errorf("the first material has %s", members(first))
	}
	if rotations := call(t, s, here, "ListKeyRotations", m{"KeyId": arn})["Rotations"].([]any); len(rotations) != 12 || rotations[0].(m)["RotationType"] != "ON_DEMAND" {
		t.Errorf("%d rotations, the first %v", len(rotations), rotations[0])
	}
	wantRefusal(t, s, here, "ListKeyRotations", m{"KeyId": arn, "IncludeKeyMaterial": "SOME"},
		oneError("Value 'SOME' at 'includeKeyMaterial' failed to satisfy constraint: Member must satisfy enum value set: [ALL_KEY_MATERIAL, ROTATIONS_ONLY]"))
	wantRefusal(t, s, here, "EnableKeyRotation", m{"KeyId": arn, "RotationPeriodInDays": 89},
		oneError("Value '89' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value greater than or equal to 90"))
}
