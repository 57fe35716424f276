package keyref_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

func TestWhatSlippedIntoANameIsSaid(t *testing.T) {
	t.Parallel()
	const home = "arn:aws:kms:us-west-2:111122223333:"
	for name, want := range map[string]string{
		home + "key/" + id + " ":                          "has a blank at its end",
		home + "key/" + id + "\t":                         "has a tab at its end",
		home + "key/" + id + "\n":                         "has a line break at its end",
		home + "key/" + id + "\r\n":                       "has a line break at its end",
		home + "key/" + id + "\u00a0":                     "has a no-break space at its end",
		home + "key/" + id + "\u200b":                     "has an invisible character at its end",
		home + "key/" + id + "\x00":                       "has an invisible character at its end",
		"\ufeff" + home + "key/" + id:                     "has an invisible character at its beginning",
		" " + home + "key/" + id:                          "has a blank at its beginning",
		`"` + home + "key/" + id + `"`:                    "in quotation marks of its own",
		"'" + home + "key/" + id:                          "in quotation marks of its own",
		"“" + home + "key/" + id + "”":                    "in quotation marks of its own",
		"`alias/etcd`":                                    "in quotation marks of its own",
		"alias/etcd ":                                     "has a blank at its end",
		home + "key/xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx": "placeholder",
		home + "key/XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX": "placeholder",
		home + "key/1234abcd-xxxx-xxxx-xxxx-1234567890ab": "placeholder",
		home + "key/mrk-xxxxxxxx":                         "placeholder",
		"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx":            "placeholder",
		home + "key/<KEY_ID>":                             "placeholder",
		home + "key/KEY_ID":                               "placeholder",
		home + "key/key-id":                               "placeholder",
		home + "key/your-key-id":                          "placeholder",
		home + "key/YOUR-KEY":                             "placeholder",
		home + "key/REPLACE_ME":                           "placeholder",
		home + "key/replace-me":                           "placeholder",
		home + "key/1234abcd-...":                         "placeholder",
		home + "key/*":                                    "placeholder",
		home + "key/${KEY_ID}":                            "placeholder",
		"arn:aws:kms:us-west-2:xxxxxxxxxxxx:key/" + id:    "placeholder",
		"arn:aws:kms:us-west-2:ACCOUNT_ID:key/" + id:      "placeholder",
		"arn:aws:kms:us-west-2:<ACCOUNT>:key/" + id:       "placeholder",
		"arn:aws:kms:REGION:111122223333:key/" + id:       "placeholder",
		"arn:aws:kms:region:account-id:key/key-id":        "placeholder",
		"alias/<NAME>":                                    "placeholder",
		"alias/your-key":                                  "placeholder",
		"alias/YOUR_KMS_KEY":                              "placeholder",
		"alias/REPLACE_ME":                                "placeholder",
		"{{ kms_key_arn }}":                               "placeholder",
		"$KMS_KEY_ARN":                                    "placeholder",
		"KMS_KEY_ARN":                                     "placeholder",
		"REPLACE_ME":                                      "placeholder",
		"<your key>":                                      "placeholder",
		"arn:aws:iam::111122223333:role/<ROLE>":           "placeholder",
		"arn:aws:iam::111122223333:role/your-role":        "placeholder",
	} {
		if got := keyref.Slip(name); !strings.Contains(got, want) {
			t.Errorf("Slip(%q) = %q, want %q in it", name, got, want)
		}
	}
}

func TestNamesThatPeopleChooseAreNoSlips(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"", id, strings.ToUpper(id), "ABCDEF12-ABCD-ABCD-ABCD-ABCDEFABCDEF", "mrk-1234abcd12ab34cd56ef1234567890ab",
		"arn:aws:kms:us-west-2:123456789012:key/" + id, "arn:aws:kms:us-west-2:000000000000:key/" + id,
		"arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/" + id,
		"alias/K8sKMSKey", "alias/ETCD", "alias/PROD_ETCD", "alias/my-key", "alias/yourcompany/etcd", "alias/xx-prod", "alias/exxxample",
		"alias/team-replacement", "alias/todos", "alias/account/region", "alias/key-id",
		"arn:aws:iam::111122223333:role/NODE-ROLE", "arn:aws:iam::111122223333:role/a/path/control-plane",
		"arn:aws:eks:us-west-2:111122223333:cluster/my-cluster",
	} {
		if got := keyref.Slip(name); got != "" {
			t.Errorf("Slip(%q) = %q, want none", name, got)
		}
	}
}
