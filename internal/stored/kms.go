package stored

import (
	"encoding/binary"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// A Source is what KMS v2 stores wrapped beside an object.
type Source int32

// The sources that k8s.io/apiserver knows, by their number in the EncryptedObject.
const (
	DEK     Source = 0 // a DEK of 32 bytes: Kubernetes 1.25 to 1.28
	DEKSeed Source = 1 // a seed of 32 bytes, from which each object's DEK is derived
)

// Limits that k8s.io/apiserver checks, in bytes.
const (
	maxKeyID       = 1 << 10
	maxSource      = 1 << 10
	maxAnnotations = 32 << 10 // keys and values together
)

// unpackV1 parts the wrapped DEK from the object.
func (r *Record) unpackV1() error {
	const prefix = 2
	if len(r.Sealed) < prefix {
		return r.wrong("no length of a DEK follows the prefix")
	}
	n := int(binary.BigEndian.Uint16(r.Sealed))
	body := r.Sealed[prefix:]
	if n == 0 {
		return r.wrong("the DEK is empty")
	}
	if n > len(body) {
		return r.wrong("the DEK has %d bytes, and %d follow", n, len(body))
	}
	r.Wrapped, r.Sealed = body[:n:n], body[n:]
	if least := gcmOverhead; len(r.Sealed) < least {
		return r.wrong("%d bytes follow the DEK, and %d are the least", len(r.Sealed), least)
	}
	return nil
}

// The fields of an EncryptedObject, see
// k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2/api.proto.
const (
	fieldData        protowire.Number = 1
	fieldKeyID       protowire.Number = 2
	fieldSource      protowire.Number = 3
	fieldAnnotations protowire.Number = 4
	fieldType        protowire.Number = 5
)

// unpackV2 reads the EncryptedObject. It takes what proto.Unmarshal takes, unknown
// fields and repeated ones included: of these the last counts.
func (r *Record) unpackV2() error {
	message := r.Sealed
	r.Sealed = nil
	err := eachField(message, func(number protowire.Number, text []byte, n uint64) bool {
		switch {
		case number == fieldData && text != nil:
			r.Sealed = text
		case number == fieldKeyID && text != nil:
			r.KeyID = string(text)
		case number == fieldSource && text != nil:
			r.Wrapped = text
		case number == fieldAnnotations && text != nil:
			name, value, ok := mapEntry(text)
			if !ok {
				return false
			}
			if r.Annotations == nil {
				r.Annotations = map[string][]byte{}
			}
			r.Annotations[name] = value
		case number == fieldType && text == nil:
			r.Source = Source(int32(n)) //nolint:gosec // an enum has 32 bits, as protobuf decodes it
		}
		return true
	})
	if err != "" {
		return r.wrong("%s", err)
	}
	return r.checkV2()
}

func (r *Record) checkV2() error {
	size := 0
	for name, value := range r.Annotations {
		size += len(name) + len(value)
	}
	switch {
	case r.Source != DEK && r.Source != DEKSeed:
		return r.wrong("the type of what is wrapped is not known: a newer kube-apiserver wrote this")
	case !utf8.ValidString(r.KeyID):
		return r.wrong("the key_id is no UTF-8")
	case r.KeyID == "":
		return r.wrong("there is no key_id")
	case len(r.KeyID) > maxKeyID:
		return r.wrong("the key_id has %d bytes, and %d are the most", len(r.KeyID), maxKeyID)
	case len(r.Wrapped) == 0:
		return r.wrong("there is no encrypted DEK source")
	case len(r.Wrapped) > maxSource:
		return r.wrong("the encrypted DEK source has %d bytes, and %d are the most", len(r.Wrapped), maxSource)
	case size > maxAnnotations:
		return r.wrong("the annotations have %d bytes, and %d are the most", size, maxAnnotations)
	case len(r.Sealed) < r.least():
		return r.wrong("the encrypted data has %d bytes, and %d are the least", len(r.Sealed), r.least())
	}
	return nil
}

// eachField hands over the fields of a message in turn: text for those with a length,
// n for varints. It returns why the message is none, "" where it is one.
func eachField(message []byte, visit func(number protowire.Number, text []byte, n uint64) bool) (wrong string) {
	const broken = "the body is no protobuf message"
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return broken
		}
		message = message[n:]
		var text []byte
		var varint uint64
		switch kind {
		case protowire.BytesType:
			if text, n = protowire.ConsumeBytes(message); text == nil {
				text = []byte{}
			}
		case protowire.VarintType:
			varint, n = protowire.ConsumeVarint(message)
		case protowire.Fixed32Type, protowire.Fixed64Type, protowire.StartGroupType, protowire.EndGroupType:
			n = protowire.ConsumeFieldValue(number, kind, message)
			number = 0 // none of ours has this type
		default:
			return broken
		}
		if n < 0 || !visit(number, text, varint) {
			return broken
		}
		message = message[n:]
	}
	return ""
}

func mapEntry(entry []byte) (name string, value []byte, ok bool) {
	const fieldName, fieldValue protowire.Number = 1, 2
	wrong := eachField(entry, func(number protowire.Number, text []byte, _ uint64) bool {
		if number == fieldName && text != nil {
			name = string(text)
		}
		if number == fieldValue && text != nil {
			value = text
		}
		return true
	})
	return name, value, wrong == "" && utf8.ValidString(name)
}
