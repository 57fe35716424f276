package kmsemulator_test

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A clock is a time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const day = 24 * time.Hour

// startAt starts an emulator on a clock. Its callers sign with that time.
func startAt(t testing.TB, o kmsemulator.Options) (*kmstest.Server, *clock) {
	t.Helper()
	c := newClock()
	o.Clock = c.Now
	return kmstest.Start(t, o), c
}

// callAt is call at the clock's time.
func callAt(t testing.TB, s *kmstest.Server, c *clock, region, operation string, in m) m {
	t.Helper()
	a := sendAt(t, s, c, region, operation, in)
	if a.status != 200 {
		t.Fatalf("%s(%v): %d %s", operation, in, a.status, a.body)
	}
	var out m
	if a.body != "" {
		if err := json.Unmarshal([]byte(a.body), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func sendAt(t testing.TB, s *kmstest.Server, c *clock, region, operation string, in m) answer {
	t.Helper()
	body := []byte(mustJSON(t, in))
	req := newRequest(t, s, operation, body)
	sign(t, req, body, s.Credential, signing{region: region, at: c.Now()})
	return send(t, req)
}

func metadata(t testing.TB, s *kmstest.Server, region, key string) m {
	t.Helper()
	return call(t, s, region, "DescribeKey", m{"KeyId": key})["KeyMetadata"].(m)
}

func TestCreateKeyAndDescribeKeyTellTheSame(t *testing.T) {
	s := kmstest.Start(t)
	for name, tc := range map[string]struct {
		in   m
		want m
	}{
		"symmetric": {m{"Description": "d"}, m{
			"CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "Description": "d", "Enabled": true, "EncryptionAlgorithms": []any{"SYMMETRIC_DEFAULT"},
			"KeyManager": "CUSTOMER", "KeySpec": "SYMMETRIC_DEFAULT", "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT", "MultiRegion": false,
			"Origin": "AWS_KMS", "AWSAccountId": "111122223333",
		}},
		"HMAC": {m{"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, m{
			"CustomerMasterKeySpec": "HMAC_256", "Description": "", "Enabled": true, "MacAlgorithms": []any{"HMAC_SHA_256"},
			"KeyManager": "CUSTOMER", "KeySpec": "HMAC_256", "KeyState": "Enabled", "KeyUsage": "GENERATE_VERIFY_MAC", "MultiRegion": false,
			"Origin": "AWS_KMS", "AWSAccountId": "111122223333",
		}},
		"imported": {m{"Origin": "EXTERNAL"}, m{
			"CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "Description": "", "Enabled": false, "EncryptionAlgorithms": []any{"SYMMETRIC_DEFAULT"},
			"KeyManager": "CUSTOMER", "KeySpec": "SYMMETRIC_DEFAULT", "KeyState": "PendingImport", "KeyUsage": "ENCRYPT_DECRYPT", "MultiRegion": false,
			"Origin": "EXTERNAL", "AWSAccountId": "111122223333",
		}},
		"by the older member": {m{"CustomerMasterKeySpec": "ECC_NIST_P384", "KeyUsage": "SIGN_VERIFY"}, m{
			"CustomerMasterKeySpec": "ECC_NIST_P384", "Description": "", "Enabled": true, "SigningAlgorithms": []any{"ECDSA_SHA_384"},
			"KeyManager": "CUSTOMER", "KeySpec": "ECC_NIST_P384", "KeyState": "Enabled", "KeyUsage": "SIGN_VERIFY", "MultiRegion": false,
			"Origin": "AWS_KMS", "AWSAccountId": "111122223333",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := call(t, s, here, "CreateKey", tc.in)["KeyMetadata"].(m)
			arn := got["Arn"].(string)
			if described := metadata(t, s, here, arn); mustJSON(t, described) != mustJSON(t, got) {
				t.Errorf("described as\n  %v, created as\n  %v", described, got)
			}
			if arn != "arn:aws:kms:us-west-2:111122223333:key/"+got["KeyId"].(string) {
				t.Errorf("ARN %s of key %s", arn, got["KeyId"])
			}
			if when := got["CreationDate"].(float64); time.Since(time.UnixMilli(int64(when*1000))).Abs() > time.Minute {
				t.Errorf("created at %v", when)
			}
			material, has := got["CurrentKeyMaterialId"].(string)
			if has != (name == "symmetric") || has && (len(material) != 64 || material != s.CurrentMaterial(arn)) {
				t.Errorf("current material %q", material)
			}
			for _, member := range []string{"Arn", "KeyId", "CreationDate", "CurrentKeyMaterialId"} {
				delete(got, member)
			}
			if mustJSON(t, got) != mustJSON(t, tc.want) {
				t.Errorf("got\n  %s, want\n  %s", mustJSON(t, got), mustJSON(t, tc.want))
			}
		})
	}
}

func TestCreateKeyRefusals(t *testing.T) {
	s := kmstest.Start(t)
	many := make([]m, 51)
	for i := range many {
		many[i] = m{"TagKey": fmt.Sprint(i), "TagValue": ""}
	}
	for name, tc := range map[string]struct {
		in   m
		want refusal
	}{
		"usage of another spec": {m{"KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT"}, kmsRefusal("ValidationException", "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048")},
		"no usage":              {m{"KeySpec": "HMAC_256"}, kmsRefusal("ValidationException", "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")},
		"unknown usage":         {m{"KeyUsage": "RANDOM"}, oneError("Value 'RANDOM' at 'keyUsage' failed to satisfy constraint: Member must satisfy enum value set: [ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC, KEY_AGREEMENT, ENCAPSULATE_DECAPSULATE]")},
		"unknown origin":        {m{"Origin": "ATTIC"}, oneError("Value 'ATTIC' at 'origin' failed to satisfy constraint: Member must satisfy enum value set: [AWS_KMS, EXTERNAL, AWS_CLOUDHSM, EXTERNAL_KEY_STORE]")},
		"both specs":            {m{"KeySpec": "RSA_2048", "CustomerMasterKeySpec": "RSA_2048"}, kmsRefusal("ValidationException", "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.")},
		"too many tags":         {m{"Tags": many}, kmsRefusal("TagException", "Too many tags")},
		"twice the same tag":    {m{"Tags": []m{{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "2"}}}, kmsRefusal("TagException", "Duplicate tag keys")},
		"AWS's own tag":         {m{"Tags": []m{{"TagKey": "AWS:a", "TagValue": "1"}}}, kmsRefusal("TagException", "Tags beginning with aws: are reserved")},
		"empty tag":             {m{"Tags": []m{{"TagKey": "", "TagValue": "1"}}}, oneError("Value '' at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1")},
		"custom key store":      {m{"CustomKeyStoreId": "cks-1"}, kmsRefusal("UnsupportedOperationException", "This emulator has no custom key stores.")},
		"policy of no form":     {m{"Policy": "{}"}, kmsRefusal("MalformedPolicyDocumentException", "")},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, s, here, "CreateKey", tc.in, tc.want) })
	}
	a := raw(t, s, here, "CreateKey", `{"KeySpec":"HMAC_random"}`)
	if !strings.Contains(a.body, "Value 'HMAC_random' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [") {
		t.Errorf("unknown spec: %s", a.body)
	}
}

