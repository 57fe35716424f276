package kmsemulator_test

import (
	"bytes"
	"encoding/base64"
	"maps"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const (
	here  = kmstest.Region
	there = "eu-central-1"

	incorrectKey = "The key ID in the request does not identify a CMK that can perform this operation."
	unreachable  = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access."
	noDryRun     = "DryRunModifiers can only be specified when DryRun is true."
	wouldHave    = "The request would have succeeded, but the DryRun option is set."
	absentID     = "0000abcd-12ab-34cd-56ef-1234567890ab"
)

func idOf(arn string) string { return arn[strings.LastIndex(arn, "/")+1:] }

func oneError(text string) refusal {
	return kmsRefusal("ValidationException", "1 validation error detected: "+text)
}

// sealed encrypts under a key and returns the blob in base64.
func sealed(t testing.TB, s *kmstest.Server, arn string, plain []byte, context m) string {
	t.Helper()
	region := strings.Split(arn, ":")[3]
	return call(t, s, region, "Encrypt", m{"KeyId": arn, "Plaintext": plain, "EncryptionContext": context})["CiphertextBlob"].(string)
}

func TestEncryptAndDecryptEverySize(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	for _, n := range []int{1, 16, 31, 32, 33, 100, 127, 128, 200, 239, 240, 255, 256, 1000, 4095, 4096} {
		plain := bytes.Repeat([]byte{byte(n)}, n)
		blob := sealed(t, s, arn, plain, nil)
		raw, err := base64.StdEncoding.DecodeString(blob)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > 6144 || bytes.Contains(raw, plain) && n > 2 || raw[0] == '1' || !bytes.HasPrefix(raw, []byte{1, 2}) {
			t.Errorf("%d bytes: a blob of %d bytes that begins %x", n, len(raw), raw[:4])
		}
		if got := call(t, s, here, "Decrypt", m{"CiphertextBlob": blob})["Plaintext"]; got != b64(plain) {
			t.Errorf("%d bytes came back as %.20s", n, got)
		}
	}
}

func TestSizesOverTheLimitAreRefused(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	for name, tc := range map[string]struct {
		operation string
		in        m
		want      refusal
	}{
		"0 bytes of plaintext":     {"Encrypt", m{"KeyId": arn, "Plaintext": ""}, oneError("Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1")},
		"4,097 bytes of plaintext": {"Encrypt", m{"KeyId": arn, "Plaintext": make([]byte, 4097)}, oneError("Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096")},
		"no plaintext":             {"Encrypt", m{"KeyId": arn}, oneError("Value null at 'plaintext' failed to satisfy constraint: Member must not be null")},
		"0 bytes of ciphertext": {
			"Decrypt",
			m{"CiphertextBlob": ""},
			oneError("Value 'java.nio.HeapByteBuffer[pos=0 lim=0 cap=0]' at 'ciphertextBlob' failed to satisfy constraint: Member must have length greater than or equal to 1"),
		},
		"6,145 bytes of ciphertext": {
			"Decrypt",
			m{"CiphertextBlob": make([]byte, 6145)},
			oneError("Value 'java.nio.HeapByteBuffer[pos=0 lim=6145 cap=6145]' at 'ciphertextBlob' failed to satisfy constraint: Member must have length less than or equal to 6144"),
		},
		"6,144 bytes of ciphertext": {"Decrypt", m{"CiphertextBlob": make([]byte, 6144)}, kmsRefusal("InvalidCiphertextException", "")},
		"no ciphertext":             {"Decrypt", m{}, oneError("Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null")},
		"nothing at all": {"Encrypt", m{}, kmsRefusal("ValidationException", "2 validation errors detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null; "+
			"Value null at 'plaintext' failed to satisfy constraint: Member must not be null")},
		"empty key id": {"Encrypt", m{"KeyId": "", "Plaintext": "aa=="}, oneError("Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1")},
		"long key id":  {"Decrypt", m{"KeyId": strings.Repeat("k", 2049), "CiphertextBlob": "aa=="}, oneError("Value '" + strings.Repeat("k", 2049) + "' at 'keyId' failed to satisfy constraint: Member must have length less than or equal to 2048")},
		"unknown algorithm": {
			"Encrypt",
			m{"KeyId": arn, "Plaintext": "aa==", "EncryptionAlgorithm": "ROT13"},
			oneError("Value 'ROT13' at 'encryptionAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [SYMMETRIC_DEFAULT, RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SM2PKE]"),
		},
		"algorithm of another kind of key": {
			"Encrypt",
			m{"KeyId": arn, "Plaintext": "aa==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
			kmsRefusal("InvalidKeyUsageException", "Algorithm RSAES_OAEP_SHA_1 is incompatible with key spec SYMMETRIC_DEFAULT."),
		},
		"11 grant tokens": {
			"Encrypt",
			m{"KeyId": arn, "Plaintext": "aa==", "GrantTokens": strings.Split("a b c d e f g h i j k", " ")},
			oneError("Value '[a, b, c, d, e, f, g, h, i, j, k]' at 'grantTokens' failed to satisfy constraint: Member must have length less than or equal to 10"),
		},
		"a grant token":           {"Encrypt", m{"KeyId": arn, "Plaintext": "aa==", "GrantTokens": []string{"a"}}, kmsRefusal("InvalidGrantTokenException", "Invalid grant token")},
		"an enclave":              {"Decrypt", m{"CiphertextBlob": "aa==", "Recipient": m{"AttestationDocument": "aa=="}}, kmsRefusal("UnsupportedOperationException", "This emulator has no attestation of enclaves.")},
		"0 bytes of data key":     {"GenerateDataKey", m{"KeyId": arn, "NumberOfBytes": 0}, oneError("Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1")},
		"1,025 bytes of data key": {"GenerateDataKey", m{"KeyId": arn, "NumberOfBytes": 1025}, oneError("Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024")},
		"data key of no size":     {"GenerateDataKey", m{"KeyId": arn}, kmsRefusal("ValidationException", "Please specify either number of bytes or key spec.")},
		"data key of two sizes":   {"GenerateDataKeyWithoutPlaintext", m{"KeyId": arn, "NumberOfBytes": 1, "KeySpec": "AES_256"}, kmsRefusal("ValidationException", "Please specify either number of bytes or key spec.")},
		"data key of odd spec":    {"GenerateDataKey", m{"KeyId": arn, "KeySpec": "DES"}, oneError("Value 'DES' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]")},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, s, here, tc.operation, tc.in, tc.want) })
	}
}

