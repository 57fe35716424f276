package store

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// Prefixes are prefixes of keys as readers use them: none lies below another.
type Prefixes struct {
	below []string // each begins and ends with a slash
}

// NewPrefixes takes prefixes as kube-apiserver's --etcd-prefix takes one: slashes at
// the ends do not matter. "/" is the prefix of all keys that begin with a slash.
func NewPrefixes(prefixes []string) Prefixes {
	var below []string
	for _, prefix := range prefixes {
		below = append(below, strings.TrimSuffix(path.Join("/", prefix), "/")+"/")
	}
	slices.Sort(below)
	var p Prefixes
	for _, next := range below { // what lies below another follows it
		if n := len(p.below); n == 0 || !strings.HasPrefix(next, p.below[n-1]) {
			p.below = append(p.below, next)
		}
	}
	return p
}

// Contains reports whether the key lies below one of the prefixes.
func (p Prefixes) Contains(key []byte) bool {
	for _, below := range p.below {
		if len(key) >= len(below) && string(key[:len(below)]) == below {
			return true
		}
	}
	return false
}

// A Range is every key from Start on and before End, as etcd compares keys.
type Range struct{ Start, End string }

// endOfAll is etcd's word for a range without an end.
const endOfAll = "\x00"

// Ranges returns what lies below the prefixes, in the order of keys.
func (p Prefixes) Ranges() []Range {
	var all []Range
	for _, below := range p.below {
		all = append(all, Range{below, after(below)})
	}
	return all
}

// Gaps returns all that lies beside the prefixes, in the order of keys.
func (p Prefixes) Gaps() []Range {
	var all []Range
	start := endOfAll // the least key that there can be
	for _, r := range p.Ranges() {
		all = append(all, Range{start, r.Start})
		start = r.End
	}
	return append(all, Range{start, endOfAll})
}

// after is the end of the range of all that lies below, which ends with a slash.
func after(below string) string {
	return below[:len(below)-1] + string(rune('/'+1))
}

// Others collects what a place has beside the prefixes that were asked for. The zero
// value is ready.
type Others struct {
	segments []string // sorted, at most mostOthers+1
}

// mostOthers bounds what a verdict names: an etcd that something else uses may have
// millions.
const mostOthers = 100

// compactKey is kube-apiserver's own: the revision that it compacted last. It is under
// no prefix, and in every cluster.
const compactKey = "compact_rev_key"

// Add takes a key that lies beside the prefixes. It returns where the next key that
// matters begins, for readers that can jump, and false when no further key matters to
// a reader that goes through keys in their order.
func (o *Others) Add(key []byte) (next string, more bool) {
	if string(key) == compactKey {
		return compactKey + "\x00", true
	}
	segment, deeper := firstSegment(key)
	if at, found := slices.BinarySearch(o.segments, segment); !found {
		o.segments = slices.Insert(o.segments, at, segment)
		o.segments = o.segments[:min(len(o.segments), mostOthers+1)]
	}
	next = segment + "\x00"
	if deeper {
		next = after(segment + "/")
	}
	return next, len(o.segments) <= mostOthers
}

// firstSegment is the first segment of a path, its leading slash included.
func firstSegment(key []byte) (segment string, deeper bool) {
	from := 0
	if bytes.HasPrefix(key, []byte("/")) {
		from = 1
	}
	if end := bytes.IndexByte(key[from:], '/'); end >= 0 {
		return string(key[:from+end]), true
	}
	return string(key), false
}

// Unread returns what Reading.Unread says.
func (o *Others) Unread() []string {
	if len(o.segments) <= mostOthers {
		return slices.Clone(o.segments)
	}
	return append(slices.Clone(o.segments[:mostOthers]), "and more")
}

// UnreadUnknown stands in Reading.Unread where the place does not let its reader see
// what other prefixes it has keys under: there may be some.
const UnreadUnknown = "others, which etcd does not let this user list"
