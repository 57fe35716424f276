package keyref_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

const id = "1234abcd-12ab-34cd-56ef-1234567890ab"

func TestParseReadsEveryFormThatKMSTakes(t *testing.T) {
	t.Parallel()
	mrk := "mrk-" + strings.ReplaceAll(id, "-", "")
	for name, c := range map[string]struct {
		alias  bool
		region string
		keyID  string
	}{
		"arn:aws:kms:us-west-2:111122223333:key/" + id:               {false, "us-west-2", "arn:aws:kms:us-west-2:111122223333:key/" + id},
		"arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/" + id:    {false, "us-gov-west-1", "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/" + id},
		"arn:aws:kms:eu-central-1:111122223333:key/" + mrk:           {false, "eu-central-1", "arn:aws:kms::111122223333:key/" + mrk},
		"arn:aws-cn:kms:cn-north-1:111122223333:alias/K8sKMSKey/a_b": {true, "cn-north-1", "arn:aws-cn:kms:cn-north-1:111122223333:alias/K8sKMSKey/a_b"},
		"alias/K8sKMSKey": {true, "", "alias/K8sKMSKey"},
		id:                {false, "", id},
		mrk:               {false, "", mrk},
	} {
		ref, err := keyref.Parse(name)
		if err != nil {
			t.Errorf("Parse(%q): %v", name, err)
			continue
		}
		if ref.IsAlias() != c.alias || ref.Region != c.region || string(ref.ID()) != c.keyID || ref.String() != name {
			t.Errorf("Parse(%q): alias %v, Region %q, key_id %q, String %q; want %v, %q, %q and the name itself",
				name, ref.IsAlias(), ref.Region, string(ref.ID()), ref, c.alias, c.region, c.keyID)
		}
	}
}

func TestParseRefusesNonsenseAndSaysWhy(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":                                   "is empty",
		"foo":                                "is no key ARN",
		"arn:aws:kms:us-west-2:111122223333": "broken ARN",
		"arn:aws:s3:us-west-2:111122223333:key/" + id:    `service "s3"`,
		"arn:aws:kms:us_west:111122223333:key/" + id:     `Region "us_west"`,
		"arn:aws:kms::111122223333:key/" + id:            `Region ""`,
		"arn:aws:kms:us-west-2:1111:key/" + id:           `account "1111"`,
		"arn:aws:kms:us-west-2:111122223333:key/":        "without a key id",
		"arn:aws:kms:us-west-2:111122223333:user/x":      "want key/ID",
		"arn:azure:kms:us-west-2:111122223333:key/" + id: `partition "azure"`,
		"alias/":                    "alias",
		"alias/a b":                 "characters",
		strings.Repeat("x", 10_000): "is no key ARN",
		"arn:aws:kms:us-west-2:111122223333:key/" + "a\nb":      "without a key id",
		"arn:aws:kms:us-west-2:111122223333:alias/" + "ä":       "characters",
		"arn:aws:" + strings.Repeat("x", 5000) + ":a:b:key/abc": "...",
	} {
		_, err := keyref.Parse(name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.60q) = %v, want an error with %q", name, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("arn:aws:kms:us-west-2:111122223333:key/" + id)
	f.Add("alias/K8sKMSKey")
	f.Fuzz(func(t *testing.T, name string) {
		ref, err := keyref.Parse(name)
		if err == nil && ref.String() != name {
			t.Errorf("Parse(%q) prints as %q", name, ref)
		}
	})
}

func TestARegionTellsItsPartition(t *testing.T) {
	t.Parallel()
	for region, want := range map[string]string{
		"us-west-2": "aws", "eu-central-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov", "us-iso-east-1": "aws-iso",
		"us-isob-east-1": "aws-iso-b", "eu-isoe-west-1": "aws-iso-e", "us-isof-south-1": "aws-iso-f", "eusc-de-east-1": "aws-eusc", "": "aws",
	} {
		if got := keyref.PartitionOf(region); got != want {
			t.Errorf("the Region %q is of %q, want %q", region, got, want)
		}
	}
}

func TestSameHomeComparesPartitionAccountAndRegion(t *testing.T) {
	t.Parallel()
	base := keyref.Ref{Partition: "aws", Account: "111122223333", Region: "us-west-2", Key: "a"}
	other := base
	other.Key = "b"
	if !base.SameHome(other) {
		t.Error("two keys of one account and Region: want the same home")
	}
	for name, change := range map[string]func(*keyref.Ref){
		"partition": func(r *keyref.Ref) { r.Partition = "aws-cn" },
		"account":   func(r *keyref.Ref) { r.Account = "999999999999" },
		"Region":    func(r *keyref.Ref) { r.Region = "us-east-1" },
	} {
		o := other
		change(&o)
		if base.SameHome(o) {
			t.Errorf("another %s: want another home", name)
		}
	}
	if (keyref.Ref{Key: "a"}).SameHome(keyref.Ref{Key: "b"}) {
		t.Error("names without an account have no home to share")
	}
}

func TestNamesAreAsLongAsKMSTakesThem(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:kms:us-west-2:111122223333:"
	for name, ok := range map[string]bool{
		arn + "key/" + strings.Repeat("a", 128):   true,
		arn + "key/" + strings.Repeat("a", 129):   false,
		"alias/" + strings.Repeat("a", 250):       true,
		"alias/" + strings.Repeat("a", 251):       false,
		arn + "alias/" + strings.Repeat("a", 250): true,
		arn + "alias/" + strings.Repeat("a", 251): false,
	} {
		if _, err := keyref.Parse(name); (err == nil) != ok {
			t.Errorf("%d bytes, %.60s...: %v", len(name), name, err)
		}
	}
}
