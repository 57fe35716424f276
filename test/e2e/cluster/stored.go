package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// SecretKey is where an API server keeps a secret in etcd.
func SecretKey(name string) string { return secretPrefix + name }

const secretPrefix = "/registry/secrets/" + namespace + "/"

// A Stored value is what an API server with a KMS provider wrote to etcd, taken
// apart as far as that goes without a key.
type Stored struct {
	Version     string            // "v1" or "v2"
	Provider    string            // name in the EncryptionConfiguration
	KeyID       string            // v2 only
	WrappedKey  []byte            // what the plugin's Encrypt returned: v1's DEK, v2's DEK seed
	Annotations map[string]string // v2 only
	Sealed      []byte            // the object under the DEK
}

// ParseStored takes a raw value of etcd apart. A value that no KMS provider
// wrote is an error.
func ParseStored(raw []byte) (Stored, error) {
	const prefix = "k8s:enc:kms:"
	// prefix, version, provider, rest
	fields := strings.SplitN(strings.TrimPrefix(string(raw), prefix), ":", 3)
	if !strings.HasPrefix(string(raw), prefix) || len(fields) != 3 {
		return Stored{}, fmt.Errorf("stored value begins with %.40q, not with %s", raw, prefix)
	}
	s := Stored{Version: fields[0], Provider: fields[1]}
	rest := []byte(fields[2])
	var err error
	switch s.Version {
	case "v1":
		err = s.parseV1(rest)
	case "v2":
		err = s.parseV2(rest)
	default:
		err = fmt.Errorf("unknown version %q", s.Version)
	}
	if err != nil {
		return Stored{}, fmt.Errorf("stored value of provider %s: %w", s.Provider, err)
	}
	return s, nil
}

func (s *Stored) parseV1(rest []byte) error {
	if len(rest) < 2 {
		return errors.New("no length of the DEK")
	}
	n := int(binary.BigEndian.Uint16(rest))
	if rest = rest[2:]; len(rest) < n {
		return fmt.Errorf("DEK of %d bytes in %d", n, len(rest))
	}
	s.WrappedKey, s.Sealed = rest[:n], rest[n:]
	return nil
}

// parseV2 reads Kubernetes' message EncryptedObject
// (k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmstypes/v2).
func (s *Stored) parseV2(rest []byte) error {
	return eachField(rest, func(field protowire.Number, value []byte) error {
		switch int(field) {
		case 1:
			s.Sealed = value
		case 2:
			s.KeyID = string(value)
		case 3:
			s.WrappedKey = value
		case 4:
			return s.parseAnnotation(value)
		}
		return nil
	})
}

func (s *Stored) parseAnnotation(entry []byte) error {
	var key, value string
	err := eachField(entry, func(field protowire.Number, v []byte) error {
		switch int(field) {
		case 1:
			key = string(v)
		case 2:
			value = string(v)
		}
		return nil
	})
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[key] = value
	return err
}

// eachField calls do for each field of a message that holds bytes and skips the
// others.
func eachField(message []byte, do func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
				return protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := do(field, value); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}
