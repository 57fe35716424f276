package generate

import (
	"bytes"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A noted key has a comment above it.
type noted struct{ key, comment string }

// object is a mapping of keys and values in turn; nil values and empty lists are
// left out. Keys are strings or noted.
func object(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for pair := range slices.Chunk(pairs, 2) {
		value := node(pair[1])
		if value == nil {
			continue
		}
		key, ok := pair[0].(noted)
		if !ok {
			key = noted{key: pair[0].(string)}
		}
		k := node(key.key)
		k.HeadComment = comment(key.comment)
		n.Content = append(n.Content, k, value)
	}
	return n
}

// node encodes a value as yaml does, so that a text that some reader takes for
// something else is quoted.
func node(value any) *yaml.Node {
	switch v := value.(type) {
	case nil:
		return nil
	case *yaml.Node:
		return v
	case []*yaml.Node:
		if len(v) == 0 {
			return nil
		}
		return &yaml.Node{Kind: yaml.SequenceNode, Content: v}
	case []string:
		if len(v) == 0 {
			return nil
		}
	}
	n := new(yaml.Node)
	if err := n.Encode(value); err != nil {
		panic(err) // of a type that this package does not use
	}
	return n
}

// comment makes lines of a text into comments.
func comment(text string) string {
	if text == "" {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSuffix(text, "\n")) {
		b.WriteString(strings.TrimRight("# "+strings.TrimSuffix(line, "\n"), " ") + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// document is a header of comments and YAML.
func document(header string, value any) string {
	var b bytes.Buffer
	b.WriteString(comment(header) + "\n")
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(value); err != nil {
		panic(err) // into memory, of values that this package makes
	}
	return b.String()
}
