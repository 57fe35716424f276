package keyref

import "strings"

// An ARN is what KMS calls the key that answered it: that key, in one Region. Of a KMS
// that is not AWS's it is whatever that calls its key; "" is no key.
//
// Form: https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN
type ARN string

// An ID is what key_ids call a key. All replicas of a multi-Region key have one: their
// ARN with the Region left out. Every other key has its ARN; "" is no key.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-overview.html
type ID string

// ID returns what key_ids call the key.
func (a ARN) ID() ID {
	if ref, err := Parse(string(a)); err == nil {
		return ref.ID()
	}
	return ID(a)
}

// Region returns the Region that the ARN names, "" where KMS is not AWS's.
func (a ARN) Region() string {
	ref, _ := Parse(string(a))
	return ref.Region
}

// InRegionOf returns the ARN of this key in the Region of another one, "" where it has
// none there. Only a multi-Region key can be in two, and nobody is asked whether it is.
func (a ARN) InRegionOf(other ARN) ARN {
	ref, err := Parse(string(a))
	there, otherErr := Parse(string(other))
	if err != nil || otherErr != nil || ref.Region == there.Region {
		return a
	}
	if !ref.isMultiRegion() {
		return ""
	}
	ref.Region = there.Region
	return ARN(ref.String())
}

// ID returns what key_ids call a key whose ARN this is.
func (r Ref) ID() ID {
	if r.isMultiRegion() {
		r.Region = ""
	}
	return ID(r.String())
}

func (r Ref) isMultiRegion() bool { return strings.HasPrefix(r.Key, "mrk-") }