func TestKeysThatAreNotFound(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	mrk := "mrk-" + strings.Repeat("0", 32)
	missing := "arn:aws:kms:us-west-2:111122223333:"
	for name, tc := range map[string]struct{ region, key, code, text string }{
		"absent id":            {here, absentID, "NotFoundException", "Key '" + missing + "key/" + absentID + "' does not exist"},
		"absent ARN":           {here, missing + "key/" + absentID, "NotFoundException", "Key '" + missing + "key/" + absentID + "' does not exist"},
		"absent mrk":           {here, mrk, "NotFoundException", "Key '" + missing + "key/" + mrk + "' does not exist"},
		"no id":                {here, "fake-key-id", "NotFoundException", "Invalid keyId 'fake-key-id'"},
		"id without dashes":    {here, "134f2428cec14b25a1ae9048164dba47", "NotFoundException", "Invalid keyId '134f2428cec14b25a1ae9048164dba47'"},
		"no mrk":               {here, "mrk-fake-key-id", "NotFoundException", "Invalid keyId 'mrk-fake-key-id'"},
		"id of another Region": {there, idOf(arn), "NotFoundException", "Key 'arn:aws:kms:eu-central-1:111122223333:key/" + idOf(arn) + "' does not exist"},
		"ARN of another one":   {there, arn, "NotFoundException", "Invalid arn us-west-2"},
		"absent alias":         {here, "alias/none", "NotFoundException", "Alias " + missing + "alias/none is not found."},
		"absent alias ARN":     {here, missing + "alias/none", "NotFoundException", "Alias " + missing + "alias/none is not found."},
		"ARN of a bucket":      {here, "arn:aws:s3:::bucket", "InvalidArnException", "Invalid arn arn:aws:s3:::bucket"},
		"ARN of a grant":       {here, missing + "grant/x", "InvalidArnException", "Invalid arn " + missing + "grant/x"},
		"half an ARN":          {here, "arn:aws:kms", "InvalidArnException", "Invalid arn arn:aws:kms"},
	} {
		t.Run(name, func(t *testing.T) {
			want := kmsRefusal(tc.code, tc.text)
			wantRefusal(t, s, tc.region, "DescribeKey", m{"KeyId": tc.key}, want)
			wantRefusal(t, s, tc.region, "Encrypt", m{"KeyId": tc.key, "Plaintext": "aa=="}, want)
		})
	}
	foreign := "arn:aws:kms:us-west-2:999999999999:key/" + absentID
	wantRefusal(t, s, here, "Encrypt", m{"KeyId": foreign, "Plaintext": "aa=="}, kmsRefusal("AccessDeniedException",
		"User: arn:aws:iam::111122223333:user/tester is not authorized to perform: kms:Encrypt on resource: "+foreign+
			" because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"))
}

