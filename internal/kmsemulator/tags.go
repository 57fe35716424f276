package kmsemulator

import (
	"slices"
	"strings"
)

// maxTags is how many a key may have.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/tagging-keys.html
const maxTags = 50

// A tag is a key's label. KMS tells "" from no value.
type tag struct{ TagKey, TagValue string }

// A sentTag is a tag as a request has it.
type sentTag struct{ TagKey, TagValue *string }

// sentTags are what a request gives a key for tags.
type sentTags []sentTag

func (c *checks) tags(tags sentTags) {
	for i, t := range tags {
		member := func(name string) string { return "tags." + string(appendInt(nil, int64(i+1))) + ".member." + name }
		if c.required(member("tagKey"), t.TagKey != nil) {
			c.text(member("tagKey"), t.TagKey, 1, 128)
		}
		if c.required(member("tagValue"), t.TagValue != nil) {
			c.text(member("tagValue"), t.TagValue, 0, 256)
		}
	}
}

func (c *checks) tagKeys(keys []string) {
	for i := range keys {
		var each checks
		if each.text("", &keys[i], 1, 128); len(each.failed) > 0 {
			c.fail(quoted("["+strings.Join(keys, ", ")+"]"), "tagKeys",
				"Member must satisfy constraint: [Member must have length less than or equal to 128, Member must have length greater than or equal to 1]")
			return
		}
	}
}

// read refuses tags that no key can have, once their form is checked.
func (tags sentTags) read() ([]tag, error) {
	if len(tags) > maxTags {
		return nil, tooManyTags()
	}
	var read []tag
	seen := make(map[string]bool)
	for _, t := range tags {
		if err := reserved(*t.TagKey); err != nil {
			return nil, err
		}
		if seen[*t.TagKey] {
			return nil, refuse("TagException", "Duplicate tag keys")
		}
		seen[*t.TagKey] = true
		read = append(read, tag{*t.TagKey, *t.TagValue})
	}
	return read, nil
}

func tooManyTags() error { return refuse("TagException", "Too many tags") }

func reserved(key string) error {
	if strings.HasPrefix(strings.ToLower(key), "aws:") {
		return refuse("TagException", "Tags beginning with aws: are reserved")
	}
	return nil
}

func tagResource(c *call) (any, error) {
	var in struct {
		KeyId *string
		Tags  sentTags
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	if ch.required("tags", in.Tags != nil) {
		ch.tags(in.Tags)
	}
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "TagResource"); err != nil {
		return nil, err
	}
	tags, err := in.Tags.read()
	if err != nil {
		return nil, err
	}
	return nil, c.changeKey(k, func(w *world) error { return w.tag(k.ref, tags) })
}

// tag adds tags to a key, in the place of those of the same names.
func (w *world) tag(ref keyRef, tags []tag) error {
	k := w.keys[ref]
	if err := labelable(k); err != nil {
		return err
	}
	all := slices.DeleteFunc(slices.Clone(k.tags), func(old tag) bool {
		return slices.ContainsFunc(tags, func(t tag) bool { return t.TagKey == old.TagKey })
	})
	all = append(all, tags...)
	if len(all) > maxTags {
		return tooManyTags()
	}
	w.editKey(ref).tags = all
	return nil
}

// labelable reports whether a key's state lets tags and its description change.
func labelable(k *key) error {
	switch k.state {
	case pendingDeletion, pendingReplicaDeletion:
		return stateError(k)
	}
	return nil
}

// untagResource passes over names that the key does not have, as KMS does.
func untagResource(c *call) (any, error) {
	var in struct {
		KeyId   *string
		TagKeys []string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	if ch.required("tagKeys", in.TagKeys != nil) {
		ch.tagKeys(in.TagKeys)
	}
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "UntagResource"); err != nil {
		return nil, err
	}
	for _, name := range in.TagKeys {
		if err := reserved(name); err != nil {
			return nil, err
		}
	}
	return nil, c.changeKey(k, func(w *world) error {
		if err := labelable(w.keys[k.ref]); err != nil {
			return err
		}
		edited := w.editKey(k.ref)
		edited.tags = slices.DeleteFunc(slices.Clone(edited.tags), func(t tag) bool { return slices.Contains(in.TagKeys, t.TagKey) })
		return nil
	})
}

func listResourceTags(c *call) (any, error) {
	k, limit, marker, err := c.listing(50)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "ListResourceTags"); err != nil {
		return nil, err
	}
	all := slices.Clone(k.tags)
	slices.SortFunc(all, func(a, b tag) int { return strings.Compare(a.TagKey, b.TagKey) })
	part, next, err := page(all, limit, marker, 50, func(t tag) string { return t.TagKey })
	if err != nil {
		return nil, err
	}
	return struct {
		NextMarker string `json:",omitempty"`
		Tags       []tag
		Truncated  bool
	}{next, part, next != ""}, nil
}

// describeTags fills in the condition keys of tags: those that the key has, nil
// for one to come, and those that the request names.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/tag-authorization.html
func (c *call) describeTags(keys map[string][]string, k *key) {
	if k != nil {
		for _, t := range k.tags {
			keys["aws:ResourceTag/"+t.TagKey] = []string{t.TagValue}
		}
	}
	var in struct {
		Tags    sentTags
		TagKeys []string
	}
	if err := c.params.decode(&in); err != nil {
		return // the operation has refused it
	}
	names := in.TagKeys
	for _, t := range in.Tags {
		if t.TagKey != nil && t.TagValue != nil {
			keys["aws:RequestTag/"+*t.TagKey] = []string{*t.TagValue}
			names = append(names, *t.TagKey)
		}
	}
	if len(names) > 0 {
		keys["aws:TagKeys"] = names
	}
}

func updateKeyDescription(c *call) (any, error) {
	var in struct{ Description, KeyId *string }
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	if ch.required("description", in.Description != nil) {
		ch.text("description", in.Description, 0, maxDescription)
	}
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "UpdateKeyDescription"); err != nil {
		return nil, err
	}
	return nil, c.changeKey(k, func(w *world) error {
		if err := labelable(w.keys[k.ref]); err != nil {
			return err
		}
		w.editKey(k.ref).description = *in.Description
		return nil
	})
}
