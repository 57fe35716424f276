package verify

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// A source is a wrapped DEK or seed, and what came of it.
type source struct {
	wrapped Wrapped
	id      stored.SourceID

	left  bool // a sample leaves it out
	asked bool
	plain secret.Bytes // nil: it is not open, or no object is opened
	by    keyref.ARN   // the key that opened it; "": not told
	wrong *Refusal     // nil: it is open, or was not asked for
}

func (s *source) isV1() bool { return s.wrapped.Version == v1 }

func (s *source) isOpen() bool { return s.asked && s.wrong == nil }

const (
	v1 = "v1"
	v2 = "v2"
)

// key names the key that it is under: by the answer of KMS where there is one, and else
// as v2's key_id does. Of v1, "" where nobody knows. All key_ids of a key, and all
// replicas of a multi-Region key, have one name.
func (s *source) key() keyref.ID {
	switch {
	case s.by != "":
		return s.by.ID()
	case s.wrong != nil && s.wrong.Made != "":
		return s.wrong.Made.ID()
	case s.wrapped.Version == v2:
		return keyref.ARN(keyref.ParseState(s.wrapped.KeyID).Key).ID() // the predecessor's is whatever its flag was
	case s.wrong != nil && len(s.wrong.Keys) == 1:
		return keyref.ARN(s.wrong.Keys[0]).ID()
	}
	return ""
}

// arn is the key that KMS says made it, "" where it did not say.
func (s *source) arn() keyref.ARN {
	if s.wrong != nil {
		return s.wrong.Made
	}
	return s.by
}

// known are all sources of a run: what two places share is asked for once.
type known struct{ sources map[stored.SourceID]*source }

func newKnown() *known { return &known{map[stored.SourceID]*source{}} }

func (k *known) clear() {
	for _, s := range k.sources {
		s.plain.Clear()
	}
}

func (k *known) of(r stored.Record) *source {
	id := r.SourceID()
	s := k.sources[id]
	if s == nil {
		s = &source{id: id, wrapped: Wrapped{
			Version: v1, Provider: strings.Clone(r.Provider), Ciphertext: bytes.Clone(r.Wrapped), KeyID: r.KeyID,
		}}
		if r.Format == stored.KMSv2 {
			s.wrapped.Version = v2
		}
		for name, value := range r.Annotations {
			if s.wrapped.Annotations == nil {
				s.wrapped.Annotations = map[string][]byte{}
			}
			s.wrapped.Annotations[name] = bytes.Clone(value)
		}
		k.sources[id] = s
	}
	return s
}

// A base is what objects have in common, but for their key.
type base struct {
	resource string
	format   stored.Format
	provider string
}

// A usage is the objects of a base that a source protects.
type usage struct {
	base
	source *source // nil: a local key's
}

// A count is what one place has of a usage.
type count struct {
	objects int64
	example string // the path of one

	noProvider int64 // no provider of the configuration reads them

	// With Open:
	opened, failed int64
	failedPath     string // of one
	keyless        int64  // local, and the configuration has no key of the name
	padding        int64  // of opened: nothing but the padding proves it
	gcm, cbc       int64  // of opened, where the bytes do not tell
}

// placeFindings are what one place holds.
type placeFindings struct {
	usages map[usage]*count
	older  map[*source]bool // of values that were replaced

	plaintext, unreadPlain int64 // of these no provider of the configuration reads unreadPlain
	plainPath              string
}

func newPlaceFindings() *placeFindings {
	return &placeFindings{usages: map[usage]*count{}, older: map[*source]bool{}}
}

// findings are what all places hold, each as of its last reading.
type findings struct {
	places   []*placeFindings
	nothing  bool     // there is no object of what is to be verified
	nameless []string // resources without an object
}

func newFindings(places int) *findings {
	return &findings{places: make([]*placeFindings, places)}
}

// sources returns what to ask for, v2 first: these are few, and need most.
func (f *findings) sources() []*source {
	all := map[*source]bool{}
	for _, p := range f.places {
		maps.Copy(all, p.older)
		for u := range p.usages {
			if u.source != nil {
				all[u.source] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b *source) int {
		return cmp.Or(cmp.Compare(b.wrapped.Version, a.wrapped.Version), bytes.Compare(a.id[:], b.id[:]))
	})
}

// needed counts the sources that objects are under, each once: resources and places
// share seeds.
func (f *findings) needed() int64 {
	all := map[*source]bool{}
	for _, p := range f.places {
		for u := range p.usages {
			if u.source != nil {
				all[u.source] = true
			}
		}
	}
	return int64(len(all))
}

// bases returns what the sources of v1 protect.
func (f *findings) bases() map[*source][]base {
	out := map[*source][]base{}
	for _, p := range f.places {
		for u := range p.usages {
			if u.source != nil && u.source.isV1() && !slices.Contains(out[u.source], u.base) {
				out[u.source] = append(out[u.source], u.base)
			}
		}
	}
	return out
}

// leaveOut keeps a sample of v1's DEKs, of each base as many, and by their hashes, which
// are as good as chance and the same in each run.
func leaveOut(list []*source, bases map[*source][]base, sample int) {
	taken := map[base]int{}
	for _, s := range list {
		if !s.isV1() {
			continue
		}
		s.left = true
		for _, b := range bases[s] {
			if taken[b] < sample {
				s.left = false
			}
		}
		if !s.left {
			for _, b := range bases[s] {
				taken[b]++
			}
		}
	}
}

// A collector takes the values of one place.
type collector struct {
	o     Options
	known *known
	in    *placeFindings
}

// add counts a value, and returns its source: nil for what no plugin protects.
func (c *collector) add(v audit.Value) *source {
	if !v.Asked {
		return nil
	}
	kms := v.Record.Format == stored.KMSv1 || v.Record.Format == stored.KMSv2
	switch {
	case v.Older && (!kms || v.Record.Format != stored.KMSv1 || !c.o.asksOfOlder()):
		return nil
	case v.Older:
		s := c.known.of(v.Record)
		c.in.older[s] = true
		return s
	case v.Record.Format == stored.Plaintext:
		c.plain(v)
		return nil
	}
	u := usage{base: base{v.Resource, v.Record.Format, v.Record.Provider}}
	if kms {
		u.source = c.known.of(v.Record)
	}
	n := c.in.usages[u]
	if n == nil {
		u.resource, u.provider = strings.Clone(u.resource), strings.Clone(u.provider) // no part of a value
		n = &count{example: string(v.Path)}
		c.in.usages[u] = n
	}
	n.objects++
	if v.Stale == audit.StaleUnreadable {
		n.noProvider++
	}
	return u.source
}

func (c *collector) plain(v audit.Value) {
	c.in.plaintext++
	if v.Stale == audit.StaleUnreadable {
		c.in.unreadPlain++
		c.in.plainPath = string(v.Path)
	}
}

// asksOfOlder reports whether a question is about revisions that were replaced.
func (o Options) asksOfOlder() bool { return o.Audit.Question != nil && !o.Audit.Question.Only }

// scoped notes which resources that are to be verified have no object.
func (f *findings) scoped(r *audit.Report, o Options) {
	f.nothing = true
	has := map[string]bool{}
	for _, p := range r.Places {
		for _, row := range p.Rows {
			if row.Objects > 0 {
				has[row.Resource] = true
			}
		}
	}
	for _, p := range f.places {
		f.nothing = f.nothing && p.plaintext == 0 && len(p.usages) == 0
	}
	for _, name := range o.Audit.Resources {
		if !strings.HasPrefix(name, "*") && !has[name] {
			f.nameless = append(f.nameless, name)
		}
	}
}
