package keyring

import (
	"context"
	"slices"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// maxEarlier bounds the earlier keys of an alias that are remembered. More are
// read all the same, by an unpinned Decrypt each time.
const maxEarlier = 256

// movedAliases returns the aliases of which the ciphertext may be an earlier
// key's: the predecessor never pinned, so its users could move an alias and still
// read. A refusal of the key that an alias names now says nothing of those.
func (p *Provider) movedAliases(refusals []refusal) []*Key {
	var moved []*Key
	for _, k := range p.keys {
		if k.ref.IsAlias() && slices.ContainsFunc(refusals, func(r refusal) bool {
			return (r.err.Code == cause.NoKeyMadeIt || r.err.Class() == cause.Refused) && k.names(r.key)
		}) {
			moved = append(moved, k)
		}
	}
	return moved
}

// names reports whether a key is the alias, or one that the alias named before.
func (k *Key) names(other *Key) bool {
	return k == other || slices.Contains(*k.earlier.Load(), other)
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
		return nil, unpinnedRefusal(cause.Of(err), alias.config.Name)
	}
	ref, err := keyref.Parse(opened.KeyARN)
	if err != nil || !home.SameHome(ref) {
		opened.Plaintext.Clear()
		return nil, &cause.Error{Code: cause.ForeignKey, Op: "Decrypt", Key: opened.KeyARN, RequestID: opened.RequestID}
	}
	earlier, isNew := alias.learn(opened.KeyARN)
	if earlier != nil {
		p.tell(ctx, earlier, evidence.Decrypt, nil)
		p.heard(ctx, earlier, blob, opened.KeyARN, nil)
		p.lastWorked.note(earlier, turn)
	}
	if isNew {
		p.log.WarnContext(ctx, "data of an earlier key of the alias was read: "+adviceForEarlier,
			"key", alias.config.Name, "key_arn", alias.address(), "decrypt_key", opened.KeyARN)
	}
	return opened.Plaintext, nil
}

// home returns whose keys an alias may have named. An alias without account and
// Region, none of whose own data was read yet, is resolved by an Encrypt: KMS has
// no other answer that every user of a key may ask for. Where KMS refuses that, it
// is not asked again for some seconds, whatever data comes.
func (p *Provider) home(ctx context.Context, alias *Key) (keyref.Ref, *cause.Error) {
	if ref, err := keyref.Parse(alias.address()); err == nil && ref.IsARN() {
		return ref, nil
	}
	if alias.sight.Load() == nil {
		if refusal := p.resolveByEncrypt(ctx, alias); refusal != nil {
			return keyref.Ref{}, refusal
		}
	}
	ref, err := keyref.Parse(alias.address())
	if err != nil || !ref.IsARN() { // KMS is not AWS's
		return keyref.Ref{}, &cause.Error{Code: cause.NoKeyMadeIt, Op: "Decrypt", Key: alias.config.Name}
	}
	return ref, nil
}

// resolveByEncrypt learns from an Encrypt what an alias stands for.
func (p *Provider) resolveByEncrypt(ctx context.Context, alias *Key) *cause.Error {
	if known := alias.unresolved.Load(); known != nil && time.Now().Before(known.until) {
		return known.err
	}
	sealed, err := direct(ctx, alias.config.KMS, alias.address(), randomBytes())
	p.tell(ctx, alias, evidence.Encrypt, err)
	if err != nil {
		e := *cause.Of(err)
		e.Note = "to read what its earlier keys made, the alias has to be resolved: with its ARN in its place (arn:aws:kms:REGION:ACCOUNT:" + alias.ref.Alias + ") no Encrypt is needed"
		if e.Class() == cause.Refused {
			alias.unresolved.Store(&badEntry{&e, time.Now().Add(deniedFor)})
		}
		return &e
	}
	alias.resolve(sealed.KeyARN)
	return nil
}

// adviceForEarlier says what an operator should do about a key that is only known
// because an alias once named it.
const adviceForEarlier = "list it among the keys that read (--decrypt-key, or below in the file), so that reading does not depend on the alias"

// unpinnedRefusal adds to a refusal of the unpinned Decrypt what it is about. KMS
// tells a caller who may not use a key nothing of whose key it is, or whether there
// is one ("The ciphertext refers to a customer master key that does not exist, does
// not exist in this region, or you are not allowed to access"), and a key that was
// just made, or a replica, is not found for a while. So it does not prove that the
// data is bad, and whoever reads "bad data" may delete it. It says nothing about a
// configured key either, and no record hears of it.
//
// https://github.com/kubernetes-sigs/aws-encryption-provider/pull/91
// https://docs.aws.amazon.com/kms/latest/developerguide/programming-eventual-consistency.html
// https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/3926-handling-undecryptable-resources
func unpinnedRefusal(e *cause.Error, alias string) *cause.Error {
	if e.Class() != cause.Refused {
		return e
	}
	told := *e
	told.Note = "KMS was asked without a key, since an earlier key of " + alias + " may have made the ciphertext: if one did, " +
		adviceForEarlier + "; if no key of yours did, somebody wrote this object into etcd"
	return &told
}