func TestAnswersHaveExactlyKMSMembers(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	other := mustCreate(t, s, kmsemulator.KeyOptions{})
	blob := sealed(t, s, arn, []byte("x"), nil)
	for _, tc := range []struct {
		operation string
		in        m
		want      string
	}{
		{"Encrypt", m{"KeyId": arn, "Plaintext": "aa=="}, "CiphertextBlob EncryptionAlgorithm KeyId"},
		{"Decrypt", m{"CiphertextBlob": blob}, "EncryptionAlgorithm KeyId KeyMaterialId Plaintext"},
		{"GenerateDataKey", m{"KeyId": arn, "KeySpec": "AES_256"}, "CiphertextBlob KeyId KeyMaterialId Plaintext"},
		{"GenerateDataKeyWithoutPlaintext", m{"KeyId": arn, "KeySpec": "AES_256"}, "CiphertextBlob KeyId KeyMaterialId"},
		{"ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": other}, "CiphertextBlob DestinationEncryptionAlgorithm DestinationKeyMaterialId KeyId SourceEncryptionAlgorithm SourceKeyId SourceKeyMaterialId"},
		{"RotateKeyOnDemand", m{"KeyId": arn}, "KeyId"},
		{"GetKeyRotationStatus", m{"KeyId": arn}, "KeyId KeyRotationEnabled"},
		{"EnableKeyRotation", m{"KeyId": arn}, ""},
		{"GetKeyRotationStatus", m{"KeyId": arn}, "KeyId KeyRotationEnabled NextRotationDate RotationPeriodInDays"},
		{"ListKeyRotations", m{"KeyId": arn}, "Rotations Truncated"},
		{"ListKeys", m{}, "Keys Truncated"},
		{"ListKeys", m{"Limit": 1}, "Keys NextMarker Truncated"},
		{"CreateAlias", m{"AliasName": "alias/a", "TargetKeyId": arn}, ""},
		{"ListAliases", m{}, "Aliases Truncated"},
		{"UpdateAlias", m{"AliasName": "alias/a", "TargetKeyId": other}, ""},
		{"DeleteAlias", m{"AliasName": "alias/a"}, ""},
		{"DisableKey", m{"KeyId": arn}, ""},
		{"EnableKey", m{"KeyId": arn}, ""},
		{"DescribeKey", m{"KeyId": arn}, "KeyMetadata"},
		{"ScheduleKeyDeletion", m{"KeyId": arn}, "DeletionDate KeyId KeyState PendingWindowInDays"},
		{"CancelKeyDeletion", m{"KeyId": arn}, "KeyId"},
	} {
		if got := members(call(t, s, here, tc.operation, tc.in)); got != tc.want {
			t.Errorf("%s answered with the members\n  %s, want\n  %s", tc.operation, got, tc.want)
		}
	}
}

