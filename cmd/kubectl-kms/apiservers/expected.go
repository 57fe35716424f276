package apiservers

import (
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// An Expectation is a key under which somebody expects API servers to write.
type Expectation interface {
	// Meets reports whether what is written is under the key. known is false where nothing
	// tells: metrics name a key_id by its hash alone, which says nothing of an ARN.
	Meets(w Write) (meets, known bool)
	// String names the key as it was given.
	String() string
}

// expected compares what API servers write with what somebody expects. That they write
// alike is no proof of it: for a minute after a change all of them may name the key of
// before.
func (j *judge) expected() {
	if j.opts.Expect == nil {
		return
	}
	key := report.Clip(j.opts.Expect.String(), 256)
	others, unknown := map[string][]string{}, map[string][]string{} // what is written under → who does
	for _, p := range j.found {
		writes, certain := p.writes, true
		if len(writes) == 0 {
			writes = j.named(p)
			certain = len(writes) == 1
		}
		if len(writes) == 0 && j.known() {
			note(others, "nothing, since "+report.Plain(j.opts.ConfigName)+" encrypts nothing", p.name)
		}
		for _, w := range writes {
			meets, known := j.opts.Expect.Meets(w)
			switch {
			case meets:
			case !known:
				note(unknown, j.words(w), p.name)
			case !certain:
				j.because(WriterUnsaid, "the API server of %s has several providers, and which of them writes is not known: --encryption-config tells", p.name)
			default:
				note(others, j.words(w), p.name)
			}
		}
	}
	for _, under := range slices.Sorted(maps.Keys(others)) {
		j.because(OtherKey, "%s under %s, and not under %s", who(others[under], "writes", "write"), under, key)
	}
	for _, under := range slices.Sorted(maps.Keys(unknown)) {
		why := "metrics name a key_id by its hash alone: give the key_id or its hash, which the plugin's own status prints, or --probe"
		if strings.HasPrefix(under, formatV1) {
			why = "neither metrics nor values of v1 name the key"
		}
		j.because(KeyUnsaid, "%s under %s, and whether that is of %s is not known: %s", who(unknown[under], "writes", "write"), under, key, why)
	}
}

func note(all map[string][]string, under, name string) {
	if !slices.Contains(all[under], name) {
		all[under] = append(all[under], name)
	}
}

// named is what an API server may write under where its configuration is not known: all
// that its plugins named.
func (j *judge) named(p *process) (writes []Write) {
	for _, k := range p.newest() {
		writes = append(writes, Write{Format: formatV2, Provider: report.Plain(k.Provider), KeyIDHash: report.Plain(k.Hash), KeyID: quoted(j.names[k.Hash])})
	}
	return writes
}

// words say what is written under.
func (j *judge) words(w Write) string {
	text := w.Format
	if w.Provider != "" {
		text += " " + w.Provider
	}
	if w.KeyIDHash != "" {
		text += ", key_id " + j.nameOf(w.KeyIDHash)
	}
	return text
}
