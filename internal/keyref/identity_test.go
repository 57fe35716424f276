package keyref_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

func TestAllReplicasOfAKeyAreOneID(t *testing.T) {
	t.Parallel()
	mrk := "mrk-" + strings.ReplaceAll(id, "-", "")
	for arn, want := range map[string]struct {
		id     keyref.ID
		region string
	}{
		"arn:aws:kms:us-west-2:111122223333:key/" + mrk:  {keyref.ID("arn:aws:kms::111122223333:key/" + mrk), "us-west-2"},
		"arn:aws:kms:eu-west-1:111122223333:key/" + mrk:  {keyref.ID("arn:aws:kms::111122223333:key/" + mrk), "eu-west-1"},
		"arn:aws:kms::111122223333:key/" + mrk:           {keyref.ID("arn:aws:kms::111122223333:key/" + mrk), ""},
		"arn:aws:kms:us-west-2:111122223333:key/" + id:   {keyref.ID("arn:aws:kms:us-west-2:111122223333:key/" + id), "us-west-2"},
		"arn:aws:kms:us-west-2:111122223333:alias/mrk-k": {"arn:aws:kms:us-west-2:111122223333:alias/mrk-k", "us-west-2"},
		"alias/k":  {"alias/k", ""},
		"a key":    {"a key", ""},
		"arn:aws:": {"arn:aws:", ""},
		"":         {"", ""},
	} {
		if got := keyref.ARN(arn); got.ID() != want.id || got.Region() != want.region {
			t.Errorf("%q: ID %q, Region %q; want %q, %q", arn, got.ID(), got.Region(), want.id, want.region)
		}
	}
}

func TestAKeyIsInAnotherRegionAsAReplicaOnly(t *testing.T) {
	t.Parallel()
	const west, abroad = "arn:aws:kms:us-west-2:111122223333:key/", "arn:aws:kms:eu-west-1:111122223333:key/"
	mrk := "mrk-" + strings.ReplaceAll(id, "-", "")
	for name, c := range map[string]struct{ arn, other, want string }{
		"a replica":              {west + mrk, abroad + id, abroad + mrk},
		"of its own Region":      {west + mrk, west + id, west + mrk},
		"a key of one Region":    {west + id, abroad + mrk, ""},
		"its own key":            {west + id, west + id, west + id},
		"KMS is not AWS's":       {"k1", "k2", "k1"},
		"the other is not AWS's": {west + id, "k2", west + id},
	} {
		if got := keyref.ARN(c.arn).InRegionOf(keyref.ARN(c.other)); string(got) != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
