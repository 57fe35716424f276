package keyring

import (
	"context"
	"slices"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// maxEarlier bounds the earlier keys of an alias that are remembered. More are
// read all the same, by an unpinned Decrypt each time.
const maxEarlier = 256

// movedAliases returns the aliases of which the ciphertext may be an earlier
// key's: the predecessor never pinned, so its users could move an alias and still
// read. That the key which an alias names now is refused says nothing of those.
func (p *Provider) movedAliases(refusals []*cause.Error) []*Key {
	var moved []*Key
	for _, k := range p.keys {
		if k.ref.IsAlias() && slices.ContainsFunc(refusals, func(e *cause.Error) bool {
			return (e.Code == cause.NoKeyMadeIt || e.Class() == cause.Refused) && k.asked(e.Key)
		}) {
			moved = append(moved, k)
		}
	}
	return moved
}

// asked says whether a call that went to a name was one to the key, also one that
// began before an alias was followed.
func (k *Key) asked(name string) bool {
	return name == k.config.Name || name == k.address() ||
		slices.ContainsFunc(*k.earlier.Load(), func(e *Key) bool { return e.config.Name == name })
}

// openMoved lets KMS choose the key, once, and takes the answer only from a key
// of the same partition, account and Region as the alias.
func (p *Provider) openMoved(ctx context.Context, turn uint64, alias *Key, blob []byte) (secret.Bytes, *cause.Error) {
	home, refusal := p.home(ctx, alias)
	if refusal != nil {
		return nil, refusal
	}
	opened, err := alias.config.KMS.Decrypt(ctx, "", blob)
	if err != nil {
		return nil, unpinnedRefusal(cause.Of(err))
	}
	ref, err := keyref.Parse(opened.KeyARN)
	if err != nil || !home.SameHome(ref) {
		opened.Plaintext.Clear()
		return nil, &cause.Error{Code: cause.ForeignKey, Op: "Decrypt", Key: opened.KeyARN, RequestID: opened.RequestID}
	}
	earlier, isNew := alias.learn(opened.KeyARN)
	if earlier != nil {
		p.tell(ctx, earlier, decrypt, nil, false)
		p.heard(ctx, earlier, blob, opened.KeyARN, nil)
		p.remember(earlier, turn)
	}
	if isNew {
		p.log.WarnContext(ctx, "data of an earlier key of the alias was read: "+adviceForEarlier,
			"key", alias.config.Name, "key_arn", alias.address(), "decrypt_key", opened.KeyARN)
	}
	return opened.Plaintext, nil
}

// home returns whose keys an alias may have named. An alias without account and
// Region, none of whose own data was read yet, is resolved by an Encrypt: KMS has
// no other answer that every user of a key may ask for.
func (p *Provider) home(ctx context.Context, alias *Key) (keyref.Ref, *cause.Error) {
	if ref, err := keyref.Parse(alias.address()); err == nil && ref.IsARN() {
		return ref, nil
	}
	sealed, err := seal.Direct(ctx, alias.config.KMS, alias.address(), randomBytes())
	p.tell(ctx, alias, encrypt, err, false)
	if err != nil {
		e := *cause.Of(err)
		e.Note = "to read what its earlier keys made, the alias has to be resolved: with its ARN in its place (arn:aws:kms:REGION:ACCOUNT:" + alias.ref.Alias + ") no Encrypt is needed"
		return keyref.Ref{}, &e
	}
	alias.resolve(sealed.KeyARN)
	ref, err := keyref.Parse(sealed.KeyARN)
	if err != nil || !ref.IsARN() { // KMS is not AWS's
		return keyref.Ref{}, &cause.Error{Code: cause.NoKeyMadeIt, Op: "Decrypt", Key: alias.config.Name}
	}
	return ref, nil
}

// adviceForEarlier says what an operator should do about a key that is only known
// because an alias once named it.
const adviceForEarlier = "list it among the keys that read (--decrypt-key, or below in the file), so that reading does not depend on the alias"

// unpinnedRefusal reads an unpinned Decrypt's failure. That the caller may not
// use a key it did not name, or that it is not there, says whose blob it is and
// nothing about a configured key: no key that may read made it. What KMS said is
// kept, for the case that the key is the operator's own.
func unpinnedRefusal(e *cause.Error) *cause.Error {
	if e.Code != cause.AccessDenied && e.Code != cause.KeyNotFound {
		return e
	}
	note := "asked without a key, KMS says " + e.AWSCode + " " + cause.Quote(e.Said) + ": if it is an earlier key of the alias, kms:Decrypt has to be granted on it"
	return &cause.Error{Code: cause.NoKeyMadeIt, Op: e.Op, Note: note}
}
