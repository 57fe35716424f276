package kmsemulator

import "time"

// operations are the API calls that the emulator answers. Every other target
// is an UnknownOperationException, as at an endpoint that lacks it.
func operations() map[string]operation {
	return map[string]operation{
		"CancelKeyDeletion":               cancelKeyDeletion,
		"CreateAlias":                     createAlias,
		"CreateKey":                       createKey,
		"Decrypt":                         decrypt,
		"DeleteAlias":                     deleteAlias,
		"DescribeKey":                     describeKey,
		"DisableKey":                      disableKey,
		"DisableKeyRotation":              disableKeyRotation,
		"EnableKey":                       enableKey,
		"EnableKeyRotation":               enableKeyRotation,
		"Encrypt":                         encrypt,
		"GenerateDataKey":                 generateDataKey,
		"GenerateDataKeyWithoutPlaintext": generateDataKeyWithoutPlaintext,
		"GetKeyLastUsage":                 getKeyLastUsage,
		"GetKeyPolicy":                    getKeyPolicy,
		"GetKeyRotationStatus":            getKeyRotationStatus,
		"ListAliases":                     listAliases,
		"ListKeyPolicies":                 listKeyPolicies,
		"ListKeyRotations":                listKeyRotations,
		"ListKeys":                        listKeys,
		"ListResourceTags":                listResourceTags,
		"PutKeyPolicy":                    putKeyPolicy,
		"ReEncrypt":                       reEncrypt,
		"ReplicateKey":                    replicateKey,
		"RotateKeyOnDemand":               rotateKeyOnDemand,
		"ScheduleKeyDeletion":             scheduleKeyDeletion,
		"TagResource":                     tagResource,
		"UntagResource":                   untagResource,
		"UpdateAlias":                     updateAlias,
		"UpdateKeyDescription":            updateKeyDescription,
	}
}

// change applies an edit to the latest state, not to what this connection sees:
// KMS's own decisions are consistent, only reading them is not.
func (c *call) change(edit func(*world) error) error { return c.store.change(c.now, edit) }

// changeKey is change for an edit of a key, which may be gone by now.
func (c *call) changeKey(k *key, edit func(*world) error) error {
	return c.change(func(w *world) error {
		if w.keys[k.ref] == nil {
			return notFound("Key '%s' does not exist", k.arn)
		}
		return edit(w)
	})
}

// seconds is a time as KMS writes it: Unix seconds with milliseconds.
type seconds time.Time

// MarshalJSON writes a number, with a fraction only where there is one.
func (s seconds) MarshalJSON() ([]byte, error) {
	t := time.Time(s)
	ms := t.UnixMilli()
	b := make([]byte, 0, 16)
	b = appendInt(b, ms/1000)
	if frac := ms % 1000; frac != 0 {
		b = append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
	}
	return b, nil
}

// at returns t for an optional member: nil where there is no such time.
func at(t time.Time) *seconds {
	if t.IsZero() {
		return nil
	}
	s := seconds(t)
	return &s
}
