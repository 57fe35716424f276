package kmsemulator_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func usageOf(t testing.TB, s *kmstest.Server, c *clock, region, key string) m {
	t.Helper()
	return callAt(t, s, c, region, "GetKeyLastUsage", m{"KeyId": key})
}

// TestWhatCountsAsUsage is what KMS says: cryptographic operations that succeeded.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/monitoring-keys-determining-usage.html
func TestWhatCountsAsUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		operation string
		in        m
		want      string // "": it counts for nothing
		status    int
	}{
		"Encrypt":                         {"Encrypt", m{"Plaintext": "aa=="}, "Encrypt", 200},
		"Decrypt":                         {"Decrypt", m{"CiphertextBlob": "blob"}, "Decrypt", 200},
		"GenerateDataKey":                 {"GenerateDataKey", m{"KeySpec": "AES_256"}, "GenerateDataKey", 200},
		"GenerateDataKeyWithoutPlaintext": {"GenerateDataKeyWithoutPlaintext", m{"KeySpec": "AES_256"}, "GenerateDataKeyWithoutPlaintext", 200},
		"a dry run":                       {"Encrypt", m{"Plaintext": "aa==", "DryRun": true}, "", 400},
		"a dry run without blob":          {"Decrypt", m{"DryRun": true, "DryRunModifiers": []string{"IGNORE_CIPHERTEXT"}}, "", 400},
		"another context":                 {"Decrypt", m{"CiphertextBlob": "blob", "EncryptionContext": m{"a": "b"}}, "", 400},
		"a malformed call":                {"Encrypt", m{}, "", 400},
		"looking at it":                   {"DescribeKey", m{}, "", 200},
		"rotating it":                     {"RotateKeyOnDemand", m{}, "", 200},
		"its policy":                      {"PutKeyPolicy", m{"Policy": open()}, "", 200},
		"its tags":                        {"TagResource", m{"Tags": pairs(0, 1)}, "", 200},
		"asking for it":                   {"GetKeyLastUsage", m{}, "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := startAt(t, kmsemulator.Options{})
			arn := mustCreate(t, s, kmsemulator.KeyOptions{})
			before := "{}"
			if tc.in["CiphertextBlob"] != nil {
				tc.in["CiphertextBlob"] = callAt(t, s, c, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})["CiphertextBlob"]
				before = mustJSON(t, usageOf(t, s, c, here, arn)["KeyLastUsage"])
			}
			c.advance(time.Hour + 345*time.Millisecond)
			tc.in["KeyId"] = arn
			a := sendAt(t, s, c, here, tc.operation, tc.in)
			if a.status != tc.status {
				t.Fatalf("%s: %d %s", tc.operation, a.status, a.body)
			}
			at := c.Now()
			c.advance(time.Hour)
			out := usageOf(t, s, c, here, arn)
			use := out["KeyLastUsage"].(m)
			if tc.want == "" {
				if got := mustJSON(t, use); got != before {
					t.Errorf("last used %s, before %s", got, before)
				}
				return
			}
			if use["Operation"] != tc.want || use["Timestamp"] != float64(at.Unix()) || use["KmsRequestId"] != a.header.Get("X-Amzn-Requestid") {
				t.Errorf("last used %v, want %s at %d by %s", use, tc.want, at.Unix(), a.header.Get("X-Amzn-Requestid"))
			}
			if id, _ := use["CloudTrailEventId"].(string); len(id) != 36 || id == use["KmsRequestId"] {
				t.Errorf("event %q", id)
			}
			if again := usageOf(t, s, c, here, arn); mustJSON(t, again) != mustJSON(t, out) {
				t.Errorf("first %v, then %v", out, again)
			}
		})
	}
}

