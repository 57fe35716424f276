package unwrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/connect"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// patience bounds the work for one DEK over all keys that are tried, and all waits for a
// turn: no API server waits here.
const patience = time.Hour

// Mistakes are all that is wrong with a configuration, a line each.
type Mistakes []string //nolint:errname // a list, and called what it is

// Error returns the lines.
func (m Mistakes) Error() string { return strings.Join(m, "\n") }

// ConfigFile returns the providers of the plugin's own --config. The error is
// [Mistakes], as that of ConfigFlags.
func ConfigFile(file string) (*config.Config, error) { return parse("--config=" + file) }

// ConfigFlags returns one provider of the keys, each called as the other flags say, which
// are the plugin's own. contexts are --encryption-context, of which the n-th belongs to
// the n-th key.
func ConfigFlags(keys, contexts, others []string) (*config.Config, error) {
	if len(contexts) > len(keys) {
		return nil, Mistakes{fmt.Sprintf("--encryption-context: %d contexts and %d keys: the n-th context belongs to the n-th key", len(contexts), len(keys))}
	}
	var all *config.Config
	for i, key := range keys {
		args := append([]string{"--key=" + key}, others...)
		if i < len(contexts) {
			args = append(args, "--encryption-context="+contexts[i])
		}
		one, err := parse(args...)
		switch {
		case err != nil:
			return nil, err
		case all == nil:
			all = one
		case !slices.ContainsFunc(all.Providers[0].Keys, one.Providers[0].Keys[0].Equal):
			all.Providers[0].Keys = append(all.Providers[0].Keys, one.Providers[0].Keys...)
		}
	}
	return all, nil
}

func parse(args ...string) (*config.Config, error) {
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	cfg, err := config.NewFlags(set).Parse(args, func(string) (string, bool) { return "", false })
	if err != nil {
		return nil, Mistakes(strings.Split(err.Error(), "\n"))
	}
	return cfg, nil
}

// Keys unwrap by the plugin's own code, in this process. They implement [verify.Opener].
type Keys struct {
	providers []*provider
	serving   Serving
	gate      Gate
	conns     *awskms.Connections
	from      string
}

// A provider is one of the configuration.
type provider struct {
	listen string
	ring   *keyring.Ring
	keys   []*key
}

// A key is one of a provider, with what its answers have told.
type key struct {
	cfg    config.Key
	client *awskms.Client
	arn    atomic.Pointer[keyref.ARN] // nil: no answer has named it
}

// NewKeys returns Keys that ask for nothing yet. from says in words whose they are.
// serving, where it is not nil, tells which provider an entry is served by: the one on
// that socket. Where it tells none, all are asked.
func NewKeys(cfg *config.Config, from, version string, serving Serving, gate Gate) *Keys {
	k := &Keys{serving: serving, gate: gate, conns: awskms.NewConnections(), from: from}
	log := slog.New(slog.DiscardHandler)
	for _, p := range cfg.Providers {
		one := &provider{listen: p.Listen}
		o := keyring.Options{Caller: kmskey.Caller{Limit: patience}, Log: log}
		for _, c := range p.Keys {
			client := awskms.New(clientOptions(k.conns, p, c, cfg.KMSTimeout, version))
			own := &key{cfg: c, client: client}
			one.keys = append(one.keys, own)
			o.Keys = append(o.Keys, kmskey.New(kmskey.Config{
				Name: c.Key, Context: keyref.ContextHash(c.EncryptionContext), KMS: &watched{own, client, gate},
			}))
		}
		one.ring = keyring.New(o)
		k.providers = append(k.providers, one)
	}
	return k
}

// clientOptions are how a key is called, as the daemon calls it.
func clientOptions(conns *awskms.Connections, p config.Provider, k config.Key, timeout time.Duration, version string) awskms.Options {
	o := connect.Options(p, k)
	o.Connections, o.Timeout, o.UserAgent = conns, timeout, version
	return o
}

// Close closes the connections to KMS.
func (k *Keys) Close() {
	for _, p := range k.providers {
		for _, one := range p.keys {
			one.client.Close()
		}
	}
	k.conns.Close()
}

// String says whose keys they are.
func (k *Keys) String() string { return k.from }