func TestDecryptNeedsTheSameContext(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	for name, tc := range map[string]struct {
		sealed, opened m
		ok             bool
	}{
		"none":           {nil, nil, true},
		"empty is none":  {m{}, nil, true},
		"same":           {m{"a": "1", "b": "2"}, m{"b": "2", "a": "1"}, true},
		"missing":        {m{"a": "1"}, nil, false},
		"not asked for":  {nil, m{"a": "1"}, false},
		"other value":    {m{"a": "1"}, m{"a": "2"}, false},
		"other case":     {m{"a": "x"}, m{"a": "X"}, false},
		"one more":       {m{"a": "1"}, m{"a": "1", "b": "2"}, false},
		"moved boundary": {m{"ab": "c"}, m{"a": "bc"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := m{"CiphertextBlob": sealed(t, s, arn, []byte("x"), tc.sealed), "EncryptionContext": tc.opened}
			if tc.ok {
				call(t, s, here, "Decrypt", in)
				return
			}
			wantRefusal(t, s, here, "Decrypt", in, kmsRefusal("InvalidCiphertextException", ""))
		})
	}
}

func TestEveryFlippedBitIsInvalidCiphertext(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	blob, err := base64.StdEncoding.DecodeString(sealed(t, s, arn, []byte("secret"), nil))
	if err != nil {
		t.Fatal(err)
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 1 << (i % 8)
		wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": bad}, kmsRefusal("InvalidCiphertextException", ""))
	}
	for _, bad := range [][]byte{blob[:len(blob)-1], append(bytes.Clone(blob), 0), blob[:40], blob[1:]} {
		wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": bad, "KeyId": arn}, kmsRefusal("InvalidCiphertextException", ""))
	}
}

func TestPinnedDecrypt(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	other := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.CreateAlias(here, "alias/mine", arn); err != nil {
		t.Fatal(err)
	}
	blob := sealed(t, s, arn, []byte("x"), nil)
	for _, pin := range []string{arn, idOf(arn), "alias/mine", strings.Replace(arn, "key/"+idOf(arn), "alias/mine", 1)} {
		if got := call(t, s, here, "Decrypt", m{"CiphertextBlob": blob, "KeyId": pin})["KeyId"]; got != arn {
			t.Errorf("pinned to %s: KeyId %s, want %s", pin, got, arn)
		}
	}
	wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": blob, "KeyId": other}, kmsRefusal("IncorrectKeyException", incorrectKey))
	wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": "aa==", "KeyId": other}, kmsRefusal("InvalidCiphertextException", ""))
}

func TestDecryptOfAKeyThatIsNotHere(t *testing.T) {
	s, elsewhere := kmstest.Start(t), kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	foreign := sealed(t, elsewhere, mustCreate(t, elsewhere, kmsemulator.KeyOptions{}), []byte("x"), nil)
	gone := kmsRefusal("AccessDeniedException", unreachable)
	wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": foreign}, gone)
	wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": foreign, "KeyId": arn}, kmsRefusal("IncorrectKeyException", incorrectKey))
	wantRefusal(t, s, there, "Decrypt", m{"CiphertextBlob": sealed(t, s, arn, []byte("x"), nil)}, gone)
}

