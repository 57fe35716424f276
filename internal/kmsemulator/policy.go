package kmsemulator

import (
	"slices"
	"strings"
	"sync/atomic"
)

// A policy is what Deny and Allow have said, in order.
type policy struct {
	rules atomic.Pointer[[]rule]
}

type rule struct {
	key       string // id or ARN; "": every key
	operation string // "": every operation
	deny      bool
}

// Deny makes an operation on a key answer AccessDeniedException. The key is an
// id or an ARN, "" for all; operation is KMS's name for the permission, such
// as Encrypt or ReEncryptFrom, "" or "*" for all. The last word on a key and
// operation counts.
func (e *Emulator) Deny(key, operation string) { e.policy.add(rule{key, operation, true}) }

// Allow takes back what Deny said, for the same key and operation or for fewer.
func (e *Emulator) Allow(key, operation string) { e.policy.add(rule{key, operation, false}) }

func (p *policy) add(r rule) {
	if r.operation == "*" {
		r.operation = ""
	}
	for {
		old := p.rules.Load()
		var rules []rule
		if old != nil {
			rules = slices.DeleteFunc(slices.Clone(*old), func(o rule) bool {
				return (r.key == "" || o.key == r.key) && (r.operation == "" || o.operation == r.operation)
			})
		}
		rules = append(rules, r)
		if p.rules.CompareAndSwap(old, &rules) {
			return
		}
	}
}

func (p *policy) allows(k *key, operation string) bool {
	rules := p.rules.Load()
	if rules == nil {
		return true
	}
	for _, r := range slices.Backward(*rules) {
		if r.concerns(k, operation) {
			return !r.deny
		}
	}
	return true
}

func (r rule) concerns(k *key, operation string) bool {
	if r.key != "" && (k == nil || !k.is(r.key)) {
		return false
	}
	if r.operation == "ReEncrypt" || r.operation == "ReEncrypt*" {
		return strings.HasPrefix(operation, "ReEncrypt")
	}
	return r.operation == "" || r.operation == operation
}

// is tells whether a name, an id or an ARN, is this key's.
func (k *key) is(name string) bool { return name == k.arn || name == k.ref.id }

// allowed asks what was denied, and the policies, for the permission of an
// operation on a key, nil for the operations that have none.
func (c *call) allowed(k *key, operation string) error {
	because := "because no identity-based policy allows the kms:" + operation + " action"
	if c.policy.allows(k, operation) {
		because = c.refusal(k, operation)
	}
	if because == "" && c.foreign() && !acrossAccounts(operation) {
		because = "because no resource-based policy allows the kms:" + operation + " action"
	}
	if because == "" {
		return nil
	}
	resource := "*"
	if k != nil {
		resource = k.arn
	}
	return denied(c.principal, operation, resource, because)
}

// acrossAccounts reports whether an operation is for callers of other accounts too.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-modifying-external-accounts.html
func acrossAccounts(operation string) bool {
	switch operation {
	case "Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo":
		return true
	}
	return false
}
