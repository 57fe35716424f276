package encryptionconfig

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v2"
)

var lineForm = regexp.MustCompile(`line (\d+)`)

// A node is a value of the file, as JSON has them.
type node struct {
	kind   kind
	text   string // of a text or number
	fields []pair // of an object, in order
	items  []node // of a list
}

type pair struct {
	name  string
	value node
}

// A kind is what a value is, in the words of mistakes.
type kind string

const (
	null    kind = "nothing"
	boolean kind = "true or false"
	number  kind = "a number"
	text    kind = "a text"
	list    kind = "a list"
	object  kind = "a set of fields"
)

// parse reads the first document of a file as kube-apiserver does: what begins
// with a brace is JSON, and all else is YAML that is turned into JSON
// (k8s.io/apimachinery/pkg/runtime/serializer/json and sigs.k8s.io/yaml). That
// parser is YAML 1.1: `on` is true there and text for the parser of --config.
func parse(data []byte) (node, Mistakes) {
	if bytes.HasPrefix(bytes.TrimLeftFunc(data, unicode.IsSpace), []byte("{")) {
		return parseJSON(data)
	}
	var content any
	if err := yaml.Unmarshal(data, &content); err != nil {
		return node{}, Mistakes{notYAML(err, data)}
	}
	content, err := jsonable(content)
	if err != nil {
		return node{}, Mistakes{{Line: lineWith(data, noName), Text: err.Error()}}
	}
	text, err := json.Marshal(content)
	if err != nil { // an infinite number, or none
		return node{}, Mistakes{{Line: lineWith(data, `(?i)[:\-,\[]\s*[-+]?\.(inf|nan)\b`), Text: "a number in it is infinite or no number"}}
	}
	root, mistakes := parseJSON(text)
	if err := yaml.UnmarshalStrict(data, new(any)); err != nil && len(mistakes) == 0 {
		return root, twice(err, data)
	}
	return root, mistakes
}

// jsonable turns what the YAML parser makes into what JSON has.
func jsonable(value any) (any, error) {
	switch v := value.(type) {
	case map[any]any:
		fields := make(map[string]any, len(v))
		for key, one := range v {
			name, err := fieldName(key)
			if err != nil {
				return nil, err
			}
			if fields[name], err = jsonable(one); err != nil {
				return nil, err
			}
		}
		return fields, nil
	case []any:
		items := make([]any, len(v))
		for i, one := range v {
			var err error
			if items[i], err = jsonable(one); err != nil {
				return nil, err
			}
		}
		return items, nil
	}
	return value, nil
}

const notFieldName = "the name of a field is no text: a line that begins with a colon or a question mark makes such a name"

// noName is how a field without a name looks in a line.
const noName = `(^|[\s\[{,])[?:](\s|$)|[{,]\s*[\[{]|^\s*(~|null):`

// fieldName is a field's name, which YAML allows to be no text. Those that are
// not are unknown in any case: only whether they are a name matters.
func fieldName(key any) (string, error) {
	switch k := key.(type) {
	case string:
		return k, nil
	case int, int64, float64, bool:
		return fmt.Sprint(k), nil
	}
	return "", errors.New(notFieldName)
}

// twice are the fields that are given more than once. The parser has found that
// there are such; where the file itself has none, a merge brings them.
func twice(err error, data []byte) Mistakes {
	_, found := locate(data)
	if len(found) > 0 {
		return found
	}
	m := Mistake{Line: lineOf(err), Text: "a field is given twice"}
	if lineWith(data, merges) > 0 {
		m.Text = "a merge (<<) brings a field that is given here too, which kube-apiserver refuses: write the fields out"
	}
	return Mistakes{m}
}

// merges is how a merge looks in a line.
const merges = `(^|[\s{,])<<\s*:`

// lineOf is the line that the parser names, and 0 where it names none.
func lineOf(err error) int {
	if line := lineForm.FindStringSubmatch(err.Error()); line != nil {
		number, _ := strconv.Atoi(line[1])
		return number
	}
	return 0
}

// notYAML says in our words what the parser could not read. Its own text is not
// used: it may quote a key.
func notYAML(err error, data []byte) Mistake {
	m := Mistake{Line: lineOf(err), Text: "it is no YAML that kube-apiserver can read: look at the indentation, and for quotes and brackets that are not closed"}
	for _, known := range parserTexts() {
		if !strings.Contains(err.Error(), known.part) {
			continue
		}
		m.Text = known.ours
		if known.part == noColon {
			m.Line = cmp.Or(lineWith(data, equals), m.Line)
		}
		if m.Line == 0 && known.line != "" {
			m.Line = lineWith(data, known.line)
		}
		break
	}
	if m.Line == 0 {
		m.Line = damagedLine(data)
	}
	return m
}