// Open implements [verify.Opener].
func (k *Keys) Open(ctx context.Context, w verify.Wrapped) (verify.Unwrapped, error) {
	var refusals []*verify.Refusal
	for _, p := range k.of(w) {
		t := &tries{}
		plain, err := p.ring.Unwrap(context.WithValue(ctx, triesKey{}, t), keyring.Stored{
			Ciphertext: w.Ciphertext, KeyID: w.KeyID, Annotations: w.Annotations, Bare: w.Version == "v1",
		})
		if err == nil {
			return verify.Unwrapped{Secret: plain, Key: t.opened()}, nil
		}
		if ctx.Err() != nil {
			return verify.Unwrapped{}, ctx.Err()
		}
		r, err := k.explain(ctx, p, w, cause.Of(err), t)
		if err != nil {
			return verify.Unwrapped{}, err
		}
		refusals = append(refusals, r)
	}
	return verify.Unwrapped{}, worst(refusals)
}

// of returns the providers that may serve an entry.
func (k *Keys) of(w verify.Wrapped) []*provider {
	socket := k.serving.socketOf(w)
	i := slices.IndexFunc(k.providers, func(p *provider) bool { return socket != "" && p.listen == socket })
	if i < 0 {
		return k.providers
	}
	return k.providers[i : i+1]
}

// explain says what a failure means. The error is ctx's.
func (k *Keys) explain(ctx context.Context, p *provider, w verify.Wrapped, e *cause.Error, t *tries) (*verify.Refusal, error) {
	r := refusal(e)
	r.Keys = t.suspects()
	if e.Code == cause.ForeignKey {
		r.Made = keyref.ARN(e.Key)
		r.State, r.Text = k.notGiven(r.Made)
		return r, nil
	}
	notMade := e.Code == cause.NoKeyMadeIt || e.Code == cause.CiphertextInvalid
	if !notMade && (w.Version != "v1" || !r.State.Refuses()) {
		return r, nil
	}
	made, err := k.whose(ctx, p, w)
	switch {
	case err != nil:
		return nil, err
	case made != "" && !p.has(made):
		r.Made = made
		r.State, r.Text = k.notGiven(made)
	case made != "":
		name := string(made)
		if own := t.of(made); own.err != nil { // and not another key's refusal
			name, r = own.asked, refusal(cause.Of(own.err))
		}
		r.Keys, r.Made = []string{name}, made
	case e.Code == cause.NoKeyMadeIt:
		r.Text += "; KMS does not say which key made it: that may be deleted, or deny whoever asks"
	case !notMade:
		r.Text += "; KMS does not say which key made it, and of those that were given only " + strings.Join(r.Keys, ", ") + " may have"
	}
	return r, nil
}

// whose asks KMS which key made a DEK that none of the keys opens. What comes back is
// dropped: a key that was not given opens nothing. The error is ctx's.
func (k *Keys) whose(ctx context.Context, p *provider, w verify.Wrapped) (keyref.ARN, error) {
	blob, err := seal.Parse(w.Ciphertext, w.Version == "v1")
	if err != nil {
		return "", nil //nolint:nilerr // it is of no form that KMS knows
	}
	var asked []config.Key
	for _, one := range p.keys {
		way := one.cfg
		way.Key = ""
		if slices.ContainsFunc(asked, way.Equal) {
			continue
		}
		asked = append(asked, way)
		if err := k.gate(ctx); err != nil {
			return "", err
		}
		opened, err := one.client.Decrypt(ctx, awskms.Call{}, "", blob)
		opened.Plaintext.Clear()
		if err == nil {
			return opened.KeyARN, nil
		}
		if made := keyIn(cause.Of(err).Said); made != "" { // it is disabled, or goes
			return made, nil
		}
	}
	return "", ctx.Err()
}

// has reports whether a key, or a replica of it, is one of the provider's.
func (p *provider) has(arn keyref.ARN) bool {
	return slices.ContainsFunc(p.keys, func(k *key) bool { return k.named().ID() == arn.ID() })
}

// named is the key's ARN where it is known, else its name.
func (k *key) named() keyref.ARN {
	if arn := k.arn.Load(); arn != nil {
		return *arn
	}
	return keyref.ARN(k.cfg.Key)
}

// notGiven says what a key is that made a DEK and was not given.
func (k *Keys) notGiven(arn keyref.ARN) (verify.State, string) {
	made, _ := keyref.Parse(string(arn))
	for _, p := range k.providers {
		for _, one := range p.keys {
			if ref, err := keyref.Parse(string(one.named())); err == nil && ref.Account == made.Account {
				return verify.NotListed, "KMS says that " + string(arn) + " made it, which is not among the keys that were given; list it among those that read, on every node, and delete nothing for it"
			}
		}
	}
	return verify.Foreign, "KMS says that " + string(arn) + " made it, of account " + made.Account + ", of which no key that was given is; if it is yours, list it among those that read, on every node; if not, somebody wrote this object into etcd"
}

