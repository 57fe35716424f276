package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Forms of scalars that every reader of YAML takes for the same.
var (
	durationForm = regexp.MustCompile(`^-?([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$`)
	boolForm     = regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$`) // true or false in YAML 1.1, text in 1.2
)

// What a template leaves, and its mark alone, without what may be a secret in it.
var (
	unfilledForm = regexp.MustCompile(`\$\{[^{}]*\}|\$\([A-Za-z_][A-Za-z0-9_]*\)|\{\{[^{}]*\}\}|\{%[^{}]*%\}`)
	variableForm = regexp.MustCompile(`^(\$[A-Za-z_][A-Za-z0-9_]*|<[A-Za-z][A-Za-z0-9 _-]*>)$`)
	markForm     = regexp.MustCompile(`^[${}(<]+[ \w.-]*[})>%]*$`)
)

// A decoder turns the text of a file into a document. It goes on after a
// mistake, and takes only what every reader of YAML understands in one way.
type decoder struct {
	file     string
	last     int // line of the file
	mistakes Mistakes
	lines    map[string]int  // path → line of its field
	broken   map[string]bool // paths of which a mistake is known
}

// decode reads data into doc, over the defaults that stand there. It is strict:
// an unknown or doubled field is a mistake. It reports whether there is a document
// to look at.
func (d *decoder) decode(data []byte, doc *document) bool {
	root := d.parse(data)
	if root == nil || !d.knows(root) {
		return false
	}
	d.value(root, reflect.ValueOf(doc).Elem(), "")
	return true
}

// add takes the parser's line, which is one too many behind a last line that
// does not end.
func (d *decoder) add(line int, path, text string) {
	d.mistakes = append(d.mistakes, Mistake{File: d.file, Line: min(line, d.last), Field: path, Text: text})
	d.broken[path] = true
}

// knows looks at the head alone: of a file that is meant for another program or
// release, each further mistake would mislead.
func (d *decoder) knows(root *yaml.Node) bool {
	if root.Kind != yaml.MappingNode {
		return true
	}
	before := len(d.mistakes)
	for i := 0; i+1 < len(root.Content); i += 2 {
		name, value := root.Content[i], root.Content[i+1]
		if value.Kind != yaml.ScalarNode || value.Value == "" {
			continue
		}
		switch {
		case name.Value == "apiVersion" && value.Value != apiVersion:
			text := fmt.Sprintf("is %s: want %s", quote(value.Value), apiVersion)
			if version, ok := strings.CutPrefix(value.Value, apiGroup+"/"); ok {
				text = fmt.Sprintf("this release does not know %s of %s: want %s", quote(version), apiGroup, apiVersion)
			}
			d.add(value.Line, "apiVersion", text)
		case name.Value == "kind" && value.Value != kind:
			d.add(value.Line, "kind", fmt.Sprintf("is %s: want %s", quote(value.Value), kind))
		}
	}
	return len(d.mistakes) == before
}

// value reads a node into a field. Of what is wrong it leaves the field as it is.
func (d *decoder) value(n *yaml.Node, to reflect.Value, path string) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.add(n.Line, path, "YAML's anchors and aliases are not taken: write it out")
	case n.Style&yaml.TaggedStyle != 0:
		d.add(n.Line, path, "YAML's tags are not taken: leave "+quote(n.Tag)+" out")
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.add(n.Line, path, "has no value")
	case isTemplate(n):
		d.add(n.Line, path, unfilled)
	case to.Kind() == reflect.Struct:
		d.object(n, to, path)
	case to.Kind() == reflect.Slice:
		d.list(n, to, path)
	case to.Kind() == reflect.Map:
		d.texts(n, to, path)
	case n.Kind != yaml.ScalarNode:
		d.mismatch(n, to, path)
	default:
		d.scalar(n, to, path)
	}
}

func (d *decoder) mismatch(n *yaml.Node, to reflect.Value, path string) {
	d.add(n.Line, path, "is "+called(n)+": want "+wanted(to.Type()))
}

func (d *decoder) object(n *yaml.Node, to reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.mismatch(n, to, path)
		return
	}
	fields := fieldsOf(to.Type())
	seen := map[string]bool{}
	d.pairs(n, path, func(name, value *yaml.Node, at string) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name.Value })
		if i < 0 {
			if meant := d.unknown(name, at, namesOf(fields)); meant != "" { // so that one mistake is told once
				seen[meant], d.broken[join(path, meant)] = true, true
			}
			return
		}
		seen[name.Value] = true
		if value.Kind == yaml.ScalarNode && value.Value == "" && isText(value) {
			d.add(value.Line, at, "is empty")
			return
		}
		d.value(value, to.Field(fields[i].index), at)
	})
	for _, f := range fields {
		if f.required && !seen[f.name] {
			d.add(n.Line, join(path, f.name), "is missing")
		}
	}
}

// unknown returns the field that was meant; "" where none is near.
func (d *decoder) unknown(name *yaml.Node, at string, fields []string) string {
	visible := strings.Map(func(r rune) rune {
		if isInvisible(r) {
			return -1
		}
		return r
	}, name.Value)
	meant, text := Nearest(visible, fields), "unknown field"
	switch {
	case visible != name.Value:
		text += ": an invisible character stands in its name, take it out"
	case meant != "":
		text += "; did you mean " + meant + "?"
	}
	d.add(name.Line, at, text)
	return meant
}

// pairs visits each field of a mapping once, and names the doubled ones.
func (d *decoder) pairs(n *yaml.Node, path string, visit func(name, value *yaml.Node, at string)) {
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		at := join(path, name.Value)
		switch {
		case name.ShortTag() == "!!merge":
			d.add(name.Line, at, "YAML's merges are not taken: write it out")
			continue
		case isTemplate(name):
			d.add(name.Line, path, unfilled)
			continue
		case name.Kind != yaml.ScalarNode || name.Anchor != "" || name.Style&yaml.TaggedStyle != 0 || !isText(name):
			d.add(name.Line, at, "the name of a field must be text: put it in quotes")
			continue
		}
		if first, twice := lines[name.Value]; twice {
			d.add(name.Line, at, fmt.Sprintf("is given twice, first on line %d", first))
			continue
		}
		lines[name.Value] = name.Line
		d.lines[at] = name.Line
		visit(name, value, at)
	}
}

func (d *decoder) list(n *yaml.Node, to reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.mismatch(n, to, path)
		return
	}
	if len(n.Content) == 0 { // of a template that was not filled in, it would let everyone in
		d.add(n.Line, path, "is empty: give at least one")
	}
	items := n.Content[:min(len(n.Content), maxItems+1)] // one too many is enough to say so
	to.Set(reflect.MakeSlice(to.Type(), len(items), len(items)))
	for i, one := range items {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.lines[at] = one.Line
		d.value(one, to.Index(i), at)
	}
}

// texts reads a mapping of texts with names of the operator's own.
func (d *decoder) texts(n *yaml.Node, to reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.mismatch(n, to, path)
		return
	}
	out := map[string]string{}
	d.pairs(n, path, func(name, value *yaml.Node, at string) {
		text := reflect.New(to.Type().Elem()).Elem()
		d.value(value, text, at)
		out[name.Value] = text.String()
	})
	to.Set(reflect.ValueOf(out))
}

func (d *decoder) scalar(n *yaml.Node, to reflect.Value, path string) {
	switch unfilled := placeholder(n.Value); {
	case unfilled != "" && !ofContext(path):
		d.add(n.Line, path, unfilled)
	case to.Type() == reflect.TypeFor[time.Duration]():
		took, err := time.ParseDuration(n.Value)
		if err != nil || !durationForm.MatchString(n.Value) {
			d.add(n.Line, path, quote(n.Value)+" is no duration: want a number and its unit, such as 2.5s or 3m")
			return
		}
		to.SetInt(int64(took))
	case to.Kind() == reflect.String:
		if !isText(n) {
			d.add(n.Line, path, "is "+called(n)+": want text, put it in quotes")
			return
		}
		to.SetString(n.Value)
	default:
		number, err := strconv.ParseUint(n.Value, 10, to.Type().Bits())
		if err != nil || isQuoted(n) || strconv.FormatUint(number, 10) != n.Value { // 010 is eight to some readers
			d.add(n.Line, path, quote(n.Value)+" is no number: want "+wanted(to.Type()))
			return
		}
		to.SetUint(number)
	}
}

// unfilled is told of a template's value: YAML takes {{ name }} for two mappings, one
// within the other.
const unfilled = "is {{ }} of a template that nobody has filled in: fill it in, and give the file that comes out"

func isTemplate(n *yaml.Node) bool {
	inner := func(n *yaml.Node) bool { return n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0 }
	return inner(n) && len(n.Content) > 0 && inner(n.Content[0])
}

// placeholder is what is told of a text that holds one; "" where it holds none. It
// repeats only that: the text may be a secret.
func placeholder(text string) string {
	found := unfilledForm.FindString(text)
	if found == "" {
		found = variableForm.FindString(text)
	}
	if found == "" {
		return ""
	}
	if !markForm.MatchString(found) { // such as ${NAME:-default}, whose rest may be a secret
		found = map[byte]string{'$': "${...}", '{': "{{...}}"}[found[0]]
	}
	return "holds " + quote(found) + ", a placeholder that nobody has filled in: put your own there"
}

// ofContext tells the values of an encryption context, which the operator chooses.
func ofContext(path string) bool { return strings.Contains(path, "].encryptionContext") }

// isInvisible tells what nobody sees in a name: U+200B, U+00A0, U+FEFF and their like.
func isInvisible(r rune) bool { return r > unicode.MaxASCII && !unicode.IsGraphic(r) || r == '\u00a0' }

func isQuoted(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
}

// isText reports whether all readers of YAML take a scalar for text: 0600 is a
// number and yes is true, to some.
func isText(n *yaml.Node) bool {
	return n.ShortTag() == "!!str" && (isQuoted(n) || !boolForm.MatchString(n.Value))
}

// called says what a node is, in plain words and without its value, which may be
// a secret.
func called(n *yaml.Node) string {
	tag := n.ShortTag()
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case tag == "!!int" || tag == "!!float":
		return "a number"
	case tag == "!!timestamp":
		return "a date"
	case !isText(n):
		return "true or false"
	}
	return "text"
}

// wanted says of what a field is made.
func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 2.5s or 3m"
	case t.Kind() == reflect.Struct:
		return "a mapping with the fields " + enumerated(namesOf(fieldsOf(t)))
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Map:
		return "a mapping of names to texts"
	case t.Kind() == reflect.String:
		return "text"
	}
	return fmt.Sprintf("a whole one from 0 to %d, without quotes", uint64(1)<<t.Bits()-1)
}

// A field is one of a document's structs.
type field struct {
	name     string
	index    int
	required bool
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		if tag, ok := t.Field(i).Tag.Lookup("file"); ok {
			name, required := strings.CutSuffix(tag, ",required")
			fields = append(fields, field{name, i, required})
		}
	}
	return fields
}

func namesOf(fields []field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

// join appends a field's name to a path; one that is no word is quoted.
func join(path, name string) string {
	switch {
	case name == "" || strings.ContainsFunc(name, isPunctuation):
		return path + "[" + quote(name) + "]"
	case path == "":
		return cut(name)
	}
	return path + "." + cut(name)
}

// isPunctuation reports whether a rune could be taken for the path's own.
func isPunctuation(r rune) bool {
	return r != '_' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}

// enumerated is a list as a sentence has it: a, b and c.
func enumerated(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