// noColon is what the parser says lines late.
const noColon = "could not find expected ':'"

// A parserText is a part of what the parser says, and what we do. It names no line
// for some: there it is the first with a pattern.
type parserText struct{ part, ours, line string }

func parserTexts() []parserText {
	const star = `(^|[\s\[{,])\*\S`
	return []parserText{
		{"mapping values are not allowed", "a value begins here where none can be: the indentation differs from the line above, or a text with a colon and a blank needs quotes", ""},
		{"did not find expected key", "a field is expected about here: the indentation of this line does not fit those above, or a quote is not closed", ""},
		{"did not find expected '-' indicator", "an element of a list, with a hyphen, is expected about here: the indentation does not fit the lines above", ""},
		{"block sequence entries are not allowed", "a list cannot begin here: put its first hyphen in a line of its own", ""},
		{noColon, "a field without a colon stands here or in the line above", ""},
		{"tab character", "it is indented by a tab: indent by blanks", ""},
		{"cannot start any token", "a text cannot begin with this character: indent by blanks, never by tabs, and put texts that begin with @, ` or % in quotes", ""},
		{"alphabetic or numeric character", "a text that begins with * or & needs quotes, such as '*.*'", star},
		{"unknown anchor", "a text that begins with * needs quotes, such as '*.*'; without, it stands for an anchor (&) of this file, which has none of that name", star},
		{"map merge requires", "a merge (<<) takes an anchor (*) of a set of fields, or several in brackets: write the fields out instead", merges},
		{"contains itself", "an anchor (&) has itself (*) in it: write the fields out", star},
		{"excessive aliasing", "anchors stand for more than any such file has: write the fields out", star},
		{"found unexpected end of stream", "a quote is not closed", ""},
		{"did not find expected ',' or", "a bracket or brace is not closed, or a comma is missing", ""},
		{"invalid map key", notFieldName, noName},
		{"control characters", "it has characters that no text has: the file may be damaged, or of another kind", ""},
		{"UTF-8", "it is not UTF-8: the file may be damaged, or of another kind", ""},
	}
}

// parseJSON reads JSON. Its grammar is that of Go's own package; kube-apiserver's
// differs from that in what it does with fields.
func parseJSON(data []byte) (node, Mistakes) {
	if err := json.Unmarshal(data, new(any)); err != nil {
		m := Mistake{Text: "it begins with a brace, so kube-apiserver reads it as JSON, and it is none: JSON has quotes around every name and text, no comments, and nothing behind its last brace"}
		if at, ok := errors.AsType[*json.SyntaxError](err); ok {
			m.Line = 1 + bytes.Count(data[:min(at.Offset, int64(len(data)))], []byte("\n"))
		}
		return node{}, Mistakes{m}
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	r := reader{decoder: decoder}
	root := r.value("")
	return root, r.mistakes
}

// A reader reads JSON that is known to be some.
type reader struct {
	decoder  *json.Decoder
	mistakes Mistakes
}

func (r *reader) value(path string) node {
	token, _ := r.decoder.Token()
	switch v := token.(type) {
	case json.Delim:
		if v == '[' {
			return r.list(path)
		}
		return r.object(path)
	case string:
		return node{kind: text, text: v}
	case json.Number:
		return node{kind: number, text: v.String()}
	case bool:
		return node{kind: boolean}
	}
	return node{kind: null}
}

func (r *reader) list(path string) node {
	n := node{kind: list}
	for r.decoder.More() {
		n.items = append(n.items, r.value(element(path, len(n.items))))
	}
	_, _ = r.decoder.Token() // the bracket
	return n
}

func (r *reader) object(path string) node {
	n := node{kind: object}
	given := map[string]bool{}
	for r.decoder.More() {
		token, _ := r.decoder.Token()
		name, _ := token.(string)
		if given[name] {
			r.mistakes.add(Form, below(path, field(name)), "is given twice")
		}
		given[name] = true
		n.fields = append(n.fields, pair{name, r.value(below(path, field(name)))})
	}
	_, _ = r.decoder.Token() // the brace
	return n
}

func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