// Keys implements [verify.Opener].
func (k *Keys) Keys(ctx context.Context) ([]verify.Key, error) {
	var all []verify.Key
	for _, p := range k.providers {
		for _, one := range p.keys {
			if err := k.gate(ctx); err != nil {
				return nil, err
			}
			info, err := one.client.DescribeKey(ctx, one.cfg.Key)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			all = append(all, one.described(info, err))
		}
	}
	return all, nil
}

func (k *key) described(info awskms.KeyInfo, err error) verify.Key {
	out := verify.Key{Name: k.cfg.Key, ARN: info.ARN, State: verify.Unknown, Deletion: info.Deletion}
	if arn := k.arn.Load(); arn != nil && out.ARN == "" {
		out.ARN = *arn
	}
	if err != nil {
		e := cause.Of(err)
		if out.State = stateOf(e); out.State == verify.Denied {
			out.State, out.Note = verify.Unknown, "kms:DescribeKey is denied, so that only Decrypt tells"
		} else {
			if !out.State.Refuses() {
				out.Note = refusal(e).Text
			}
		}
		return out
	}
	switch info.State {
	case "Enabled", "Updating":
		out.State = verify.Enabled
	case "Disabled":
		out.State = verify.Disabled
	case "PendingDeletion", "PendingReplicaDeletion":
		out.State = verify.PendingDeletion
	case "PendingImport":
		out.State = verify.PendingImport
	case "Unavailable", "Creating":
		out.State = verify.Unavailable
	}
	return out
}

// watched is a key's way to KMS: each call waits for its turn, and tells which key
// answered, which the keyring keeps to itself.
type watched struct {
	key    *key
	client kmskey.KMS
	gate   Gate
}

// Encrypt implements [kmskey.KMS]. Only an alias without an account is ever encrypted
// with, to learn what it stands for.
func (w *watched) Encrypt(ctx context.Context, within awskms.Call, key string, plaintext secret.Bytes) (awskms.Sealed, error) {
	if err := w.gate(ctx); err != nil {
		return awskms.Sealed{}, &cause.Error{Code: cause.CallerLeft, Op: "Encrypt", Key: key}
	}
	return w.client.Encrypt(ctx, within, key, plaintext)
}

// Decrypt implements [kmskey.KMS].
func (w *watched) Decrypt(ctx context.Context, within awskms.Call, key string, blob []byte) (awskms.Opened, error) {
	if err := w.gate(ctx); err != nil {
		return awskms.Opened{}, &cause.Error{Code: cause.CallerLeft, Op: "Decrypt", Key: key}
	}
	opened, err := w.client.Decrypt(ctx, within, key, blob)
	if err == nil && key != "" {
		w.key.arn.Store(&opened.KeyARN)
	}
	if t, ok := ctx.Value(triesKey{}).(*tries); ok {
		t.add(try{asked: key, answered: opened.KeyARN, err: err})
	}
	return opened, err
}

// triesKey is the context key of [tries].
type triesKey struct{}

// tries are the calls for one DEK.
type tries struct {
	mu  sync.Mutex
	all []try
}

type try struct {
	asked    string
	answered keyref.ARN
	err      error
}

func (t *tries) add(one try) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, one)
}

// opened is the ARN of the key that opened it.
func (t *tries) opened() keyref.ARN {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, one := range t.all {
		if one.err == nil {
			return one.answered
		}
	}
	return ""
}

// of is the try with a key, or a replica of it, that failed; the zero value where there
// was none.
func (t *tries) of(arn keyref.ARN) try {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, one := range t.all {
		if one.err != nil && keyref.ARN(one.asked).ID() == arn.ID() {
			return one
		}
	}
	return try{}
}

// suspects are the keys that may have made it: those that did not say that they did not.
func (t *tries) suspects() (keys []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, one := range t.all {
		e, ok := errors.AsType[*cause.Error](one.err)
		if ok && e.Code != cause.NoKeyMadeIt && one.asked != "" && !slices.Contains(keys, one.asked) {
			keys = append(keys, one.asked)
		}
	}
	return keys
}