func TestOperationsOnKeysTakeNoAlias(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.CreateAlias(here, "alias/a", arn); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{
		"EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion", "EnableKeyRotation", "DisableKeyRotation",
		"RotateKeyOnDemand", "GetKeyRotationStatus", "ListKeyRotations",
	} {
		wantRefusal(t, s, here, op, m{"KeyId": "alias/a"}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'"))
		wantRefusal(t, s, here, op, m{}, oneError("Value null at 'keyId' failed to satisfy constraint: Member must not be null"))
	}
}

func TestListKeysInPages(t *testing.T) {
	s := kmstest.Start(t)
	var want []string
	for range 7 {
		want = append(want, idOf(mustCreate(t, s, kmsemulator.KeyOptions{})))
	}
	if _, err := s.CreateKey(there, kmsemulator.KeyOptions{}); err != nil {
		t.Fatal(err)
	}
	sort.Strings(want)
	var got []string
	in := m{"Limit": 3}
	for pages := 1; ; pages++ {
		out := call(t, s, here, "ListKeys", in)
		for _, k := range out["Keys"].([]any) {
			got = append(got, k.(m)["KeyId"].(string))
		}
		if out["Truncated"] != true {
			if pages != 3 || out["NextMarker"] != nil {
				t.Errorf("%d pages, last marker %v", pages, out["NextMarker"])
			}
			break
		}
		in["Marker"] = out["NextMarker"]
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("listed %v, want %v", got, want)
	}
	if all := call(t, s, here, "ListKeys", m{})["Keys"].([]any); len(all) != 7 {
		t.Errorf("listed %d keys without a limit", len(all))
	}
	for name, tc := range map[string]struct {
		in   m
		want refusal
	}{
		"made-up marker": {m{"Marker": "xyz"}, kmsRefusal("InvalidMarkerException", "Could not deserialize marker 'xyz'")},
		"limit 0":        {m{"Limit": 0}, oneError("Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1")},
		"limit 1,001":    {m{"Limit": 1001}, oneError("Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000")},
		"empty marker":   {m{"Marker": ""}, oneError("Value '' at 'marker' failed to satisfy constraint: Member must have length greater than or equal to 1")},
		"limit as text":  {m{"Limit": "1"}, kmsRefusal("SerializationException", "STRING_VALUE can not be converted to an Integer")},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, s, here, "ListKeys", tc.in, tc.want) })
	}
}