func TestDataKeysDecryptToTheirPlaintext(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	for name, tc := range map[string]struct {
		in   m
		size int
	}{
		"AES_256":     {m{"KeySpec": "AES_256"}, 32},
		"AES_128":     {m{"KeySpec": "AES_128"}, 16},
		"1 byte":      {m{"NumberOfBytes": 1}, 1},
		"1,024 bytes": {m{"NumberOfBytes": 1024}, 1024},
	} {
		t.Run(name, func(t *testing.T) {
			tc.in["KeyId"], tc.in["EncryptionContext"] = idOf(arn), m{"a": "b"}
			out := call(t, s, here, "GenerateDataKey", tc.in)
			plain, _ := base64.StdEncoding.DecodeString(out["Plaintext"].(string))
			if len(plain) != tc.size || out["KeyId"] != arn || out["KeyMaterialId"] != s.CurrentMaterial(arn) {
				t.Errorf("%d bytes under %s, material %s", len(plain), out["KeyId"], out["KeyMaterialId"])
			}
			back := call(t, s, here, "Decrypt", m{"CiphertextBlob": out["CiphertextBlob"], "EncryptionContext": m{"a": "b"}})
			if back["Plaintext"] != out["Plaintext"] || back["KeyMaterialId"] != out["KeyMaterialId"] {
				t.Error("Decrypt of the data key gave another key or material")
			}
			wrapped := call(t, s, here, "GenerateDataKeyWithoutPlaintext", tc.in)
			back = call(t, s, here, "Decrypt", m{"CiphertextBlob": wrapped["CiphertextBlob"], "EncryptionContext": m{"a": "b"}})
			if plain, _ = base64.StdEncoding.DecodeString(back["Plaintext"].(string)); len(plain) != tc.size {
				t.Errorf("the wrapped key has %d bytes, want %d", len(plain), tc.size)
			}
		})
	}
}

func TestReEncryptMovesABlobToAnotherKey(t *testing.T) {
	s := kmstest.Start(t)
	from, to := mustCreate(t, s, kmsemulator.KeyOptions{}), mustCreate(t, s, kmsemulator.KeyOptions{})
	blob := sealed(t, s, from, []byte("secret"), m{"a": "1"})
	in := m{
		"CiphertextBlob": blob, "SourceEncryptionContext": m{"a": "1"}, "SourceKeyId": from,
		"DestinationKeyId": to, "DestinationEncryptionContext": m{"b": "2"},
	}
	out := call(t, s, here, "ReEncrypt", in)
	if out["KeyId"] != to || out["SourceKeyId"] != from || out["SourceKeyMaterialId"] != s.CurrentMaterial(from) || out["DestinationKeyMaterialId"] != s.CurrentMaterial(to) {
		t.Errorf("answered %v", out)
	}
	back := call(t, s, here, "Decrypt", m{"CiphertextBlob": out["CiphertextBlob"], "KeyId": to, "EncryptionContext": m{"b": "2"}})
	if back["Plaintext"] != b64([]byte("secret")) {
		t.Errorf("the new blob holds %s", back["Plaintext"])
	}
	with := func(name string, value any) m {
		changed := m{}
		maps.Copy(changed, in)
		changed[name] = value
		return changed
	}
	wantRefusal(t, s, here, "ReEncrypt", with("SourceKeyId", to), kmsRefusal("IncorrectKeyException", incorrectKey))
	wantRefusal(t, s, here, "ReEncrypt", with("SourceEncryptionContext", nil), kmsRefusal("InvalidCiphertextException", ""))
	wantRefusal(t, s, here, "ReEncrypt", with("DestinationKeyId", absentID), kmsRefusal("NotFoundException", "Key 'arn:aws:kms:us-west-2:111122223333:key/"+absentID+"' does not exist"))
	wantRefusal(t, s, here, "ReEncrypt", with("DestinationKeyId", nil), oneError("Value null at 'destinationKeyId' failed to satisfy constraint: Member must not be null"))
	wantRefusal(t, s, here, "ReEncrypt", with("DryRun", true), kmsRefusal("DryRunOperationException", wouldHave))
	s.Deny(from, "ReEncryptFrom")
	wantRefusal(t, s, here, "ReEncrypt", in, kmsRefusal("AccessDeniedException", deniedText("ReEncryptFrom", from)))
	s.Allow("", "")
	s.Deny(to, "ReEncrypt")
	wantRefusal(t, s, here, "ReEncrypt", in, kmsRefusal("AccessDeniedException", deniedText("ReEncryptTo", to)))
}

