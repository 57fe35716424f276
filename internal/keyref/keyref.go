// Package keyref reads the names that a KMS key goes by: a key ARN, a key id,
// an alias ARN, or alias/name.
//
// Forms: https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id
package keyref

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	partitionForm = regexp.MustCompile(`^aws[a-z0-9-]*$`)
	accountForm   = regexp.MustCompile(`^[0-9]{12}$`)
	resourceForm  = regexp.MustCompile(`^[A-Za-z0-9-]+$`)
	aliasForm     = regexp.MustCompile(`^alias/[A-Za-z0-9/_-]+$`)
	keyIDForm     = regexp.MustCompile(`^(mrk-[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$`)
	regionForm    = regexp.MustCompile(`^[a-z]{2,8}(-[a-z0-9]{1,16}){1,4}$`)
)

// Most bytes of a key id and of an alias. They are counted apart: an expression that counts
// to 250 takes half a megabyte, at each start of the program.
const (
	maxResource = 128
	maxAlias    = len("alias/") + 250
)

// A Ref is a parsed key name. Parts that the name does not carry are empty.
// The zero value names no key.
type Ref struct {
	Partition string // "aws", "aws-cn", "aws-us-gov"
	Region    string
	Account   string // 12 digits
	Key       string // "1234abcd-12ab-34cd-56ef-1234567890ab" or "mrk-..."
	Alias     string // "alias/name"
}

// Parse reads a key name. The error says what is wrong with it, without
// repeating it.
func Parse(name string) (Ref, error) {
	switch {
	case name == "":
		return Ref{}, errors.New("is empty: give a key ARN, a key id, an alias ARN or alias/name")
	case strings.HasPrefix(name, "arn:"):
		return parseARN(name)
	case strings.HasPrefix(name, "alias/"):
		return Ref{Alias: name}, checkAlias(name)
	case isKeyID(name):
		return Ref{Key: name}, nil
	}
	return Ref{}, errors.New("is no key ARN, key id, alias ARN or alias/name")
}

func parseARN(name string) (Ref, error) {
	parts := strings.SplitN(name, ":", 6)
	if len(parts) != 6 {
		return Ref{}, errors.New("is a broken ARN: want arn:PARTITION:kms:REGION:ACCOUNT:key/ID or ...:alias/NAME")
	}
	r := Ref{Partition: parts[1], Region: parts[3], Account: parts[4]}
	if !partitionForm.MatchString(r.Partition) {
		return Ref{}, fmt.Errorf("is an ARN of an unknown partition %q", clip(r.Partition))
	}
	if parts[2] != "kms" {
		return Ref{}, fmt.Errorf("is an ARN of service %q, not of kms", clip(parts[2]))
	}
	if !ValidRegion(r.Region) {
		return Ref{}, fmt.Errorf("is an ARN with the Region %q, which is none", clip(r.Region))
	}
	if !accountForm.MatchString(r.Account) {
		return Ref{}, fmt.Errorf("is an ARN with the account %q: want 12 digits", clip(r.Account))
	}
	resource := parts[5]
	if id, ok := strings.CutPrefix(resource, "key/"); ok {
		if len(id) > maxResource || !resourceForm.MatchString(id) {
			return Ref{}, errors.New("is an ARN without a key id after key/")
		}
		r.Key = id
		return r, nil
	}
	if strings.HasPrefix(resource, "alias/") {
		r.Alias = resource
		return r, checkAlias(resource)
	}
	return Ref{}, fmt.Errorf("is an ARN of %q: want key/ID or alias/NAME", clip(resource))
}

func checkAlias(alias string) error {
	if len(alias) > maxAlias || !aliasForm.MatchString(alias) {
		return errors.New("is an alias with characters that KMS does not take: want letters, digits, /, _ and -")
	}
	return nil
}

func isKeyID(s string) bool {
	return keyIDForm.MatchString(s)
}

// ValidRegion reports whether s has the form of an AWS Region's name.
func ValidRegion(s string) bool { return regionForm.MatchString(s) }

// PartitionOf is the partition of a Region: "aws" where its name shows no other.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
func PartitionOf(region string) string {
	for start, partition := range map[string]string{
		"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b",
		"eu-isoe-": "aws-iso-e", "us-isof-": "aws-iso-f", "eusc-": "aws-eusc",
	} {
		if strings.HasPrefix(region, start) {
			return partition
		}
	}
	return "aws"
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// IsARN reports whether the name carries partition, Region and account.
func (r Ref) IsARN() bool { return r.Partition != "" }

// IsAlias reports whether the name is an alias, which can be moved to another key.
func (r Ref) IsAlias() bool { return r.Alias != "" }

// String returns the name as KMS takes it.
func (r Ref) String() string {
	resource := r.Alias
	if r.Key != "" {
		resource = "key/" + r.Key
	}
	if !r.IsARN() {
		return strings.TrimPrefix(resource, "key/")
	}
	return "arn:" + r.Partition + ":kms:" + r.Region + ":" + r.Account + ":" + resource
}

// SameHome reports whether both are ARNs of one partition, account and Region.
func (r Ref) SameHome(other Ref) bool {
	return r.IsARN() && r.Partition == other.Partition && r.Account == other.Account && r.Region == other.Region
}
