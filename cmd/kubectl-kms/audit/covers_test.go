package audit_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
)

// What API servers say of what they write tells more or less of a key, by how that is named.
func TestWhatAPIServersWriteIsUnderAKey(t *testing.T) {
	t.Parallel()
	const (
		arn   = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
		other = "arn:aws:kms:us-west-2:111122223333:key/0000aaaa-12ab-34cd-56ef-1234567890ab"
		id    = arn + "?material=77aa"
		mrk   = "arn:aws:kms:us-west-2:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
		mrkID = "arn:aws:kms::111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab?material=77aa"
	)
	const yes, no, unknown = "yes", "no", "not known"
	for _, c := range []struct{ key, format, provider, hash, keyID, want string }{
		{id, "kms v2", "aws", hashOf(id), "", yes},
		{hashOf(id), "kms v2", "aws", hashOf(id), "", yes},
		{hashOf(id), "kms v2", "aws", hashOf(id), id, yes},
		{id, "kms v2", "aws", hashOf(other), "", no},
		{hashOf(id), "kms v2", "aws", hashOf(other), "", no},
		{arn, "kms v2", "aws", hashOf(id), "", unknown},
		{arn, "kms v2", "aws", hashOf(id), id, yes},
		{other, "kms v2", "aws", hashOf(id), id, no},
		{arn, "kms v2", "aws", hashOf(arn), "", yes}, // the predecessor's key_id is the ARN
		{mrk, "kms v2", "aws", hashOf(mrkID), mrkID, yes},
		{"alias/k", "kms v2", "aws", hashOf(other), "", unknown},
		{"alias/k", "kms v2", "aws", hashOf(other), other, unknown},
		{mrk, "kms v2", "aws", hashOf(strings.Replace(mrk, "us-west-2", "", 1)), "", yes},
		{strings.Replace(mrkID, "::", ":eu-west-1:", 1), "kms v2", "aws", hashOf(mrkID), "", yes},
		{"alias/k", "kms v2", "aws", hashOf("alias/k"), "", yes},
		{id, "kms v2", "aws", "", "", unknown},
		{id, "kms v1", "aws", "", "", unknown},
		{id, "aescbc", "key1", "", "", no},
		{"provider:aws", "kms v2", "aws", hashOf(id), "", yes},
		{"provider:aws", "kms v1", "aws", "", "", yes},
		{"provider:aws", "kms v2", "aws-b", hashOf(id), "", no},
		{"plaintext", "plaintext", "", "", "", yes},
		{"plaintext", "kms v2", "aws", hashOf(id), "", no},
	} {
		k, err := audit.ParseKey(c.key)
		if err != nil {
			t.Fatal(err)
		}
		covers, known := k.Covers(audit.WrittenUnder{Resource: "secrets", Format: c.format, Provider: c.provider, KeyIDHash: c.hash}, c.keyID)
		if got := map[bool]string{true: map[bool]string{true: yes, false: no}[covers], false: unknown}[known]; got != c.want {
			t.Errorf("%s over %s %s %s %s: %s, want %s", c.key, c.format, c.provider, c.hash, c.keyID, got, c.want)
		}
	}
}