func TestDryRunAnswersForEveryCryptographicOperation(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	blob := sealed(t, s, arn, []byte("x"), nil)
	ok := kmsRefusal("DryRunOperationException", wouldHave)
	blind := m{"DryRun": true, "DryRunModifiers": []string{"IGNORE_CIPHERTEXT"}}
	for _, tc := range []struct {
		operation string
		in        m
		want      refusal
	}{
		{"Encrypt", m{"KeyId": arn, "Plaintext": "aa==", "DryRun": true}, ok},
		{"Decrypt", m{"CiphertextBlob": blob, "DryRun": true}, ok},
		{"GenerateDataKey", m{"KeyId": arn, "KeySpec": "AES_256", "DryRun": true}, ok},
		{"GenerateDataKeyWithoutPlaintext", m{"KeyId": arn, "KeySpec": "AES_256", "DryRun": true}, ok},
		{"ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": arn, "DryRun": true}, ok},
		{"Decrypt", m{"CiphertextBlob": "aa==", "DryRun": true}, kmsRefusal("InvalidCiphertextException", "")},
		{"Decrypt", m{"KeyId": arn, "DryRun": blind["DryRun"], "DryRunModifiers": blind["DryRunModifiers"]}, ok},
		{"Decrypt", m{"DryRun": true, "DryRunModifiers": []string{"X"}}, oneError("Value 'X' at 'dryRunModifiers' failed to satisfy constraint: Member must satisfy enum value set: [IGNORE_CIPHERTEXT]")},
		{"Decrypt", m{"DryRun": blind["DryRun"], "DryRunModifiers": blind["DryRunModifiers"]}, kmsRefusal("ValidationException", "KeyId is required when DryRunModifiers is IGNORE_CIPHERTEXT.")},
		{"ReEncrypt", m{"SourceKeyId": arn, "DestinationKeyId": arn, "DryRun": true, "DryRunModifiers": blind["DryRunModifiers"]}, ok},
		{"ReEncrypt", m{"DestinationKeyId": arn, "DryRun": true, "DryRunModifiers": blind["DryRunModifiers"]}, kmsRefusal("ValidationException", "SourceKeyId is required when DryRunModifiers is IGNORE_CIPHERTEXT.")},
		{"Decrypt", m{"KeyId": arn, "CiphertextBlob": blob, "DryRunModifiers": blind["DryRunModifiers"]}, kmsRefusal("ValidationException", noDryRun)},
		{"Decrypt", m{"KeyId": arn, "CiphertextBlob": blob, "DryRun": false, "DryRunModifiers": blind["DryRunModifiers"]}, kmsRefusal("ValidationException", noDryRun)},
		{"ReEncrypt", m{"CiphertextBlob": blob, "DestinationKeyId": arn, "DryRunModifiers": blind["DryRunModifiers"]}, kmsRefusal("ValidationException", noDryRun)},
		{"Decrypt", m{"KeyId": arn, "DryRunModifiers": blind["DryRunModifiers"]}, oneError("Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null")},
	} {
		wantRefusal(t, s, here, tc.operation, tc.in, tc.want)
	}
	if err := s.DisableKey(arn); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, s, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa==", "DryRun": true}, kmsRefusal("DisabledException", arn+" is disabled."))
}

// AWS documents no more of a dry run without a ciphertext than that it checks
// authorization, so that there are two kinds of emulator.
func TestDryRunWithoutACiphertextSeesTheKeysStateOrNot(t *testing.T) {
	t.Parallel()
	ok := kmsRefusal("DryRunOperationException", wouldHave)
	for name, blind := range map[string]bool{"sees it": false, "does not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kmstest.Start(t, kmsemulator.Options{BlindDryRun: blind})
			arn := mustCreate(t, s, kmsemulator.KeyOptions{})
			blob := sealed(t, s, arn, []byte("x"), nil)
			in := m{"KeyId": arn, "DryRun": true, "DryRunModifiers": []string{"IGNORE_CIPHERTEXT"}}
			want := func(state refusal) {
				t.Helper()
				wantRefusal(t, s, here, "Decrypt", m{"KeyId": arn, "CiphertextBlob": blob, "DryRun": true}, state)
				if blind {
					state = ok
				}
				wantRefusal(t, s, here, "Decrypt", in, state)
			}
			want(ok)
			if err := s.DisableKey(arn); err != nil {
				t.Fatal(err)
			}
			want(kmsRefusal("DisabledException", arn+" is disabled."))
			if err := s.ScheduleKeyDeletion(arn, 7); err != nil {
				t.Fatal(err)
			}
			want(kmsRefusal("KMSInvalidStateException", arn+" is pending deletion."))
			s.Deny(arn, "Decrypt")
			wantRefusal(t, s, here, "Decrypt", in, kmsRefusal("AccessDeniedException", deniedText("Decrypt", arn)))
			s.Allow(arn, "Decrypt")
			wantRefusal(t, s, here, "Decrypt", m{"KeyId": absentID, "DryRun": true, "DryRunModifiers": in["DryRunModifiers"]},
				kmsRefusal("NotFoundException", "Key 'arn:aws:kms:us-west-2:111122223333:key/"+absentID+"' does not exist"))
			wantRefusal(t, s, here, "Decrypt", m{"KeyId": arn, "GrantTokens": []string{"t"}, "DryRun": true, "DryRunModifiers": in["DryRunModifiers"]},
				kmsRefusal("InvalidGrantTokenException", "Invalid grant token"))
		})
	}
}

