package apiservers

import (
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// A Probe is what API servers stored when objects were written through each.
type Probe struct {
	Stored    []Stored
	NotProbed []NotProbed
}

// Stored is how an API server stored an object of a resource.
type Stored struct {
	Address  string // that it was written through
	Resource string // as the EncryptionConfiguration names it; a wildcard is probed by one of what it covers
	Format   string // of package stored
	Provider string
	KeyID    string
	// Unreadable are addresses whose API servers could not read it.
	Unreadable []string
}

func (p *Probe) keyIDs() []string {
	if p == nil {
		return nil
	}
	var out []string
	for _, s := range p.Stored {
		if s.KeyID != "" && !slices.Contains(out, s.KeyID) {
			out = append(out, s.KeyID)
		}
	}
	return out
}

func (s Stored) words(j *judge) string {
	text := s.Format
	if s.Provider != "" {
		text += " " + report.Clip(s.Provider, 64)
	}
	if s.KeyID != "" {
		text += " (" + j.nameOf(HashOf([]byte(s.KeyID))) + ")"
	}
	return text
}

// probed compares what was stored, and takes it for what metrics cannot tell.
func (j *judge) probed() {
	if j.opts.Probe == nil {
		return
	}
	for _, not := range j.opts.Probe.NotProbed {
		not = NotProbed{report.Plain(not.Resource), report.Clip(not.Reason, 512)}
		j.r.NotProbed = append(j.r.NotProbed, not)
		j.because(Unprobed, "%s could not be probed: %s", not.Resource, not.Reason)
	}
	byResource := map[string]map[string][]string{}
	tried := map[*process]bool{}
	for _, s := range j.opts.Probe.Stored {
		p := j.at(s.Address)
		if p == nil {
			continue // it did not answer, which is said
		}
		tried[p] = true
		if byResource[s.Resource] == nil {
			byResource[s.Resource] = map[string][]string{}
		}
		words := s.words(j)
		if names := byResource[s.Resource][words]; !slices.Contains(names, p.name) {
			byResource[s.Resource][words] = append(names, p.name)
		}
		j.storedBy(p, s)
	}
	for _, resource := range slices.Sorted(maps.Keys(byResource)) {
		if under := byResource[resource]; len(under) > 1 {
			var parts []string
			for _, words := range slices.Sorted(maps.Keys(under)) {
				parts = append(parts, who(under[words], "writes", "write")+" under "+words)
			}
			slices.Sort(parts) // by the names of API servers
			j.because(Differ, "of %s, %s", report.Plain(resource), strings.Join(parts, ", and "))
		}
	}
	for _, p := range j.found {
		if !tried[p] {
			j.because(Unprobed, "nothing was written through the API server of %s", p.name)
		}
	}
	if !slices.ContainsFunc(j.reasons, func(r Reason) bool { return r.Kind == Unprobed }) {
		j.reasons = slices.DeleteFunc(j.reasons, func(r Reason) bool {
			return r.Kind == NoConfigHash || r.Kind == WriterUnsaid || r.Kind == NoKey
		})
	}
}

func (j *judge) at(address string) *process {
	for _, p := range j.found {
		if slices.Contains(p.addresses, report.Plain(address)) {
			return p
		}
	}
	return nil
}

// storedBy compares what an API server stored with its configuration and its metrics.
func (j *judge) storedBy(p *process, s Stored) {
	w := Write{Resource: report.Plain(s.Resource), Format: s.Format, Provider: quoted(s.Provider), Probed: true}
	if s.KeyID != "" {
		w.KeyID, w.KeyIDHash = report.Plain(s.KeyID), HashOf([]byte(s.KeyID))
	}
	p.writes = append(slices.DeleteFunc(p.writes, func(o Write) bool { return o.Resource == w.Resource }), w)
	if s.Format == formatV1 {
		j.because(V1, "%s are written by KMS v1 under provider %s, and neither metrics nor values of v1 name the key", w.Resource, w.Provider)
	}
	if len(s.Unreadable) > 0 {
		j.because(Differ, "what the API server of %s writes of %s cannot be read through %s", p.name, w.Resource, strings.Join(s.Unreadable, ", "))
	}
	if first, ok := j.firstOf(s.Resource); ok && !wrote(first, s) {
		j.because(OtherConfig, "the API server of %s writes %s under %s, and the first provider of %s is %s",
			p.name, w.Resource, s.words(j), report.Plain(j.opts.ConfigName), nameOfProvider(first))
	}
	for _, k := range p.newest() {
		if k.Provider == s.Provider && s.Format == formatV2 && k.Hash != w.KeyIDHash {
			j.because(Differ, "the API server of %s writes %s under key_id %s, and its plugin has named %s", p.name, w.Resource, j.nameOf(w.KeyIDHash), j.nameOf(k.Hash))
		}
	}
}

// firstOf returns the provider that the configuration has first for a resource.
func (j *judge) firstOf(resource string) (encryptionconfig.Provider, bool) {
	if j.opts.Config == nil {
		return encryptionconfig.Provider{}, false
	}
	for _, entry := range j.opts.Config.Resources {
		if slices.Contains(entry.Resources, resource) && len(entry.Providers) > 0 {
			return entry.Providers[0], true
		}
	}
	return encryptionconfig.Provider{}, false
}

func nameOfProvider(p encryptionconfig.Provider) string {
	switch {
	case p.KMS != nil:
		return formatOf(p) + " " + report.Plain(p.KMS.Name)
	case len(p.LocalKeys()) > 0:
		return formatOf(p) + " " + report.Plain(p.LocalKeys()[0].Name)
	}
	return formatOf(p)
}

func wrote(first encryptionconfig.Provider, s Stored) bool {
	switch {
	case formatOf(first) != s.Format:
		return false
	case first.KMS != nil:
		return first.KMS.Name == s.Provider
	case len(first.LocalKeys()) > 0:
		return first.LocalKeys()[0].Name == s.Provider
	}
	return true
}
