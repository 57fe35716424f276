package apiservers

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// An Expectation is a key under which somebody expects API servers to write.
type Expectation interface {
	// Compare says how what is written compares with the key.
	Compare(w Write) Match
	// String names the key as it was given.
	String() string
}

// A Match is how what is written compares with a key.
type Match int

// Matches.
const (
	NotYet Match = iota // another key, from which a plugin may go over
	Never               // another provider or none, which only another configuration changes
	Meets
	Unsaid // nothing tells: metrics name a key_id by its hash alone, which says nothing of an ARN
)

// plaintext is what package stored calls what nobody encrypts.
const plaintext = "plaintext"

// expected compares what API servers write with what somebody expects. That they write
// alike is no proof of it: for a minute after a change all of them may name the key of
// before. Nor is a key that a plugin named, where another provider may be the first.
func (j *judge) expected() {
	if j.opts.Expect == nil {
		return
	}
	j.r.Expected = report.Clip(j.opts.Expect.String(), 256)
	var unknown []string
	others, never, unsaid := map[string][]string{}, map[string][]string{}, map[string][]string{} // what is written under → who does
	for _, p := range j.found {
		if !j.known() && len(p.writes) == 0 {
			unknown = append(unknown, p.name)
			continue
		}
		for _, w := range j.inScope(p) {
			switch j.opts.Expect.Compare(w) {
			case Meets:
			case Unsaid:
				note(unsaid, j.unsaid(w), p.name)
			case Never:
				note(never, j.words(w), p.name)
			case NotYet:
				note(others, j.words(w), p.name)
			}
		}
	}
	if len(unknown) > 0 {
		j.because(WriterUnsaid, "which provider writes is not known of %s, so nobody knows whether that is under %s: --encryption-config tells", strings.Join(unknown, ", "), j.r.Expected)
	}
	for _, under := range slices.Sorted(maps.Keys(others)) {
		j.because(OtherKey, "%s %s, and not under %s", who(others[under], "writes", "write"), under, j.r.Expected)
	}
	for _, under := range slices.Sorted(maps.Keys(never)) {
		text := fmt.Sprintf("%s %s, and not under %s", who(never[under], "writes", "write"), under, j.r.Expected)
		if j.known() { // else another configuration may be on its way
			text += ", as " + report.Plain(j.opts.ConfigName) + " says"
		}
		j.because(OtherWriter, "%s", text)
	}
	for _, text := range slices.Sorted(maps.Keys(unsaid)) {
		j.because(KeyUnsaid, "%s %s", who(unsaid[text], "writes", "write"), text)
	}
}

func note(all map[string][]string, text, name string) {
	if !slices.Contains(all[text], name) {
		all[text] = append(all[text], name)
	}
}

// inScope is what an API server writes of the resources that the expectation is about: of
// those that are named, or of all that is encrypted.
func (j *judge) inScope(p *process) []Write {
	switch {
	case len(j.opts.Only) > 0:
		var writes []Write
		for _, name := range j.opts.Only {
			writes = append(writes, j.writeOf(p, name)...)
		}
		return writes
	case j.encryptsNothing():
		return []Write{{Format: plaintext}}
	}
	return p.writes
}

// writeOf is what an API server writes a resource under: in the clear where no entry of the
// configuration covers it, and nothing where the key of the one that does is not known,
// which is said.
func (j *judge) writeOf(p *process, name string) []Write {
	inTheClear := []Write{{Resource: report.Plain(name), Format: plaintext}}
	if j.opts.Config == nil {
		return inTheClear
	}
	resource, group, _ := strings.Cut(name, ".")
	entry, ok := j.opts.Config.For(resource, group)
	if !ok || !entry.Encrypts() {
		return inTheClear
	}
	i := slices.IndexFunc(p.writes, func(w Write) bool { // its own, or a wildcard's
		return slices.Contains(entry.Resources, w.Resource) && encryptionconfig.Covers(w.Resource, resource, group)
	})
	if i < 0 {
		return nil
	}
	return p.writes[i : i+1]
}

// encryptsNothing reports whether the configuration that all have loaded does not encrypt.
func (j *judge) encryptsNothing() bool {
	return j.known() && !slices.ContainsFunc(j.opts.Config.Resources, encryptionconfig.Resource.Encrypts)
}

// words say what is written under.
func (j *judge) words(w Write) string {
	if w.Format == plaintext {
		if j.encryptsNothing() {
			return "in the clear, since " + report.Plain(j.opts.ConfigName) + " encrypts nothing"
		}
		return strings.TrimSpace(w.Resource + " in the clear")
	}
	text := "under " + w.Format
	if w.Provider != "" {
		text += " " + w.Provider
	}
	if w.KeyIDHash != "" {
		text += ", key_id " + j.nameOf(w.KeyIDHash)
	}
	return text
}

// unsaid says why nobody knows whether something is under the expected key.
func (j *judge) unsaid(w Write) string {
	why := "metrics name a key_id by its hash alone: give the key_id or its hash, which the plugin's own status prints, or --probe"
	switch {
	case w.Format == formatV1:
		why = "neither metrics nor values of v1 name the key"
	case w.KeyID != "":
		why = "its key_id does not tell its key"
	}
	return j.words(w) + ", and whether that is under " + j.r.Expected + " is not known: " + why
}