// TestWhatEachStateAllows is KMS's table of key states, for the operations here.
func TestWhatEachStateAllows(t *testing.T) {
	const (
		ok   = "ok"
		off  = "DisabledException: %s is disabled."
		del  = "KMSInvalidStateException: %s is pending deletion."
		rep  = "KMSInvalidStateException: %s is pending replica deletion."
		imp  = "KMSInvalidStateException: %s is pending import."
		gone = "KMSInvalidStateException: %s is unavailable."
		born = "KMSInvalidStateException: %s is creating."
		upd  = "KMSInvalidStateException: %s is updating."
		not  = "KMSInvalidStateException: %s is not pending deletion."
		ext  = "UnsupportedOperationException: %s origin is EXTERNAL which is not valid for this operation."
	)
	states := []string{"Enabled", "Disabled", "PendingDeletion", "PendingReplicaDeletion", "PendingImport", "Unavailable", "Creating", "Updating"}
	table := map[string][]string{
		"Encrypt":                         {ok, off, del, rep, imp, gone, born, ok},
		"Decrypt":                         {ok, off, del, rep, imp, gone, born, ok},
		"GenerateDataKey":                 {ok, off, del, rep, imp, gone, born, ok},
		"GenerateDataKeyWithoutPlaintext": {ok, off, del, rep, imp, gone, born, ok},
		"ReEncrypt":                       {ok, off, del, rep, imp, gone, born, ok},
		"DescribeKey":                     {ok, ok, ok, ok, ok, ok, ok, ok},
		"ListKeyRotations":                {ok, ok, ok, ok, ok, ok, ok, ok},
		"ListAliases":                     {ok, ok, ok, ok, ok, ok, ok, ok},
		"CreateAlias":                     {ok, ok, del, rep, ok, ok, ok, ok},
		"UpdateAlias":                     {ok, ok, del, rep, ok, ok, ok, ok},
		"DeleteAlias":                     {ok, ok, ok, ok, ok, ok, ok, ok},
		"EnableKey":                       {ok, ok, del, rep, imp, ok, born, upd},
		"DisableKey":                      {ok, ok, del, rep, imp, ok, born, upd},
		"EnableKeyRotation":               {ok, off, del, rep, ext, gone, born, ok},
		"DisableKeyRotation":              {ok, off, del, rep, ext, gone, born, ok},
		"GetKeyRotationStatus":            {ok, ok, ok, ok, ext, ok, ok, ok},
		"RotateKeyOnDemand":               {ok, off, del, rep, imp, gone, born, ok},
		"ReplicateKey":                    {ok, off, del, rep, imp, gone, born, upd},
		"ScheduleKeyDeletion":             {ok, ok, del, rep, ok, ok, ok, upd},
		"CancelKeyDeletion":               {not, not, ok, ok, not, not, not, not},
	}
	for operation, row := range table {
		t.Run(operation, func(t *testing.T) {
			s := kmstest.Start(t)
			spare := call(t, s, here, "CreateKey", m{"MultiRegion": true})["KeyMetadata"].(m)["Arn"].(string)
			spareBlob := sealed(t, s, spare, []byte("x"), nil)
			for i, state := range states {
				arn, blob := keyInState(t, s, state)
				alias := "alias/of-" + strings.ToLower(state)
				if blob == "" {
					blob = spareBlob // an imported key has sealed nothing: pin it
				}
				in := map[string]m{
					"Encrypt": {"Plaintext": "aa=="}, "Decrypt": {"CiphertextBlob": blob},
					"GenerateDataKey": {"KeySpec": "AES_256"}, "GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256"},
					"ReEncrypt":    {"CiphertextBlob": spareBlob, "DestinationKeyId": arn},
					"CreateAlias":  {"AliasName": alias + "-2", "TargetKeyId": arn},
					"UpdateAlias":  {"AliasName": "alias/movable", "TargetKeyId": arn},
					"DeleteAlias":  {"AliasName": alias},
					"ReplicateKey": {"ReplicaRegion": "ap-southeast-1"},
				}[operation]
				if in == nil {
					in = m{}
				}
				switch operation {
				case "UpdateAlias":
					_ = s.CreateAlias(here, "alias/movable", spare)
				case "ReEncrypt", "CreateAlias", "DeleteAlias":
				case "Decrypt":
					if state == "PendingImport" {
						continue // no blob is of such a key, and the pin is found wrong first
					}
					in["KeyId"] = arn
				default:
					in["KeyId"] = arn
				}
				got := ok
				if a := raw(t, s, here, operation, mustJSON(t, in)); a.status != 200 {
					var body map[string]string
					if err := json.Unmarshal([]byte(a.body), &body); err != nil {
						t.Fatal(a.body)
					}
					got = body["__type"] + ": " + body["message"]
				}
				if want := strings.Replace(row[i], "%s", arn, 1); got != want {
					t.Errorf("%s: %s, want %s", state, got, want)
				}
			}
		})
	}
}

