package doctor

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// A named is a key of this configuration, and what KMS calls it.
type named struct {
	name    string    // to be shown: the ARN, or how it was configured where that is not known
	id      keyref.ID // "": not known
	context string    // [keyref.ContextHash]
	as      string    // how it was configured
	refused string    // the code by which KMS refuses it; "": it does not
}

// A comparison is of one provider of this configuration with what serves its socket.
type comparison struct {
	provider config.Provider
	file     bool // of a file, which a running plugin takes over by itself
	same     bool // it is the very file that runs
	keys     []named
	runs     keyref.State
	served   *inquiry.Served // nil: the health port tells nothing of it
}

// A difference is what was seen, and what to do. The zero value is none.
type difference struct{ text, seen, next string }

// keysOf are the keys of a provider in order.
func (x *examination) keysOf(p config.Provider) []named {
	var keys []named
	for _, k := range x.keys {
		if k.provider.Name != p.Name {
			continue
		}
		n := named{name: k.key.Key, as: k.key.Key, context: keyref.ContextHash(k.key.EncryptionContext)}
		if k.failure != nil && k.failure.err.Class() == cause.Refused {
			n.refused = k.failure.err.Code.String()
		}
		arn := k.arn
		if arn == "" { // the call failed: an ARN still says which key is meant
			arn = keyref.ARN(k.key.Key)
		}
		if ref, err := keyref.Parse(string(arn)); err == nil && ref.IsARN() && !ref.IsAlias() {
			n.name, n.id = string(arn), ref.ID()
		}
		keys = append(keys, n)
	}
	return keys
}

func (x *examination) writeKey(p config.Provider) named { return x.keysOf(p)[0] }

func (x *examination) comparison(p config.Provider, keyID string, process *inquiry.Process, served *inquiry.Served) comparison {
	c := comparison{provider: p, file: x.Config.File != "", keys: x.keysOf(p), runs: keyref.ParseState(keyID), served: served}
	c.same = served != nil && x.Config.Hash != "" && process.Hash == x.Config.Hash
	if c.runs.Key == "" && served != nil { // Status is an error, which names no key_id
		c.runs.Key, c.runs.Context = keyref.ARN(served.Writes).ID(), c.keys[0].context
	}
	return c
}

// mayBeMistaken reports whether KMS's refusal may mean that another key is meant: a name
// that KMS does not know, or one that does not say which key it is.
func (n named) mayBeMistaken() bool {
	return n.refused == cause.KeyNotFound.String() || n.refused != "" && !strings.HasPrefix(n.as, "arn:")
}

// is reports whether a configured key is meant by a name.
func (n named) is(name string) bool {
	return n.as == name || n.id != "" && n.id == keyref.ARN(name).ID()
}

// tell adds what differs.
func (c comparison) tell(g *Group) {
	if d := c.written(); d.text != "" {
		g.advise(PluginOther, d.text, d.seen, d.next)
	} else if want := c.keys[0]; want.refused != "" && want.id != c.runs.Key {
		g.skipped(fmt.Sprintf("%s: whether it writes with %s is not compared, because of %s", c.provider.Listen, want.name, want.refused))
	}
	c.lacking(g)
}

// written says how what this configuration writes with differs from what runs.
func (c comparison) written() difference {
	if c.same || c.runs.Key == "" {
		return difference{}
	}
	want := c.keys[0]
	sameKey := want.id == c.runs.Key || c.served != nil && want.id == "" && want.as == c.served.Writes
	switch {
	case want.id == "" && !sameKey: // an alias or key id that KMS does not resolve just now
		return difference{}
	case !sameKey && want.mayBeMistaken(): // that comes first
		return difference{}
	case !sameKey:
		return c.otherKey(want)
	case want.context != c.runs.Context:
		return c.otherContext(want)
	case c.provider.Epoch != c.runs.Epoch:
		return c.otherEpoch()
	}
	return difference{}
}

