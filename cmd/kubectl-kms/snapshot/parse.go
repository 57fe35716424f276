package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// A revision is a key of bucket "key".
type revision struct {
	main, sub int64
	tombstone bool
}

const revisionSize = 8 + 1 + 8

func parseRevision(b []byte) (revision, error) {
	if len(b) != revisionSize && len(b) != revisionSize+1 || b[8] != '_' {
		return revision{}, fmt.Errorf("a key of %d bytes is not a revision", len(b))
	}
	r := revision{
		main: int64(binary.BigEndian.Uint64(b)),     //nolint:gosec // checked below
		sub:  int64(binary.BigEndian.Uint64(b[9:])), //nolint:gosec // checked below
	}
	if r.main < 0 || r.sub < 0 {
		return revision{}, errors.New("a revision is negative")
	}
	if len(b) > revisionSize {
		if b[revisionSize] != 't' {
			return revision{}, fmt.Errorf("a revision is marked %q, and only t is known", b[revisionSize])
		}
		r.tombstone = true
	}
	return r, nil
}

// A keyValue is what is needed of mvccpb.KeyValue. Its slices are parts of the bytes
// that were parsed.
type keyValue struct {
	key, value  []byte
	modRevision int64
}

// Fields of mvccpb.KeyValue.
const (
	fieldKey         = 1
	fieldModRevision = 3
	fieldValue       = 5
)

func parseKeyValue(b []byte) (keyValue, error) {
	var kv keyValue
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return keyValue{}, errNotKeyValue(protowire.ParseError(n))
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(field, kind, b)
		if size < 0 {
			return keyValue{}, errNotKeyValue(protowire.ParseError(size))
		}
		kv.take(field, kind, b)
		b = b[size:]
	}
	if len(kv.key) == 0 {
		return keyValue{}, errNotKeyValue(errors.New("it has no key"))
	}
	return kv, nil
}

// take keeps a field that is known to be whole.
func (kv *keyValue) take(field protowire.Number, kind protowire.Type, b []byte) {
	switch {
	case field == fieldKey && kind == protowire.BytesType:
		kv.key, _ = protowire.ConsumeBytes(b)
	case field == fieldValue && kind == protowire.BytesType:
		kv.value, _ = protowire.ConsumeBytes(b)
	case field == fieldModRevision && kind == protowire.VarintType:
		v, _ := protowire.ConsumeVarint(b)
		kv.modRevision = int64(v) //nolint:gosec // compared only
	}
}

func errNotKeyValue(err error) error {
	return fmt.Errorf("the value is not a KeyValue of etcd: %w", err)
}
