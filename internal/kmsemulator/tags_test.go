package kmsemulator_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// pairs are the tags k0=v0 and so on, from one number to before another.
func pairs(from, to int) []m {
	all := []m{}
	for i := from; i < to; i++ {
		all = append(all, m{"TagKey": fmt.Sprintf("k%02d", i), "TagValue": fmt.Sprintf("v%d", i)})
	}
	return all
}

func tagsOf(t testing.TB, s *kmstest.Server, region, key string) string {
	t.Helper()
	return mustJSON(t, call(t, s, region, "ListResourceTags", m{"KeyId": key})["Tags"])
}

// TestTagRefusals are the same wherever tags are given.
func TestTagRefusals(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	long := func(n int) string { return strings.Repeat("x", n) }
	const failed = "1 validation error detected: Value %s at 'tags.1.member.%s' failed to satisfy constraint: Member must %s"
	for name, c := range map[string]struct {
		tags any
		want refusal
	}{
		"reserved":        {[]m{{"TagKey": "aws:a", "TagValue": ""}}, kmsRefusal("TagException", "Tags beginning with aws: are reserved")},
		"in capitals":     {[]m{{"TagKey": "AWS:a", "TagValue": ""}}, kmsRefusal("TagException", "Tags beginning with aws: are reserved")},
		"twice":           {append(pairs(0, 1), pairs(0, 1)...), kmsRefusal("TagException", "Duplicate tag keys")},
		"51":              {pairs(0, 51), kmsRefusal("TagException", "Too many tags")},
		"an empty key":    {[]m{{"TagKey": "", "TagValue": ""}}, kmsRefusal("ValidationException", fmt.Sprintf(failed, "''", "tagKey", "have length greater than or equal to 1"))},
		"a long key":      {[]m{{"TagKey": long(129), "TagValue": ""}}, kmsRefusal("ValidationException", fmt.Sprintf(failed, "'"+long(129)+"'", "tagKey", "have length less than or equal to 128"))},
		"a long value":    {[]m{{"TagKey": "a", "TagValue": long(257)}}, kmsRefusal("ValidationException", fmt.Sprintf(failed, "'"+long(257)+"'", "tagValue", "have length less than or equal to 256"))},
		"no key":          {[]m{{"TagValue": ""}}, kmsRefusal("ValidationException", fmt.Sprintf(failed, "null", "tagKey", "not be null"))},
		"no value":        {[]m{{"TagKey": "a"}}, kmsRefusal("ValidationException", fmt.Sprintf(failed, "null", "tagValue", "not be null"))},
		"a number":        {[]m{{"TagKey": "a", "TagValue": 1}}, kmsRefusal("SerializationException", "NUMBER_VALUE can not be converted to a String")},
		"a text":          {"a=b", kmsRefusal("SerializationException", "STRING_VALUE can not be converted to a List")},
		"a list of texts": {[]string{"a=b"}, kmsRefusal("SerializationException", "STRING_VALUE can not be converted to a Map")},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefusal(t, s, here, "TagResource", m{"KeyId": arn, "Tags": c.tags}, c.want)
			wantRefusal(t, s, here, "CreateKey", m{"Tags": c.tags}, c.want)
			wantRefusal(t, s, here, "ReplicateKey", m{"KeyId": arn, "ReplicaRegion": there, "Tags": c.tags}, c.want)
		})
	}
	if got := tagsOf(t, s, here, arn); got != "[]" {
		t.Errorf("tags of the key: %s", got)
	}
	if keys := call(t, s, here, "ListKeys", m{})["Keys"].([]any); len(keys) != 1 {
		t.Errorf("%d keys", len(keys))
	}
}

