// Package unwrap has DEKs and DEK seeds unwrapped as an API server's plugin would: by
// the keys of the plugin's configuration, with the plugin's own code ([Keys]), or by
// plugins that run ([Sockets]).
package unwrap

import (
	"context"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// A Gate lets a call of KMS or of a plugin begin, when its turn has come. Its error is
// that of ctx.
type Gate func(ctx context.Context) error

// Serving returns the socket that an EncryptionConfiguration has for a kms entry, by its
// version and name, and "" where that is not known.
type Serving func(version, name string) string

// socketOf is the socket of a wrapped DEK's entry. A nil Serving knows none.
func (s Serving) socketOf(w verify.Wrapped) string {
	if s == nil {
		return ""
	}
	return s(w.Version, w.Provider)
}

// refusal is what a failure means for a DEK.
func refusal(e *cause.Error) *verify.Refusal {
	r := &verify.Refusal{State: stateOf(e), Code: e.Code.String(), Text: e.What() + "; " + e.Next()}
	switch e.Class() {
	case cause.Outage, cause.Overload:
		r.Again = true
	case cause.Refused, cause.Credentials, cause.BadData, cause.Cancelled, cause.Bug, cause.Node:
	}
	return r
}

func stateOf(e *cause.Error) verify.State {
	switch e.Code { //nolint:exhaustive // the class tells of the others
	case cause.KeyDisabled:
		return verify.Disabled
	case cause.KeyPendingDeletion:
		return verify.PendingDeletion
	case cause.KeyPendingImport:
		return verify.PendingImport
	case cause.KeyNotFound:
		return verify.NotFound
	case cause.KeyUnavailable:
		return verify.Unavailable
	case cause.NoKeyMadeIt:
		return verify.NotListed
	case cause.ForeignKey:
		return verify.Foreign
	default:
	}
	switch e.Class() {
	case cause.Refused:
		return verify.Denied
	case cause.BadData:
		return verify.Damaged
	case cause.Outage, cause.Credentials, cause.Overload, cause.Cancelled, cause.Node:
		return verify.Unreachable
	case cause.Bug:
	}
	return verify.Unknown
}

// worst is the refusal that says most, of several that were asked: one that may pass
// leaves it open whether the DEK can be opened, and a key that did not make it says
// nothing of the one that did.
func worst(all []*verify.Refusal) *verify.Refusal {
	rank := func(r *verify.Refusal) int {
		switch {
		case !r.State.Refuses():
			return 0
		case r.State == verify.NotListed, r.State == verify.Foreign:
			return 2
		}
		return 1
	}
	return slices.MinFunc(all, func(a, b *verify.Refusal) int { return rank(a) - rank(b) })
}

// keyIn is the ARN of a key at the beginning of a text, "" where there is none.
func keyIn(text string) keyref.ARN {
	word, _, _ := strings.Cut(strings.TrimLeft(text, " '\""), " ")
	word = strings.TrimRight(word, ":,.'\"")
	if ref, err := keyref.Parse(word); err != nil || !ref.IsARN() || ref.IsAlias() {
		return ""
	}
	return keyref.ARN(word)
}