func (c comparison) otherKey(want named) difference {
	listen := c.provider.Listen
	d := difference{
		text: listen + ": this configuration writes with another key than the plugin that runs",
		seen: fmt.Sprintf("it writes with %s, this configuration with %s", c.runs.Key, want.name),
	}
	if want.context != c.runs.Context {
		d.seen += ", and with another encryption context"
	}
	switch {
	case c.served != nil && c.served.Writes == want.as && want.context == c.runs.Context:
		d.text = listen + ": the alias names another key now than the one that the plugin writes with"
		d.next = fmt.Sprintf("restart nothing: a plugin follows its alias by itself within two minutes. Add %s below on all nodes at once, as a read key, so that each reads what the others write; change no key while KMS does not answer", want.name)
	case c.reads(want):
		d.seen += ", which it reads with already"
		d.next = fmt.Sprintf("first see that every other node lists %s too (/readyz?verbose there has \"key %[1]s reads\"); then move it to the top on one node after the other%s, with %s below it; not while KMS does not answer", want.name, c.byFlags(want), c.runs.Key)
	default:
		d.next = c.notYet(want.name)
	}
	return d
}

func (c comparison) otherContext(want named) difference {
	name := want.name + " with the new encryption context"
	d := difference{
		text: c.provider.Listen + ": this configuration writes with another encryption context than the plugin that runs",
		seen: "its encryption context is another one",
		next: c.notYet(name),
	}
	if c.served != nil && slices.ContainsFunc(c.served.Reads, want.is) { // perhaps with this context: nobody tells
		d.next = fmt.Sprintf("where not every node lists %s below yet: %s", name, d.next)
	}
	return d
}

// notYet is what to do before this configuration, on any node.
func (c comparison) notYet(name string) string {
	next := fmt.Sprintf("do not run this configuration on this node yet: the other nodes cannot read what it writes. First add %s below on all nodes, as a read key; then move it to the top on one node after the other", name)
	if !c.keeps() {
		next += fmt.Sprintf(", and keep the key with which the plugin writes now, %s, below it", c.runs.Key)
	}
	if !c.file {
		next += "; with flags, --decrypt-key is the key below, and another encryption context needs a file"
	}
	return next + ". Restart nothing and change no key while KMS does not answer. The steps are in docs/rotation.md, \"A new key\""
}

func (c comparison) byFlags(want named) string {
	if c.file {
		return ""
	}
	return fmt.Sprintf(" (--key=%s --decrypt-key=%s)", want.as, c.runs.Key)
}

// keeps reports whether this configuration lists the key with which the plugin writes.
func (c comparison) keeps() bool {
	return slices.ContainsFunc(c.keys, func(n named) bool { return n.id == c.runs.Key && n.context == c.runs.Context })
}

// reads reports whether the running plugin lists a key. With which encryption context it
// does, nobody tells: of the key that writes it needs a second entry.
func (c comparison) reads(want named) bool {
	return c.served != nil && want.context == c.runs.Context && slices.ContainsFunc(c.served.Reads, want.is)
}

func (c comparison) otherEpoch() difference {
	d := difference{
		text: c.provider.Listen + ": this configuration has another epoch than the plugin that runs",
		seen: fmt.Sprintf("it has epoch %d, this configuration %d", c.runs.Epoch, c.provider.Epoch),
		next: "take it over on one node after the other, and soon on all: each reads what the others write meanwhile; not while KMS does not answer. The steps are in docs/rotation.md, \"A new DEK seed on request\"",
	}
	if c.provider.Epoch < c.runs.Epoch {
		d.next = fmt.Sprintf("keep epoch %d, or raise it on one node after the other while KMS answers: with a lower one the key_id is one that was there before, and API servers take what they wrote under it for fresh", c.runs.Epoch)
	}
	return d
}

// lacking tells of keys that the plugin reads with and this configuration does not
// list. The key with which it writes is told by [comparison.written].
func (c comparison) lacking(g *Group) {
	if c.served == nil || c.same {
		return
	}
	left := slices.Clone(c.keys)
	take := func(name string) bool {
		i := slices.IndexFunc(left, func(n named) bool { return n.is(name) })
		if i >= 0 {
			left = slices.Delete(left, i, i+1)
		}
		return i >= 0
	}
	take(c.served.Writes)
	var lacks []string
	for _, name := range c.served.Reads {
		if !take(name) {
			lacks = append(lacks, name)
		}
	}
	if len(lacks) > 0 {
		g.found(KeyLacking, c.provider.Listen+": this configuration lacks a key with which the plugin reads", strings.Join(lacks, ", "))
	}
}
