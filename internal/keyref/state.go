package keyref

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A State is what a key_id says: everything whose change must make an API server
// take a new DEK seed and rewrite its objects. It is written as a key and
// parameters, each left out at its default:
//
//	arn:aws:kms:us-west-2:111122223333:key/1234?material=9a4f...&context=0d15...&format=NAME&epoch=3
//
// Two processes with the same state answer the same bytes, and the same state is
// the same key_id for ever: the form never changes.
type State struct {
	Key      ID
	Material string // id of the key material that encrypts now; "": not known
	Context  string // [ContextHash] of the encryption context; "": none
	Format   string // "": direct
	Epoch    uint32 // the operator's count; 0: none
}

// The parameters of a key_id, in their order.
const (
	material = "material"
	context  = "context"
	format   = "format"
	epoch    = "epoch"
)

// String returns the key_id.
func (s State) String() string {
	var b strings.Builder
	b.WriteString(string(s.Key))
	separator := byte('?')
	add := func(name, value string) {
		if value == "" {
			return
		}
		b.WriteByte(separator)
		b.WriteString(name + "=" + value)
		separator = '&'
	}
	add(material, s.Material)
	add(context, s.Context)
	add(format, s.Format)
	if s.Epoch != 0 {
		add(epoch, strconv.FormatUint(uint64(s.Epoch), 10))
	}
	return b.String()
}

// ParseState reads a key_id, its own and every other's: a name without
// parameters is the Key, and parameters of a later release are left out. It
// refuses nothing, since key_ids come out of etcd, where they are only compared.
func ParseState(keyID string) State {
	key, parameters, _ := strings.Cut(keyID, "?")
	s := State{Key: ID(key)}
	for parameter := range strings.SplitSeq(parameters, "&") {
		switch name, value, _ := strings.Cut(parameter, "="); name {
		case material:
			s.Material = value
		case context:
			s.Context = value
		case format:
			s.Format = value
		case epoch:
			n, _ := strconv.ParseUint(value, 10, 32)
			s.Epoch = uint32(n)
		}
	}
	return s
}

// ContextHash names an encryption context within a key_id: 16 hex digits, "" for
// none. The order of its pairs does not count. It hides nothing: KMS writes
// contexts to CloudTrail in clear.
func ContextHash(pairs map[string]string) string {
	if len(pairs) == 0 {
		return ""
	}
	hash := sha256.New()
	add := func(s string) {
		hash.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) //nolint:gosec // a context has at most a few kilobytes
		hash.Write([]byte(s))
	}
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		add(name)
		add(pairs[name])
	}
	const digits = 16
	return hex.EncodeToString(hash.Sum(nil))[:digits]
}
