package kmsemulator_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/nodetest"
)

// clientsDir holds the pinned client and its driver.
const clientsDir = "../../test/clients"

// A foreignClient is AWS's JavaScript client in a process of its own.
type foreignClient struct {
	in   io.Writer
	out  *bufio.Scanner
	used map[string]bool // operations that have succeeded
}

// A step is one call of the foreign client; see kms.mjs.
type step struct {
	Command string `json:"command"`
	Region  string `json:"region"`
	Input   m      `json:"input"`
	Service string `json:"service,omitempty"`
	Scope   string `json:"scope,omitempty"`
	Offset  int    `json:"offset,omitempty"`
	Secret  string `json:"secret,omitempty"`
}

type result struct {
	OK        bool
	Status    int
	RequestID string
	Output    m
	Code      string
	Message   string
	Known     bool
}

func startForeignClient(t *testing.T, s *kmstest.Server) *foreignClient {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(nodetest.Install(t, clientsDir), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	nodetest.Copy(t, filepath.Join(clientsDir, "kms.mjs"), filepath.Join(dir, "kms.mjs"))
	// The test's context ends before its cleanups; closing stdin ends the client.
	node := exec.CommandContext(context.WithoutCancel(t.Context()), "node", filepath.Join(dir, "kms.mjs"))
	node.Env = append(os.Environ(), append(s.Env(), "NODE_NO_WARNINGS=1")...)
	var stderr bytes.Buffer
	node.Stderr = &stderr
	in, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := node.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("node: %v\n%s", err, stderr.String())
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &foreignClient{in: in, out: lines, used: map[string]bool{}}
}

func (c *foreignClient) send(t *testing.T, s step) result {
	t.Helper()
	if s.Region == "" {
		s.Region = here
	}
	if err := json.NewEncoder(c.in).Encode(s); err != nil {
		t.Fatal(err)
	}
	if !c.out.Scan() {
		t.Fatalf("%s: the client has ended: %v", s.Command, c.out.Err())
	}
	var r result
	if err := json.Unmarshal(c.out.Bytes(), &r); err != nil {
		t.Fatalf("%s: %s: %v", s.Command, c.out.Bytes(), err)
	}
	if r.RequestID == "" {
		t.Errorf("%s: the client found no request id: %+v", s.Command, r)
	}
	return r
}

// do makes a call that must succeed.
func (c *foreignClient) do(t *testing.T, region, command string, in m) m {
	t.Helper()
	r := c.send(t, step{Command: command, Region: region, Input: in})
	if !r.OK || r.Status != 200 {
		t.Fatalf("%s(%v): %+v", command, in, r)
	}
	c.used[command] = true
	return r.Output
}

// refused makes a call that must be refused.
func (c *foreignClient) refused(t *testing.T, s step, want refusal) {
	t.Helper()
	r := c.send(t, s)
	// Where KMS sends no text the client says UnknownError, or nothing.
	if want.message == "" && (r.Message == "UnknownError" || r.Message == want.code) {
		r.Message = ""
	}
	if got := (refusal{r.Status, r.Code, r.Message}); r.OK || got != want || !r.Known {
		t.Errorf("%s: the client saw\n  %+v, want\n  %+v", s.Command, r, want)
	}
}

func blobOf(b []byte) m { return m{"base64": b64(b)} }

func TestForeignClient(t *testing.T) {
	t.Parallel()
	s := kmstest.Start(t)
	c := startForeignClient(t, s)
	t.Run("runs every operation", func(t *testing.T) {
		foreignKeys(t, c)
		foreignCryptography(t, c)
		foreignRotation(t, c)
		foreignReplicas(t, c)
		foreignPolicies(t, c)
		foreignTags(t, c)
		if got, want := slices.Sorted(maps.Keys(c.used)), s.Operations(); !slices.Equal(got, want) {
			t.Errorf("ran %v,\nthe emulator has %v", got, want)
		}
	})
	t.Run("is refused as by KMS", func(t *testing.T) { foreignRefusals(t, s, c) })
	t.Run("is refused in each bad state", func(t *testing.T) { foreignStates(t, s, c) })
}

func foreignKeys(t *testing.T, c *foreignClient) {
	t.Helper()
	md := c.do(t, here, "CreateKey", m{"Description": "d", "Tags": []m{{"TagKey": "a", "TagValue": "b"}}})["KeyMetadata"].(m)
	id := md["KeyId"]
	if md["CreationDate"].(m)["date"] == "" || md["KeySpec"] != "SYMMETRIC_DEFAULT" {
		t.Errorf("created %v", md)
	}
	c.do(t, here, "CreateAlias", m{"AliasName": "alias/js", "TargetKeyId": id})
	if got := c.do(t, here, "DescribeKey", m{"KeyId": "alias/js"})["KeyMetadata"].(m); mustJSON(t, got) != mustJSON(t, md) {
		t.Errorf("described %v, created %v", got, md)
	}
	other := c.do(t, here, "CreateKey", m{})["KeyMetadata"].(m)["KeyId"]
	c.do(t, here, "UpdateAlias", m{"AliasName": "alias/js", "TargetKeyId": other})
	aliases := c.do(t, here, "ListAliases", m{"KeyId": other})["Aliases"].([]any)
	if len(aliases) != 1 || aliases[0].(m)["AliasName"] != "alias/js" || aliases[0].(m)["LastUpdatedDate"] == nil {
		t.Errorf("aliases %v", aliases)
	}
	c.do(t, here, "DeleteAlias", m{"AliasName": "alias/js"})
	page := c.do(t, here, "ListKeys", m{"Limit": 1})
	if page["Truncated"] != true {
		t.Errorf("first page %v", page)
	}
	page = c.do(t, here, "ListKeys", m{"Limit": 1, "Marker": page["NextMarker"]})
	if page["Truncated"] != false || len(page["Keys"].([]any)) != 1 {
		t.Errorf("second page %v", page)
	}
	c.do(t, here, "DisableKey", m{"KeyId": id})
	c.do(t, here, "EnableKey", m{"KeyId": id})
	out := c.do(t, here, "ScheduleKeyDeletion", m{"KeyId": id, "PendingWindowInDays": 7})
	if out["KeyState"] != "PendingDeletion" || out["DeletionDate"].(m)["date"] == "" {
		t.Errorf("scheduled %v", out)
	}
	c.do(t, here, "CancelKeyDeletion", m{"KeyId": id})
}

func foreignCryptography(t *testing.T, c *foreignClient) {
	t.Helper()
	arn := c.do(t, here, "CreateKey", m{})["KeyMetadata"].(m)["Arn"]
	other := c.do(t, here, "CreateKey", m{})["KeyMetadata"].(m)["Arn"]
	plain, context := blobOf(bytes.Repeat([]byte{9}, 32)), m{"a": "b"}
	blob := c.do(t, here, "Encrypt", m{"KeyId": arn, "Plaintext": plain, "EncryptionContext": context})["CiphertextBlob"]
	out := c.do(t, here, "Decrypt", m{"KeyId": arn, "CiphertextBlob": blob, "EncryptionContext": context})
	if mustJSON(t, out["Plaintext"]) != mustJSON(t, plain) || out["KeyId"] != arn || out["KeyMaterialId"] == nil {
		t.Errorf("decrypted %v", out)
	}
	moved := c.do(t, here, "ReEncrypt", m{"CiphertextBlob": blob, "SourceEncryptionContext": context, "DestinationKeyId": other})["CiphertextBlob"]
	use := c.do(t, here, "GetKeyLastUsage", m{"KeyId": arn})["KeyLastUsage"].(m)
	if use["Operation"] != "ReEncrypt" || use["Timestamp"].(m)["date"] == "" || use["CloudTrailEventId"] == nil || use["KmsRequestId"] == nil {
		t.Errorf("last used %v", use)
	}
	if out := c.do(t, here, "Decrypt", m{"CiphertextBlob": moved}); mustJSON(t, out["Plaintext"]) != mustJSON(t, plain) || out["KeyId"] != other {
		t.Errorf("re-encrypted to %v", out)
	}
	key := c.do(t, here, "GenerateDataKey", m{"KeyId": arn, "KeySpec": "AES_256"})
	if out := c.do(t, here, "Decrypt", m{"CiphertextBlob": key["CiphertextBlob"]}); mustJSON(t, out["Plaintext"]) != mustJSON(t, key["Plaintext"]) {
		t.Error("the wrapped data key is another")
	}
	if key := c.do(t, here, "GenerateDataKeyWithoutPlaintext", m{"KeyId": arn, "NumberOfBytes": 64}); key["Plaintext"] != nil || key["CiphertextBlob"] == nil {
		t.Errorf("data key without plaintext: %v", key)
	}
}

func foreignRotation(t *testing.T, c *foreignClient) {
	t.Helper()
	id := c.do(t, here, "CreateKey", m{})["KeyMetadata"].(m)["KeyId"]
	c.do(t, here, "EnableKeyRotation", m{"KeyId": id, "RotationPeriodInDays": 100})
	status := c.do(t, here, "GetKeyRotationStatus", m{"KeyId": id})
	if status["KeyRotationEnabled"] != true || status["RotationPeriodInDays"] != 100.0 || status["NextRotationDate"] == nil {
		t.Errorf("status %v", status)
	}
	c.do(t, here, "DisableKeyRotation", m{"KeyId": id})
	c.do(t, here, "RotateKeyOnDemand", m{"KeyId": id})
	if r := c.do(t, here, "ListKeyRotations", m{"KeyId": id})["Rotations"].([]any); len(r) != 1 || r[0].(m)["RotationType"] != "ON_DEMAND" {
		t.Errorf("rotations %v", r)
	}
}

func foreignReplicas(t *testing.T, c *foreignClient) {
	t.Helper()
	arn := c.do(t, here, "CreateKey", m{"MultiRegion": true})["KeyMetadata"].(m)["Arn"].(string)
	out := c.do(t, here, "ReplicateKey", m{"KeyId": arn, "ReplicaRegion": there})
	if out["ReplicaKeyMetadata"].(m)["KeyState"] != "Creating" || !strings.Contains(out["ReplicaPolicy"].(string), "kms:*") {
		t.Errorf("replicated %v", out)
	}
	blob := c.do(t, here, "Encrypt", m{"KeyId": arn, "Plaintext": blobOf([]byte("x"))})["CiphertextBlob"]
	if got := c.do(t, there, "Decrypt", m{"CiphertextBlob": blob})["KeyId"]; got != inRegion(arn, there) {
		t.Errorf("the replica answers as %s", got)
	}
}

func foreignPolicies(t *testing.T, c *foreignClient) {
	t.Helper()
	id := c.do(t, here, "CreateKey", m{})["KeyMetadata"].(m)["KeyId"]
	if out := c.do(t, here, "GetKeyPolicy", m{"KeyId": id}); out["PolicyName"] != "default" || !strings.Contains(out["Policy"].(string), "kms:*") {
		t.Errorf("the default policy is %v", out)
	}
	policy := statement(`"Principal":{"AWS":"111122223333"},"Action":["kms:*KeyPolic*","kms:Encrypt"],"Resource":"*"`)
	c.do(t, here, "PutKeyPolicy", m{"KeyId": id, "Policy": policy})
	if out := c.do(t, here, "GetKeyPolicy", m{"KeyId": id, "PolicyName": "default"}); out["Policy"] != policy {
		t.Errorf("put\n%s\ngot\n%s", policy, out["Policy"])
	}
	if out := c.do(t, here, "ListKeyPolicies", m{"KeyId": id}); mustJSON(t, out["PolicyNames"]) != `["default"]` || out["Truncated"] != false {
		t.Errorf("policies %v", out)
	}
	r := c.send(t, step{Command: "GenerateDataKey", Region: here, Input: m{"KeyId": id, "KeySpec": "AES_256"}})
	if r.Code != "AccessDeniedException" || !strings.Contains(r.Message, "because no resource-based policy allows the kms:GenerateDataKey action") {
		t.Errorf("what the policy does not allow: %+v", r)
	}
	c.refused(t, step{Command: "PutKeyPolicy", Input: m{"KeyId": id, "Policy": statement(`"Principal":"*","Action":"kms:Encrypt","Resource":"*"`)}},
		kmsRefusal("MalformedPolicyDocumentException", lockout))
}

func foreignTags(t *testing.T, c *foreignClient) {
	t.Helper()
	id := c.do(t, here, "CreateKey", m{"Tags": []m{{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": "2"}}})["KeyMetadata"].(m)["KeyId"]
	c.do(t, here, "TagResource", m{"KeyId": id, "Tags": []m{{"TagKey": "b", "TagValue": ""}, {"TagKey": "c", "TagValue": "3"}}})
	c.do(t, here, "UntagResource", m{"KeyId": id, "TagKeys": []string{"a", "never"}})
	out := c.do(t, here, "ListResourceTags", m{"KeyId": id})
	if got, want := mustJSON(t, out["Tags"]), `[{"TagKey":"b","TagValue":""},{"TagKey":"c","TagValue":"3"}]`; got != want || out["Truncated"] != false {
		t.Errorf("tags %s, want %s", got, want)
	}
	c.refused(t, step{Command: "TagResource", Input: m{"KeyId": id, "Tags": []m{{"TagKey": "AWS:x", "TagValue": ""}}}},
		kmsRefusal("TagException", "Tags beginning with aws: are reserved"))
	c.do(t, here, "UpdateKeyDescription", m{"KeyId": id, "Description": "of late"})
	if got := c.do(t, here, "DescribeKey", m{"KeyId": id})["KeyMetadata"].(m)["Description"]; got != "of late" {
		t.Errorf("described as %q", got)
	}
}

func foreignRefusals(t *testing.T, s *kmstest.Server, c *foreignClient) {
	t.Helper()
	arn := c.do(t, here, "CreateKey", m{})["KeyMetadata"].(m)["Arn"].(string)
	other := c.do(t, here, "CreateKey", m{})["KeyMetadata"].(m)["Arn"].(string)
	blob := c.do(t, here, "Encrypt", m{"KeyId": arn, "Plaintext": blobOf([]byte("x")), "EncryptionContext": m{"a": "b"}})["CiphertextBlob"]
	for name, tc := range map[string]struct {
		step step
		want refusal
	}{
		"wrong service in the scope": {step{Command: "ListKeys", Service: "s3"}, kmsRefusal("InvalidSignatureException", "Credential should be scoped to correct service: 'kms'. ")},
		"wrong Region in the scope":  {step{Command: "ListKeys", Scope: "mars"}, kmsRefusal("InvalidSignatureException", "Credential should be scoped to a valid region. ")},
		"wrong secret":               {step{Command: "ListKeys", Secret: "guess"}, kmsRefusal("InvalidSignatureException", mismatch)},
		"0 bytes": {
			step{Command: "Encrypt", Input: m{"KeyId": arn, "Plaintext": blobOf(nil)}},
			oneError("Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1"),
		},
		"4,097 bytes": {
			step{Command: "Encrypt", Input: m{"KeyId": arn, "Plaintext": blobOf(make([]byte, 4097))}},
			oneError("Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"),
		},
		"6,145 bytes": {
			step{Command: "Decrypt", Input: m{"CiphertextBlob": blobOf(make([]byte, 6145))}},
			oneError("Value 'java.nio.HeapByteBuffer[pos=0 lim=6145 cap=6145]' at 'ciphertextBlob' failed to satisfy constraint: Member must have length less than or equal to 6144"),
		},
		"wrong context": {
			step{Command: "Decrypt", Input: m{"CiphertextBlob": blob, "EncryptionContext": m{"a": "c"}}},
			kmsRefusal("InvalidCiphertextException", ""),
		},
		"wrong key": {
			step{Command: "Decrypt", Input: m{"CiphertextBlob": blob, "EncryptionContext": m{"a": "b"}, "KeyId": other}},
			kmsRefusal("IncorrectKeyException", incorrectKey),
		},
		"dry run": {
			step{Command: "Encrypt", Input: m{"KeyId": arn, "Plaintext": blobOf([]byte("x")), "DryRun": true}},
			kmsRefusal("DryRunOperationException", wouldHave),
		},
		"absent key": {
			step{Command: "Encrypt", Input: m{"KeyId": absentID, "Plaintext": blobOf([]byte("x"))}},
			kmsRefusal("NotFoundException", "Key 'arn:aws:kms:us-west-2:111122223333:key/"+absentID+"' does not exist"),
		},
		"another Region's ARN": {
			step{Command: "Encrypt", Region: there, Input: m{"KeyId": arn, "Plaintext": blobOf([]byte("x"))}},
			kmsRefusal("NotFoundException", "Invalid arn us-west-2"),
		},
		"operation that is not here": {step{Command: "ListGrants", Input: m{"KeyId": arn}}, kmsRefusal("UnknownOperationException", "")},
	} {
		t.Run(name, func(t *testing.T) { c.refused(t, tc.step, tc.want) })
	}
	t.Run("stale date", func(t *testing.T) {
		r := c.send(t, step{Command: "ListKeys", Offset: -20 * 60 * 1000})
		if r.OK || r.Status != 400 || r.Code != "InvalidSignatureException" || !strings.HasPrefix(r.Message, "Signature expired: ") || !strings.HasSuffix(r.Message, " - 5 min.)") {
			t.Errorf("the client saw %+v", r)
		}
	})
	t.Run("denied", func(t *testing.T) {
		s.Deny(arn, "Encrypt")
		defer s.Allow("", "")
		c.refused(t, step{Command: "Encrypt", Input: m{"KeyId": arn, "Plaintext": blobOf([]byte("x"))}},
			kmsRefusal("AccessDeniedException", deniedText("Encrypt", arn)))
	})
}

func foreignStates(t *testing.T, s *kmstest.Server, c *foreignClient) {
	t.Helper()
	for state, want := range map[string]struct{ code, text string }{
		"Disabled":               {"DisabledException", "is disabled."},
		"PendingDeletion":        {"KMSInvalidStateException", "is pending deletion."},
		"PendingReplicaDeletion": {"KMSInvalidStateException", "is pending replica deletion."},
		"PendingImport":          {"KMSInvalidStateException", "is pending import."},
		"Unavailable":            {"KMSInvalidStateException", "is unavailable."},
		"Creating":               {"KMSInvalidStateException", "is creating."},
	} {
		t.Run(state, func(t *testing.T) {
			arn, blob := keyInState(t, s, state)
			refused := kmsRefusal(want.code, arn+" "+want.text)
			c.refused(t, step{Command: "Encrypt", Input: m{"KeyId": arn, "Plaintext": blobOf([]byte("x"))}}, refused)
			c.refused(t, step{Command: "GenerateDataKey", Input: m{"KeyId": arn, "KeySpec": "AES_256"}}, refused)
			if blob != "" {
				c.refused(t, step{Command: "Decrypt", Input: m{"CiphertextBlob": m{"base64": blob}}}, refused)
			}
		})
	}
}
