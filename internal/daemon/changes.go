package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// changes are what a reload did, for the log.
type changes struct {
	added, removed, changed, carried []string // names of providers
	warnings                         []string
}

func compare(before, next *generation) changes {
	c := changes{added: []string{}, removed: []string{}, changed: []string{}, carried: []string{}} // which a log shows as [], not null
	for _, s := range next.providers {
		old := before.named(s.cfg.Name)
		switch {
		case old == nil:
			c.added = append(c.added, s.cfg.Name)
		case old.instance == s.instance && old.at == s.at:
			c.carried = append(c.carried, s.cfg.Name)
		default:
			c.changed = append(c.changed, s.cfg.Name)
		}
		if old = before.before(next.cfg, s.cfg); old != nil {
			c.warnings = append(c.warnings, adviceOnKeys(old.cfg, s.cfg)...)
		}
	}
	for _, s := range before.providers {
		if next.named(s.cfg.Name) == nil {
			c.removed = append(c.removed, s.cfg.Name)
		}
	}
	return c
}

// adviceOnKeys warns of steps that a fleet of nodes should not take at once.
func adviceOnKeys(old, next config.Provider) []string {
	var advice []string
	first := next.Keys[0]
	if !slices.ContainsFunc(old.Keys, func(k config.Key) bool { return readsTheSame(k, first) }) {
		advice = append(advice, fmt.Sprintf(
			"provider %s writes with %s from now on, which was not among its keys before: nodes that do not list it yet cannot read what this one writes; "+
				"add a key below the others on all nodes first, then move it to the top on all", next.Name, called(first)))
	}
	if !slices.ContainsFunc(next.Keys, func(k config.Key) bool { return readsTheSame(k, old.Keys[0]) }) {
		advice = append(advice, fmt.Sprintf(
			"provider %s no longer lists %s, with which it wrote until now: what is stored under that cannot be read; "+
				"keep it below the others until all is rewritten", next.Name, called(old.Keys[0])))
	}
	return advice
}

// readsTheSame reports whether two keys open the same ciphertexts, however they are
// reached. Names that are no ARN mean a key of the account and Region that is
// called.
func readsTheSame(a, b config.Key) bool {
	if a.Key != b.Key || !maps.Equal(a.EncryptionContext, b.EncryptionContext) {
		return false
	}
	ref, err := keyref.Parse(a.Key)
	return err == nil && ref.IsARN() || a.Region == b.Region && a.Endpoint == b.Endpoint && a.AssumeRoleARN == b.AssumeRoleARN
}

// called names a key and its context in words.
func called(k config.Key) string {
	if len(k.EncryptionContext) == 0 {
		return k.Key
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(k.EncryptionContext)) {
		pairs = append(pairs, name+"="+k.EncryptionContext[name])
	}
	return k.Key + " (encryption context " + strings.Join(pairs, ",") + ")"
}

// late returns what of a configuration takes effect at a restart only.
func (d *Daemon) late(cfg *config.Config) []string {
	first := d.started
	var late []string
	if cfg.Health != first.Health {
		late = append(late, "what changed under health takes effect at a restart")
	}
	if cfg.Log != first.Log {
		late = append(late, "what changed under log takes effect at a restart")
	}
	return late
}