func deniedText(operation, arn string) string {
	return "User: arn:aws:iam::111122223333:user/tester is not authorized to perform: kms:" + operation + " on resource: " + arn +
		" because no identity-based policy allows the kms:" + operation + " action"
}

func TestDenyAndAllow(t *testing.T) {
	s := kmstest.Start(t)
	a, b := mustCreate(t, s, kmsemulator.KeyOptions{}), mustCreate(t, s, kmsemulator.KeyOptions{})
	blob := sealed(t, s, a, []byte("x"), nil)
	encrypt := func(arn string) m { return m{"KeyId": arn, "Plaintext": "aa=="} }
	refused := func(op, arn string) refusal { return kmsRefusal("AccessDeniedException", deniedText(op, arn)) }

	s.Deny(a, "Encrypt")
	wantRefusal(t, s, here, "Encrypt", encrypt(a), refused("Encrypt", a))
	call(t, s, here, "Encrypt", encrypt(b))
	call(t, s, here, "Decrypt", m{"CiphertextBlob": blob})
	s.Deny(idOf(a), "*")
	wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": blob}, refused("Decrypt", a))
	wantRefusal(t, s, here, "Decrypt", m{"CiphertextBlob": blob, "KeyId": a}, refused("Decrypt", a))
	wantRefusal(t, s, here, "DescribeKey", m{"KeyId": a}, refused("DescribeKey", a))
	s.Allow(a, "Encrypt")
	call(t, s, here, "Encrypt", encrypt(a))
	s.Allow("", "")
	s.Deny("", "")
	for op, in := range map[string]m{
		"CreateKey": {}, "ListKeys": {}, "ListAliases": {},
	} {
		wantRefusal(t, s, here, op, in, refused(op, "*"))
	}
	s.Deny("", "Encrypt")
	s.Allow(b, "Encrypt")
	call(t, s, here, "Encrypt", encrypt(b))
	s.Allow("", "")
	call(t, s, here, "Encrypt", encrypt(a))

	// What is refused names the key that an alias means, and comes before state.
	s.Deny(a, "Encrypt")
	if err := s.CreateAlias(here, "alias/a", a); err != nil {
		t.Fatal(err)
	}
	if err := s.DisableKey(a); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, s, here, "Encrypt", encrypt("alias/a"), refused("Encrypt", a))
}

func TestAccessDeniedCapitalizesItsMessage(t *testing.T) {
	s := kmstest.Start(t)
	s.Deny("", "ListKeys")
	if a := raw(t, s, here, "ListKeys", "{}"); !strings.Contains(a.body, `"Message":"User: `) {
		t.Errorf("answered %s", a.body)
	}
}

func TestKeysOfOtherKindsDoNotEncrypt(t *testing.T) {
	s := kmstest.Start(t)
	for _, tc := range []struct{ spec, usage, code, text string }{
		{"HMAC_256", "GENERATE_VERIFY_MAC", "InvalidKeyUsageException", "%s key usage is GENERATE_VERIFY_MAC which is not valid for Encrypt."},
		{"ECC_NIST_P256", "SIGN_VERIFY", "InvalidKeyUsageException", "%s key usage is SIGN_VERIFY which is not valid for Encrypt."},
		{"RSA_2048", "ENCRYPT_DECRYPT", "InvalidKeyUsageException", "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."},
	} {
		arn := call(t, s, here, "CreateKey", m{"KeySpec": tc.spec, "KeyUsage": tc.usage})["KeyMetadata"].(m)["Arn"].(string)
		wantRefusal(t, s, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="}, kmsRefusal(tc.code, strings.Replace(tc.text, "%s", arn, 1)))
		wantRefusal(t, s, here, "RotateKeyOnDemand", m{"KeyId": arn}, kmsRefusal("UnsupportedOperationException", ""))
		wantRefusal(t, s, here, "GetKeyRotationStatus", m{"KeyId": arn}, kmsRefusal("UnsupportedOperationException", ""))
		wantRefusal(t, s, here, "ListKeyRotations", m{"KeyId": arn}, kmsRefusal("UnsupportedOperationException", ""))
	}
}