func TestTagOperationRefusals(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.CreateAlias(here, "alias/a", arn); err != nil {
		t.Fatal(err)
	}
	byARN := strings.Replace(arn, "key/"+arn[strings.LastIndex(arn, "/")+1:], "alias/a", 1)
	null := func(member string) refusal {
		return kmsRefusal("ValidationException", "1 validation error detected: Value null at '"+member+"' failed to satisfy constraint: Member must not be null")
	}
	const each = "Member must satisfy constraint: [Member must have length less than or equal to 128, Member must have length greater than or equal to 1]"
	for name, c := range map[string]struct {
		operation string
		in        m
		want      refusal
	}{
		"no tags":                {"TagResource", m{"KeyId": arn}, null("tags")},
		"tags of no key":         {"TagResource", m{"Tags": pairs(0, 1)}, null("keyId")},
		"an alias":               {"TagResource", m{"KeyId": "alias/a", "Tags": pairs(0, 1)}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"an alias' ARN":          {"TagResource", m{"KeyId": byARN, "Tags": pairs(0, 1)}, kmsRefusal("NotFoundException", "Invalid keyId '"+byARN+"'")},
		"an absent key":          {"TagResource", m{"KeyId": absentID, "Tags": pairs(0, 1)}, kmsRefusal("NotFoundException", "Key 'arn:aws:kms:us-west-2:111122223333:key/"+absentID+"' does not exist")},
		"no names":               {"UntagResource", m{"KeyId": arn}, null("tagKeys")},
		"an empty name":          {"UntagResource", m{"KeyId": arn, "TagKeys": []string{"a", ""}}, kmsRefusal("ValidationException", "1 validation error detected: Value '[a, ]' at 'tagKeys' failed to satisfy constraint: "+each)},
		"a reserved name":        {"UntagResource", m{"KeyId": arn, "TagKeys": []string{"aws:a"}}, kmsRefusal("TagException", "Tags beginning with aws: are reserved")},
		"untag an alias":         {"UntagResource", m{"KeyId": "alias/a", "TagKeys": []string{"a"}}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"list an alias":          {"ListResourceTags", m{"KeyId": "alias/a"}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"list 51":                {"ListResourceTags", m{"KeyId": arn, "Limit": 51}, kmsRefusal("ValidationException", "1 validation error detected: Value '51' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 50")},
		"no description":         {"UpdateKeyDescription", m{"KeyId": arn}, null("description")},
		"describe an alias":      {"UpdateKeyDescription", m{"KeyId": "alias/a", "Description": ""}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"last usage of an alias": {"GetKeyLastUsage", m{"KeyId": "alias/a"}, kmsRefusal("NotFoundException", "Invalid keyId 'alias/a'")},
		"last usage of no key":   {"GetKeyLastUsage", m{}, null("keyId")},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, s, here, c.operation, c.in, c.want) })
	}
}

// TestTagsAddReplaceAndGo, each answer's body included.
func TestTagsAddReplaceAndGo(t *testing.T) {
	s := kmstest.Start(t)
	arn := call(t, s, here, "CreateKey", m{"Tags": pairs(0, 49)})["KeyMetadata"].(m)["Arn"].(string)
	for _, c := range []struct {
		operation string
		in        m
		want      string // of the refusal, "" for none
		tags      int
	}{
		{"TagResource", m{"Tags": pairs(49, 51)}, "Too many tags", 49},
		{"TagResource", m{"Tags": pairs(48, 50)}, "", 50},
		{"TagResource", m{"Tags": pairs(50, 51)}, "Too many tags", 50},
		{"TagResource", m{"Tags": []m{{"TagKey": "K00", "TagValue": ""}}}, "Too many tags", 50},
		{"UntagResource", m{"TagKeys": []string{"k49", "k49", "never"}}, "", 49},
		{"TagResource", m{"Tags": []m{{"TagKey": "k00", "TagValue": strings.Repeat("é", 256)}}}, "", 49},
		{"TagResource", m{"Tags": []m{}}, "", 49},
		{"UntagResource", m{"TagKeys": []string{}}, "", 49},
		{"TagResource", m{"Tags": []m{{"TagKey": strings.Repeat("k", 128), "TagValue": ""}}}, "", 50},
	} {
		c.in["KeyId"] = arn
		a := raw(t, s, here, c.operation, mustJSON(t, c.in))
		if c.want == "" && (a.status != 200 || a.body != "") || c.want != "" && !strings.Contains(a.body, c.want) {
			t.Errorf("%s(%v): %d %s, want %q", c.operation, c.in, a.status, a.body, c.want)
		}
		if n := strings.Count(tagsOf(t, s, here, arn), "TagKey"); n != c.tags {
			t.Errorf("%s(%v) leaves %d tags, want %d", c.operation, c.in, n, c.tags)
		}
	}
	if got := tagsOf(t, s, here, arn); !strings.Contains(got, strings.Repeat("é", 256)) || strings.Contains(got, `"v0"`) {
		t.Errorf("a replaced value: %s", got)
	}
}

func TestGoSDKPagesTags(t *testing.T) {
	s := kmstest.Start(t)
	client := sdkClient(t, s, here)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	want := ""
	var tags []types.Tag
	for _, name := range []string{"e", "b", "d", "a", "c"} {
		tags = append(tags, types.Tag{TagKey: aws.String(name), TagValue: aws.String("of " + name)})
	}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		want += name + "=of " + name + " "
	}
	if _, err := client.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &arn, Tags: tags}); err != nil {
		t.Fatal(err)
	}
	got, pages := "", 0
	for list := kms.NewListResourceTagsPaginator(client, &kms.ListResourceTagsInput{KeyId: &arn, Limit: aws.Int32(2)}); list.HasMorePages() && pages < 10; pages++ {
		out, err := list.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range out.Tags {
			got += *tag.TagKey + "=" + *tag.TagValue + " "
		}
	}
	if got != want || pages != 3 {
		t.Errorf("%d pages: %s, want %s", pages, got, want)
	}
	_, err := client.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &arn, Tags: []types.Tag{{TagKey: aws.String("aws:a"), TagValue: aws.String("")}}})
	if !isA[*types.TagException](err) {
		t.Errorf("a reserved tag: %v", err)
	}
}

