package keyring

import (
	"context"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// maxLearned bounds the earlier keys of an alias that are remembered. More are
// read all the same, by an unpinned Decrypt each time.
const maxLearned = 256

// A Stored DEK is what kube-apiserver read out of etcd. All of it may be chosen
// by whoever can write there.
type Stored struct {
	Ciphertext  []byte
	KeyID       string // "" with KMS v1
	Annotations map[string][]byte
	Bare        bool // the predecessor's bare blobs count: KMS v1
}

// Decrypt unwraps a stored DEK with the configured key that made it. Errors are
// [cause.Error]s; bad data is said only when every key that may read answered
// so, and is then remembered for a minute.
func (p *Provider) Decrypt(ctx context.Context, s Stored) (secret.Bytes, error) {
	blob, err := seal.Blob(s.Ciphertext, s.Bare)
	if err != nil {
		return nil, p.named(err)
	}
	if known := p.bad.recall(blob); known != nil {
		return nil, known
	}
	ctx, cancel := awskms.WithLimit(ctx, p.opts.Timeout)
	defer cancel()
	plaintext, refusal := p.open(ctx, blob, s)
	if refusal == nil {
		return plaintext, nil
	}
	err = p.named(refusal)
	if refusal.Class() == cause.BadData {
		p.bad.remember(blob, cause.Of(err))
	}
	return nil, err
}

func (p *Provider) open(ctx context.Context, blob []byte, s Stored) (secret.Bytes, *cause.Error) {
	chosen, others := p.candidates(s)
	plaintext, refusals := p.openWithAny(ctx, chosen, blob)
	if plaintext != nil {
		return plaintext, nil
	}
	// A key that is named and cannot be asked leaves nothing for the others to find.
	if worst := cause.Worst(refusals); worst == nil || worst.Class() == cause.BadData {
		plaintext, more := p.openWithAny(ctx, others, blob)
		if plaintext != nil {
			return plaintext, nil
		}
		refusals = append(refusals, more...)
	}
	if p.aliasMayHaveMoved(refusals) {
		plaintext, refusal := p.openMoved(ctx, blob)
		if refusal == nil {
			return plaintext, nil
		}
		refusals = append(refusals, refusal)
	}
	return nil, summary(refusals, s)
}

// openWithAny tries keys in turn. Each has an equal share of the time that is
// left: one that hangs must not use up the time of one that works.
func (p *Provider) openWithAny(ctx context.Context, keys []*key, blob []byte) (secret.Bytes, []*cause.Error) {
	var refusals []*cause.Error
	for i, k := range keys {
		opened, err := k.kms.Decrypt(awskms.Share(ctx, len(keys)-i), k.address(), blob)
		p.tell(ctx, k, decrypt, err, false)
		if err == nil {
			p.resolve(ctx, k, opened.KeyARN)
			p.remember(k)
			return opened.Plaintext, nil
		}
		refusals = append(refusals, cause.Of(err))
	}
	return nil, refusals
}

// remember makes k the key that is tried first.
func (p *Provider) remember(k *key) {
	if p.lastWorked.Load() != k {
		p.lastWorked.Store(k)
	}
}

// candidates returns the keys that key_id and annotations choose, and the
// others, each in the order in which they are tried: what last worked first,
// what fails at the moment last. Of an alias's earlier keys only those count
// that are chosen or worked last: an unpinned Decrypt finds the others sooner.
func (p *Provider) candidates(s Stored) (chosen, others []*key) {
	learned := *p.learned.Load()
	all := make([]*key, 0, 1+len(p.read)+len(learned))
	all = append(all, p.write)
	all = append(all, p.read...)
	configured := len(all)
	all = append(all, learned...)
	if len(all) == 1 {
		return nil, all
	}
	last := p.lastWorked.Load()
	noted := string(s.Annotations[AnnotationKeyARN])
	for i, k := range all {
		switch {
		case k.is(s.KeyID) || k.is(noted):
			chosen = append(chosen, k)
		case i < configured || k == last:
			others = append(others, k)
		}
	}
	for _, keys := range [][]*key{chosen, others} {
		slices.SortStableFunc(keys, func(a, b *key) int { return preference(a, last) - preference(b, last) })
	}
	return chosen, others
}

func preference(k, last *key) int {
	switch {
	case k.record.verdict().suspect:
		return 2
	case k == last:
		return 0
	}
	return 1
}

// aliasMayHaveMoved says whether the ciphertext may be of an earlier key of the
// alias that --key names: the predecessor never pinned, so its users could move
// an alias and still read.
func (p *Provider) aliasMayHaveMoved(refusals []*cause.Error) bool {
	if !p.write.ref.IsAlias() {
		return false
	}
	return slices.ContainsFunc(refusals, func(e *cause.Error) bool {
		return e.Code == cause.NoKeyMadeIt && (e.Key == p.write.name || e.Key == p.write.address())
	})
}

// openMoved lets KMS choose the key, once, and takes the answer only from a key
// of the same partition, account and Region as the alias.
func (p *Provider) openMoved(ctx context.Context, blob []byte) (secret.Bytes, *cause.Error) {
	home, err := keyref.Parse(p.write.address())
	if err != nil || !home.IsARN() {
		return nil, &cause.Error{Code: cause.NoContact, Op: "Decrypt", Key: p.write.name}
	}
	opened, err := p.write.kms.Decrypt(ctx, "", blob)
	if err != nil {
		return nil, unpinnedRefusal(cause.Of(err))
	}
	ref, err := keyref.Parse(opened.KeyARN)
	if err != nil || !home.SameHome(ref) {
		opened.Plaintext.Clear()
		return nil, &cause.Error{Code: cause.ForeignKey, Op: "Decrypt", Key: opened.KeyARN, RequestID: opened.RequestID}
	}
	p.learn(ctx, opened.KeyARN)
	return opened.Plaintext, nil
}

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

// learn makes an earlier key of the alias a read key for the life of the
// process, and the one that worked last.
func (p *Provider) learn(ctx context.Context, arn string) {
	for {
		old := p.learned.Load()
		if i := slices.IndexFunc(*old, func(k *key) bool { return k.name == arn }); i >= 0 {
			p.remember((*old)[i])
			return
		}
		if len(*old) == maxLearned {
			return
		}
		k := newKey(KeyConfig{Name: arn, KMS: p.write.kms})
		next := append(slices.Clone(*old), k)
		if p.learned.CompareAndSwap(old, &next) {
			p.remember(k)
			p.log.WarnContext(ctx, "data of an earlier key of the alias was read: list it with --decrypt-key, so that reading does not depend on the alias",
				"key", p.write.name, "key_arn", p.write.address(), "decrypt_key", arn)
			return
		}
	}
}

// summary is the one error of a read that no key could serve.
func summary(refusals []*cause.Error, s Stored) *cause.Error {
	worst := cause.Worst(refusals)
	if worst.Class() != cause.BadData {
		return worst
	}
	none := *worst
	none.Key = ""
	for _, e := range refusals {
		if e.Note != "" {
			none.Note = e.Note
		}
		// A key that made the ciphertext and cannot open it knows more than those that did not make it.
		if e.Code != cause.NoKeyMadeIt {
			return e
		}
		switch {
		case none.Key == "":
			none.Key = e.Key
		case e.Key != "":
			none.AlsoTried = append(none.AlsoTried, e.Key)
		}
	}
	if noted := s.Annotations[AnnotationKeyARN]; len(noted) > 0 {
		none.Note = strings.TrimSuffix("its annotations name "+cause.Quote(string(noted))+"; "+none.Note, "; ")
	}
	return &none
}