func TestKeyThatWasNeverUsed(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	c.advance(time.Hour)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	id := arn[strings.LastIndex(arn, "/")+1:]
	created := float64(c.Now().Unix())
	want := mustJSON(t, m{"KeyCreationDate": created, "KeyId": id, "KeyLastUsage": m{}, "TrackingStartDate": created})
	for _, name := range []string{arn, id} {
		if got := mustJSON(t, usageOf(t, s, c, here, name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestReEncryptUsesBothKeys, each with an event of its own.
func TestReEncryptUsesBothKeys(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	from, to := mustCreate(t, s, kmsemulator.KeyOptions{}), mustCreate(t, s, kmsemulator.KeyOptions{})
	blob := callAt(t, s, c, here, "Encrypt", m{"KeyId": from, "Plaintext": "aa=="})["CiphertextBlob"]
	callAt(t, s, c, here, "ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": to})
	a, b := usageOf(t, s, c, here, from)["KeyLastUsage"].(m), usageOf(t, s, c, here, to)["KeyLastUsage"].(m)
	if a["Operation"] != "ReEncrypt" || b["Operation"] != "ReEncrypt" || a["KmsRequestId"] != b["KmsRequestId"] || a["CloudTrailEventId"] == b["CloudTrailEventId"] {
		t.Errorf("source %v, destination %v", a, b)
	}
}

func TestReplicasAreUsedApart(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	replica, err := s.ReplicateKey(arn, there)
	if err != nil {
		t.Fatal(err)
	}
	callAt(t, s, c, there, "Encrypt", m{"KeyId": replica, "Plaintext": "aa=="})
	if p, r := usageOf(t, s, c, here, arn)["KeyLastUsage"].(m), usageOf(t, s, c, there, replica)["KeyLastUsage"].(m); len(p) != 0 || r["Operation"] != "Encrypt" {
		t.Errorf("primary %v, replica %v", p, r)
	}
}

func TestGoSDKReadsLastUsage(t *testing.T) {
	s := kmstest.Start(t)
	client := sdkClient(t, s, here)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	out, err := client.GetKeyLastUsage(t.Context(), &kms.GetKeyLastUsageInput{KeyId: &arn})
	if err != nil {
		t.Fatal(err)
	}
	if out.KeyLastUsage == nil || out.KeyLastUsage.Operation != "" || out.KeyLastUsage.Timestamp != nil || !out.TrackingStartDate.Equal(*out.KeyCreationDate) {
		t.Errorf("never used: %+v, %+v", out, out.KeyLastUsage)
	}
	if _, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if out, err = client.GetKeyLastUsage(t.Context(), &kms.GetKeyLastUsageInput{KeyId: &arn}); err != nil {
		t.Fatal(err)
	}
	if u := out.KeyLastUsage; u.Operation != types.KeyLastUsageTrackingOperationEncrypt || time.Since(*u.Timestamp).Abs() > time.Minute {
		t.Errorf("used: %+v", u)
	}
}

// TestUsageSurvivesARestart, whether the emulator was closed or something changed
// before it was killed; and it takes at most a minute to reach the disk.
func TestUsageSurvivesARestart(t *testing.T) {
	for name, last := range map[string]func(t *testing.T, s *kmstest.Server, c *clock, arn string){
		"closed": func(*testing.T, *kmstest.Server, *clock, string) {},
		"changed": func(t *testing.T, s *kmstest.Server, c *clock, arn string) {
			callAt(t, s, c, here, "TagResource", m{"KeyId": arn, "Tags": pairs(0, 1)})
		},
		"a minute later": func(t *testing.T, s *kmstest.Server, c *clock, _ string) {
			c.advance(time.Minute)
			callAt(t, s, c, here, "ListKeys", m{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := newClock()
			s, stop := startIn(t, dir, kmsemulator.Options{Clock: c.Now})
			arn := mustCreate(t, s, kmsemulator.KeyOptions{})
			callAt(t, s, c, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})
			before := mustJSON(t, usageOf(t, s, c, here, arn))
			last(t, s, c, arn)
			if name == "closed" {
				stop()
			} else { // a copy is what a killed one leaves
				dir = copyState(t, dir)
			}
			s, _ = startIn(t, dir, kmsemulator.Options{Clock: c.Now})
			if after := mustJSON(t, usageOf(t, s, c, here, arn)); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

func copyState(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "kms.json"))
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "kms.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return other
}

// TestStateFromBeforeUsageWasKept: what such a file says of usage is that nobody
// looked.
func TestStateFromBeforeUsageWasKept(t *testing.T) {
	dir := t.TempDir()
	c := newClock()
	s, stop := startIn(t, dir, kmsemulator.Options{Clock: c.Now})
	arn := callAt(t, s, c, here, "CreateKey", m{})["KeyMetadata"].(m)["Arn"].(string)
	created := c.Now()
	stop()
	path := filepath.Join(dir, "kms.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var saved m
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	delete(saved, "usageSince")
	saved["keys"].([]any)[0].(m)["policy"] = `{"Statement":"whatever was taken before"}`
	if err := os.WriteFile(path, []byte(mustJSON(t, saved)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.advance(30 * day)
	began := c.Now()
	for range 2 { // the second start knows when it began
		s, stop = startIn(t, dir, kmsemulator.Options{Clock: c.Now})
		out := usageOf(t, s, c, here, arn)
		if out["KeyCreationDate"] != float64(created.Unix()) || out["TrackingStartDate"] != float64(began.Unix()) || len(out["KeyLastUsage"].(m)) != 0 {
			t.Errorf("%v, want tracking since %d", out, began.Unix())
		}
		// The policy of that time decides as little as it did then.
		callAt(t, s, c, here, "Encrypt", m{"KeyId": mustCreate(t, s, kmsemulator.KeyOptions{}), "Plaintext": "aa=="})
		callAt(t, s, c, here, "DescribeKey", m{"KeyId": arn})
		stop()
		c.advance(day)
	}
}

// TestUsageOfAKeyOfTheSameName: a key made again has not been used.
func TestUsageOfAKeyOfTheSameName(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{KeyID: absentID})
	callAt(t, s, c, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})
	if err := s.ScheduleKeyDeletion(arn, 7); err != nil {
		t.Fatal(err)
	}
	c.advance(8 * day)
	callAt(t, s, c, here, "ListKeys", m{})
	mustCreate(t, s, kmsemulator.KeyOptions{KeyID: absentID})
	if use := usageOf(t, s, c, here, arn)["KeyLastUsage"].(m); len(use) != 0 {
		t.Errorf("a new key was used %v", use)
	}
}

// TestUsageThatCannotBeSavedFailsNoCall: it is no change of a key.
func TestUsageThatCannotBeSavedFailsNoCall(t *testing.T) {
	dir := t.TempDir()
	c := newClock()
	s, _ := startIn(t, dir, kmsemulator.Options{Clock: c.Now})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := os.Mkdir(filepath.Join(dir, "kms.json.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		callAt(t, s, c, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})
		c.advance(time.Minute)
	}
	if a := sendAt(t, s, c, here, "DisableKey", m{"KeyId": arn}); a.status != http.StatusInternalServerError {
		t.Errorf("a change answered %d %s", a.status, a.body)
	}
	if err := os.Remove(filepath.Join(dir, "kms.json.new")); err != nil {
		t.Fatal(err)
	}
	c.advance(2 * time.Minute)
	before := mustJSON(t, usageOf(t, s, c, here, arn))
	s, _ = startIn(t, copyState(t, dir), kmsemulator.Options{Clock: c.Now})
	if after := mustJSON(t, usageOf(t, s, c, here, arn)); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}