// keyInState makes a multi-Region primary key with an alias, brings it into a
// state, and returns a blob that it sealed before, if it can.
func keyInState(t testing.TB, s *kmstest.Server, state string) (arn, blob string) {
	t.Helper()
	in := m{"MultiRegion": true}
	if state == "PendingImport" {
		in["Origin"] = "EXTERNAL"
	}
	arn = call(t, s, here, "CreateKey", in)["KeyMetadata"].(m)["Arn"].(string)
	if err := s.CreateAlias(here, "alias/of-"+strings.ToLower(state), arn); err != nil {
		t.Fatal(err)
	}
	if state != "PendingImport" {
		blob = sealed(t, s, arn, []byte("x"), nil)
	}
	var err error
	switch state {
	case "PendingReplicaDeletion":
		if _, err = s.ReplicateKey(arn, there); err == nil {
			err = s.ScheduleKeyDeletion(arn, 7)
		}
	case "PendingDeletion":
		err = s.ScheduleKeyDeletion(arn, 7)
	default:
		err = s.SetKeyState(arn, state)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := metadata(t, s, here, arn)["KeyState"]; got != state {
		t.Fatalf("the key is %s, want %s", got, state)
	}
	return arn, blob
}

func TestScheduledDeletion(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.CreateAlias(here, "alias/a", arn); err != nil {
		t.Fatal(err)
	}
	blob := callAt(t, s, c, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})["CiphertextBlob"]
	for _, days := range []int{6, 31} {
		a := sendAt(t, s, c, here, "ScheduleKeyDeletion", m{"KeyId": arn, "PendingWindowInDays": days})
		word := map[int]string{6: "greater than or equal to 7", 31: "less than or equal to 30"}[days]
		checkRefusal(t, "window", a, oneError(fmt.Sprintf("Value '%d' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value %s", days, word)))
	}
	out := callAt(t, s, c, here, "ScheduleKeyDeletion", m{"KeyId": arn})
	if out["KeyState"] != "PendingDeletion" || out["PendingWindowInDays"] != 30.0 || out["DeletionDate"] != float64(c.Now().Add(30*day).Unix()) {
		t.Errorf("scheduled: %v", out)
	}
	callAt(t, s, c, here, "CancelKeyDeletion", m{"KeyId": arn})
	md := callAt(t, s, c, here, "DescribeKey", m{"KeyId": arn})["KeyMetadata"].(m)
	if md["KeyState"] != "Disabled" || md["DeletionDate"] != nil || md["Enabled"] != false {
		t.Errorf("after the cancellation: %v", md)
	}
	callAt(t, s, c, here, "ScheduleKeyDeletion", m{"KeyId": arn, "PendingWindowInDays": 7})
	c.advance(7*day - time.Second)
	callAt(t, s, c, here, "DescribeKey", m{"KeyId": "alias/a"})
	c.advance(time.Second)
	checkRefusal(t, "DescribeKey", sendAt(t, s, c, here, "DescribeKey", m{"KeyId": arn}), kmsRefusal("NotFoundException", "Key '"+arn+"' does not exist"))
	checkRefusal(t, "by alias", sendAt(t, s, c, here, "DescribeKey", m{"KeyId": "alias/a"}), kmsRefusal("NotFoundException", "Alias arn:aws:kms:us-west-2:111122223333:alias/a is not found."))
	checkRefusal(t, "Decrypt", sendAt(t, s, c, here, "Decrypt", m{"CiphertextBlob": blob}), kmsRefusal("AccessDeniedException", unreachable))
	if s.HasKey(arn) {
		t.Error("HasKey still knows it")
	}
}
