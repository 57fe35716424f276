package keyring

import (
	"context"
	"slices"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// movedAliases returns the aliases of which the ciphertext may be an earlier
// key's: the predecessor never pinned, so its users could move an alias and still
// read. A refusal of the key that an alias names now says nothing of those.
func (r *Ring) movedAliases(refusals []refusal) []*kmskey.Key {
	var moved []*kmskey.Key
	for _, k := range r.opts.Keys {
		if k.IsAlias() && slices.ContainsFunc(refusals, func(f refusal) bool {
			return (f.err.Code == cause.NoKeyMadeIt || f.err.Class() == cause.Refused) && k.Names(f.key)
		}) {
			moved = append(moved, k)
		}
	}
	return moved
}

// openMoved lets KMS choose the key, once, and takes the answer only from a key
// of the same partition, account and Region as the alias.
func (r *Ring) openMoved(ctx context.Context, in read, alias *kmskey.Key) (secret.Bytes, *cause.Error) {
	home, refusal := r.home(ctx, in.caller, alias)
	if refusal != nil {
		return nil, refusal
	}
	opened, err := alias.DecryptUnpinned(ctx, in.caller, in.blob)
	if err != nil {
		return nil, unpinnedRefusal(cause.Of(err), alias.Name())
	}
	ref, err := keyref.Parse(string(opened.KeyARN))
	if err != nil || !home.SameHome(ref) {
		opened.Plaintext.Clear()
		return nil, &cause.Error{Code: cause.ForeignKey, Op: "Decrypt", Key: string(opened.KeyARN), RequestID: opened.RequestID}
	}
	earlier, isNew := alias.Learn(opened.KeyARN)
	if earlier != nil {
		earlier.Opened(ctx, in.caller, in.blob, opened.KeyARN)
		r.lastWorked.note(earlier, in.turn)
	}
	if isNew {
		r.opts.Log.WarnContext(ctx, "data of an earlier key of the alias was read: "+AdviceForEarlier,
			"key", alias.Name(), "key_arn", alias.Address(), "decrypt_key", opened.KeyARN)
	}
	return opened.Plaintext, nil
}

// home returns whose keys an alias may have named. An alias without account and
// Region, none of whose own data was read yet, is resolved by an Encrypt: KMS has
// no other answer that every user of a key may ask for. Where KMS refuses that, it
// is not asked again for some seconds, whatever data comes.
func (r *Ring) home(ctx context.Context, caller kmskey.Caller, alias *kmskey.Key) (keyref.Ref, *cause.Error) {
	if ref, err := keyref.Parse(alias.Address()); err == nil && ref.IsARN() {
		return ref, nil
	}
	if alias.Resolution() == nil {
		if refusal := alias.ResolveByEncrypt(ctx, caller, r.opts.Timing.Unresolved); refusal != nil {
			return keyref.Ref{}, refusal
		}
	}
	ref, err := keyref.Parse(alias.Address())
	if err != nil || !ref.IsARN() { // KMS is not AWS's
		return keyref.Ref{}, &cause.Error{Code: cause.NoKeyMadeIt, Op: "Decrypt", Key: alias.Name()}
	}
	return ref, nil
}

// AdviceForEarlier says what an operator should do about a key that is only known
// because an alias once named it.
const AdviceForEarlier = "list it among the keys that read (--decrypt-key, or below in the file), so that reading does not depend on the alias"

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
		AdviceForEarlier + "; if no key of yours did, somebody wrote this object into etcd"
	return &told
}
