package stored

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
)

// A SourceID is equal for all objects that one wrapped DEK or DEK seed protects, and
// for no others. It is a hash and tells nothing of them.
type SourceID [sha256.Size]byte

// SourceID returns what identifies the wrapped DEK or seed: one Decrypt of a plugin
// for each is what an API server needs to read everything. It is zero for formats
// with local keys.
func (r Record) SourceID() SourceID {
	if r.Wrapped == nil {
		return SourceID{}
	}
	var room [1 << 10]byte // most fit, and none of these leaves the stack
	b := append(room[:0], r.Format...)
	b = append(b, byte(r.Source&0xff))
	b = appendPart(b, r.Wrapped)
	b = appendPart(b, []byte(r.KeyID))
	if len(r.Annotations) == 0 {
		return sha256.Sum256(b)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Annotations)) {
		b = appendPart(b, []byte(name))
		b = appendPart(b, r.Annotations[name])
	}
	return sha256.Sum256(b)
}

// appendPart writes the length before the part, so that no two lists of parts are alike.
func appendPart(b, part []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // a part of a value of etcd, which is far below 4 GiB
	return append(b, part...)
}
