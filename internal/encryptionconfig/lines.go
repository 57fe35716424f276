package encryptionconfig

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// locate returns the line of each field, and the fields that an object has twice.
// The parser that decides (see [parse]) tells no lines, so this is another one:
// where it cannot read the file, a mistake is told without its line.
func locate(data []byte) (lines map[string]int, twice Mistakes) {
	l := locator{lines: map[string]int{}}
	var root yaml.Node
	if err := yaml.Unmarshal(spaced(data), &root); err == nil && len(root.Content) == 1 {
		l.lines[""] = root.Content[0].Line
		l.walk(root.Content[0], "", "")
	}
	return l.lines, l.twice
}

// spaced is JSON with blanks for tabs, which YAML does not take.
func spaced(data []byte) []byte {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	return data
}

type locator struct {
	lines map[string]int
	twice Mistakes
}

// walk does not follow aliases: what stands behind one is told by the line of the
// field that has it. shown is the path as it may be printed: a field's name may be a
// key.
func (l *locator) walk(n *yaml.Node, path, shown string) {
	switch n.Kind {
	case yaml.MappingNode:
		given := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			at, as := below(path, name.Value), below(shown, field(name.Value))
			if first := given[name.Value]; first > 0 {
				l.twice = append(l.twice, Mistake{Line: name.Line, Path: as, Text: fmt.Sprintf("is given twice: it stands in line %d already", first)})
			}
			given[name.Value], l.lines[at] = name.Line, name.Line
			l.walk(value, at, as)
		}
	case yaml.SequenceNode:
		for i, one := range n.Content {
			at := element(path, i)
			l.lines[at] = one.Line
			l.walk(one, at, element(shown, i))
		}
	case yaml.DocumentNode, yaml.ScalarNode, yaml.AliasNode:
	}
}

// placed gives each mistake the line of its field, or of what that stands in.
func placed(mistakes Mistakes, data []byte) Mistakes {
	if len(mistakes) == 0 {
		return nil
	}
	lines, _ := locate(data)
	for i := range mistakes {
		path := cmp.Or(mistakes[i].at, mistakes[i].Path)
		mistakes[i].at = ""
		for mistakes[i].Line == 0 && path != "" {
			mistakes[i].Line = lines[path]
			path = path[:max(0, strings.LastIndexAny(path, ".["))]
		}
		if mistakes[i].Path == "" && mistakes[i].Line == 0 {
			mistakes[i].Line = lines[""]
		}
	}
	return mistakes
}

// nextDocument is the line of a second document, and 0 where there is none.
func nextDocument(data []byte) int {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if decoder.Decode(&first) != nil {
		return 0
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF), err == nil && len(second.Content) == 1 && second.Content[0].Tag == "!!null":
		return 0
	case err == nil && len(second.Content) == 1:
		return second.Content[0].Line
	}
	return lastLineWith(data, `^---`)
}