// TestReplicasHaveTagsOfTheirOwn
func TestReplicasHaveTagsOfTheirOwn(t *testing.T) {
	s := kmstest.Start(t)
	arn := call(t, s, here, "CreateKey", m{"MultiRegion": true, "Tags": pairs(0, 1)})["KeyMetadata"].(m)["Arn"].(string)
	out := call(t, s, here, "ReplicateKey", m{"KeyId": arn, "ReplicaRegion": there, "Tags": pairs(5, 6)})
	if got := mustJSON(t, out["ReplicaTags"]); got != mustJSON(t, pairs(5, 6)) {
		t.Errorf("replicated with %s", got)
	}
	call(t, s, here, "TagResource", m{"KeyId": arn, "Tags": pairs(1, 2)})
	if here, there := tagsOf(t, s, here, arn), tagsOf(t, s, there, inRegion(arn, there)); here != mustJSON(t, pairs(0, 2)) || there != mustJSON(t, pairs(5, 6)) {
		t.Errorf("primary %s, replica %s", here, there)
	}
}

// TestTagsAreDecidedByPermission, and decide others.
func TestTagsAreDecidedByPermission(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	call(t, s, here, "TagResource", m{"KeyId": arn, "Tags": []m{{"TagKey": "Team", "TagValue": "a"}}})
	may := func(more string) kmsemulator.Policies {
		return kmsemulator.Policies{Identity: map[string][]string{tester: {statement(more)}}}
	}
	tags := []m{{"TagKey": "Team", "TagValue": "b"}}
	denied := func(operation string) string {
		return "is not authorized to perform: kms:" + operation + " on resource: "
	}
	for name, c := range map[string]struct {
		policies  kmsemulator.Policies
		operation string
		in        m
		want      string
	}{
		"a new key without tags":   {may(`"Action":"kms:CreateKey","Resource":"*"`), "CreateKey", m{}, ""},
		"a new key with tags":      {may(`"Action":"kms:CreateKey","Resource":"*"`), "CreateKey", m{"Tags": tags}, denied("TagResource") + "*"},
		"both":                     {may(`"Action":["kms:CreateKey","kms:TagResource"],"Resource":"*"`), "CreateKey", m{"Tags": tags}, ""},
		"a replica":                {may(`"Action":"kms:ReplicateKey","Resource":"*"`), "ReplicateKey", m{"KeyId": arn, "ReplicaRegion": there}, denied("CreateKey") + "*"},
		"a replica with tags":      {may(`"Action":["kms:CreateKey","kms:ReplicateKey"],"Resource":"*"`), "ReplicateKey", m{"KeyId": arn, "ReplicaRegion": there, "Tags": tags}, denied("TagResource") + "*"},
		"tags, not allowed":        {may(`"Action":"kms:DescribeKey","Resource":"*"`), "TagResource", m{"KeyId": arn, "Tags": tags}, denied("TagResource") + arn},
		"a tag that may be given":  {may(`"Action":"kms:TagResource","Resource":"*","Condition":{"StringEquals":{"aws:RequestTag/team":"b"}}`), "TagResource", m{"KeyId": arn, "Tags": tags}, ""},
		"a value that may not":     {may(`"Action":"kms:TagResource","Resource":"*","Condition":{"StringEquals":{"aws:RequestTag/team":"c"}}`), "TagResource", m{"KeyId": arn, "Tags": tags}, denied("TagResource")},
		"a name that may not":      {may(`"Action":"kms:UntagResource","Resource":"*","Condition":{"ForAllValues:StringEquals":{"aws:TagKeys":"Team"}}`), "UntagResource", m{"KeyId": arn, "TagKeys": []string{"Other"}}, denied("UntagResource")},
		"by the key's tag":         {may(`"Action":"kms:Encrypt","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/Team":"a"}}`), "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="}, ""},
		"by another tag":           {may(`"Action":"kms:Encrypt","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/Team":"z"}}`), "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="}, denied("Encrypt")},
		"the last usage":           {may(`"Action":"kms:GetKeyLastUsage","Resource":"*"`), "GetKeyLastUsage", m{"KeyId": arn}, ""},
		"the last usage, not":      {may(`"Action":"kms:DescribeKey","Resource":"*"`), "GetKeyLastUsage", m{"KeyId": arn}, denied("GetKeyLastUsage") + arn},
		"the description, not":     {may(`"Action":"kms:DescribeKey","Resource":"*"`), "UpdateKeyDescription", m{"KeyId": arn, "Description": ""}, denied("UpdateKeyDescription") + arn},
		"the tags of a key, not":   {may(`"Action":"kms:DescribeKey","Resource":"*"`), "ListResourceTags", m{"KeyId": arn}, denied("ListResourceTags") + arn},
		"the policy of a key, not": {may(`"Action":"kms:DescribeKey","Resource":"*"`), "GetKeyPolicy", m{"KeyId": arn}, denied("GetKeyPolicy") + arn},
	} {
		t.Run(name, func(t *testing.T) {
			call(t, s, here, "UpdateKeyDescription", m{"KeyId": arn, "Description": "d"})
			if err := s.Enforce(c.policies); err != nil {
				t.Fatal(err)
			}
			a := raw(t, s, here, c.operation, mustJSON(t, c.in))
			if c.want == "" && a.status != 200 || c.want != "" && !strings.Contains(a.body, c.want) {
				t.Errorf("%d %s, want %q", a.status, a.body, c.want)
			}
			if err := s.Enforce(may(`"Action":"*","Resource":"*"`)); err != nil {
				t.Fatal(err)
			}
			call(t, s, here, "TagResource", m{"KeyId": arn, "Tags": []m{{"TagKey": "Team", "TagValue": "a"}}})
		})
	}
	wantRefusal(t, s, here, "PutKeyPolicy", m{"KeyId": arn, "Policy": statement(`"Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/Team":"a"}}`)},
		kmsRefusal("UnsupportedOperationException", `This emulator does not know all of the policy language: condition key "aws:ResourceTag/Team" is for policies of principals`))
}

func TestTagsSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	s, stop := startIn(t, dir, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	call(t, s, here, "TagResource", m{"KeyId": arn, "Tags": pairs(0, 3)})
	call(t, s, here, "UntagResource", m{"KeyId": arn, "TagKeys": []string{"k01"}})
	call(t, s, here, "UpdateKeyDescription", m{"KeyId": arn, "Description": "d"})
	before := tagsOf(t, s, here, arn)
	stop()
	s, _ = startIn(t, dir, kmsemulator.Options{})
	if after := tagsOf(t, s, here, arn); after != before || !strings.Contains(after, "k02") || strings.Contains(after, "k01") {
		t.Errorf("before %s, after %s", before, after)
	}
	if got := metadata(t, s, here, arn)["Description"]; got != "d" {
		t.Errorf("described as %v", got)
	}
}
