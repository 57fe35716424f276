// Package audittest makes stores for tests, of a text with a line for each value:
//
//	revision 81234
//	unread /openshift.io
//	caveat WORDS
//	compacted                      a Read fails at its end, as after a compaction; repeats
//	PATH plaintext [TEXT]
//	PATH aescbc|aesgcm|secretbox NAME
//	PATH v1 NAME [wrapped=TEXT] [size=BYTES]
//	PATH v2 NAME KEY_ID [wrapped=TEXT] [type=0] [annotation=NAME:VALUE]
//	PATH raw TEXT
//	old PATH ...                   an older revision
//
// TEXT and PATH may be quoted as in Go. Each value gets the next revision.
package audittest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A Store is a place that exists in a test alone. It implements [store.Reader].
type Store struct {
	Values    []store.KeyValue
	Reading   store.Reading // what Read returns, but Keys and Unread
	Compacted int           // so many Reads fail at their end, as after a compaction
	// Each, where it is not nil, is called before each value.
	Each func(ctx context.Context, i int) error
}

// Read implements [store.Reader].
func (s *Store) Read(ctx context.Context, prefixes []string, each func(store.KeyValue) error) (store.Reading, error) {
	r := s.Reading
	for i, kv := range s.Values {
		if s.Each != nil {
			if err := s.Each(ctx, i); err != nil {
				return store.Reading{}, err
			}
		}
		if err := ctx.Err(); err != nil {
			return store.Reading{}, err
		}
		if !below(string(kv.Key), prefixes) || kv.Older && !r.OlderRead {
			continue
		}
		if !kv.Older {
			r.Keys++
		}
		scratch := store.KeyValue{Key: bytes.Clone(kv.Key), Value: bytes.Clone(kv.Value), ModRevision: kv.ModRevision, Older: kv.Older}
		if err := each(scratch); err != nil {
			return store.Reading{}, err
		}
		clear(scratch.Key) // they are the reader's: whoever keeps them sees zeros
		clear(scratch.Value)
	}
	if s.Compacted > 0 {
		s.Compacted--
		return store.Reading{}, &store.Error{Place: r.Place, Reason: store.ErrCompacted.Error(), Err: store.ErrCompacted}
	}
	return r, nil
}

func below(key string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(key, strings.TrimSuffix(p, "/")+"/") {
			return true
		}
	}
	return false
}

// Parse reads the text of a store. Older revisions are read with a snapshot alone.
func Parse(place, text string, snapshot bool) (*Store, error) {
	s := &Store{Reading: store.Reading{Place: place, Revision: 81234, OlderRead: snapshot}}
	for n, line := range strings.Split(text, "\n") {
		if err := s.line(strings.TrimSpace(line)); err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return s, nil
}

func (s *Store) line(line string) (err error) {
	name, rest, _ := strings.Cut(line, " ")
	switch name {
	case "":
		return nil
	case "revision":
		s.Reading.Revision, err = strconv.ParseInt(rest, 10, 64)
		return err
	case "unread":
		s.Reading.Unread = append(s.Reading.Unread, rest)
		return nil
	case "caveat":
		s.Reading.Caveats = append(s.Reading.Caveats, rest)
		return nil
	case "compacted":
		s.Compacted++
		return nil
	case "old":
		if err := s.line(rest); err != nil {
			return err
		}
		s.Values[len(s.Values)-1].Older = true
		return nil
	}
	path, rest, err := word(line)
	if err != nil {
		return err
	}
	value, err := valueOf(rest)
	s.Values = append(s.Values, store.KeyValue{Key: []byte(path), Value: value, ModRevision: int64(1000 + len(s.Values))})
	return err
}

// word takes the first word of a line, which may be quoted.
func word(line string) (first, rest string, err error) {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, `"`) {
		first, rest, _ = strings.Cut(line, " ")
		return first, rest, nil
	}
	quoted, err := strconv.QuotedPrefix(line)
	if err != nil {
		return "", "", err
	}
	first, err = strconv.Unquote(quoted)
	return first, line[len(quoted):], err
}

func valueOf(text string) ([]byte, error) {
	var words []string
	for strings.TrimSpace(text) != "" {
		one, rest, err := word(text)
		if err != nil {
			return nil, err
		}
		words, text = append(words, one), rest
	}
	options := map[string]string{"wrapped": "1blob", "type": "1", "size": "61"}
	arguments := []string{}
	for _, w := range words[1:] {
		if name, value, ok := strings.Cut(w, "="); ok && (options[name] != "" || name == "annotation") && words[0] != "raw" && words[0] != "plaintext" {
			options[name] = value
			continue
		}
		arguments = append(arguments, w)
	}
	return value(words[0], arguments, options)
}

func value(format string, arguments []string, options map[string]string) ([]byte, error) {
	const v1Overhead = 28
	first := ""
	if len(arguments) > 0 {
		first = arguments[0]
	}
	switch format {
	case "plaintext":
		return []byte("k8s\x00" + first), nil
	case "raw":
		return []byte(first), nil
	case "aescbc", "aesgcm", "secretbox":
		return append([]byte("k8s:enc:"+format+":v1:"+first+":"), make([]byte, 96)...), nil
	case "v1":
		size, err := strconv.Atoi(options["size"])
		b := binary.BigEndian.AppendUint16([]byte("k8s:enc:kms:v1:"+first+":"), uint16(len(options["wrapped"]))) //nolint:gosec // a test's few bytes
		return append(append(b, options["wrapped"]...), make([]byte, size+v1Overhead)...), err
	case "v2":
		if len(arguments) < 2 {
			return nil, errors.New("v2 needs a name and a key_id")
		}
		return v2(first, arguments[1], options), nil
	}
	return nil, fmt.Errorf("no format %q", format)
}

func v2(name, keyID string, options map[string]string) []byte {
	b := []byte("k8s:enc:kms:v2:" + name + ":")
	field := func(n protowire.Number, value []byte) {
		b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
	}
	field(1, make([]byte, 96))
	field(2, []byte(keyID))
	field(3, []byte(options["wrapped"]))
	if key, value, ok := strings.Cut(options["annotation"], ":"); ok {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), key)
		field(4, protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), value))
	}
	if options["type"] != "0" {
		b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 1)
	}
	return b
}
