package loaders_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mutations makes files that are nearly like others, mostly like good ones: most
// changes make a file a bad one. The same seed makes the same.
func mutations(seed uint64, count int, good, others [][]byte) [][]byte {
	m := mutator{rand.New(rand.NewPCG(seed, 0))} //nolint:gosec // the same files in each run
	all := make([][]byte, count)
	for i := range all {
		data := one(m, good)
		if m.IntN(4) == 0 {
			data = one(m, others)
		}
		for range 1 + m.IntN(3)/2 {
			if m.IntN(4) == 0 {
				data = []byte(m.text(string(data)))
			} else {
				data = m.tree(data)
			}
		}
		all[i] = data
	}
	return all
}

type mutator struct{ *rand.Rand }

func one[T any](m mutator, of []T) T { return of[m.IntN(len(of))] }

// tree changes what the file says: of a file that is no YAML, its text.
func (m mutator) tree(data []byte) []byte {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil || len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return []byte(m.text(string(data)))
	}
	top := root.Content[0]
	var objects, lists, scalars []*yaml.Node
	visit(top, func(n *yaml.Node) {
		switch n.Kind {
		case yaml.MappingNode:
			if len(n.Content) > 0 {
				objects = append(objects, n)
			}
		case yaml.SequenceNode:
			lists = append(lists, n)
		case yaml.ScalarNode:
			scalars = append(scalars, n)
		case yaml.DocumentNode, yaml.AliasNode:
		}
	})
	if len(objects) == 0 {
		return []byte(m.text(string(data)))
	}
	object := one(m, objects)
	field := 2 * m.IntN(len(object.Content)/2)
	switch m.IntN(12) {
	case 0: // moved to another object
		pair := slices.Clone(object.Content[field : field+2])
		object.Content = slices.Delete(object.Content, field, field+2)
		to := one(m, objects)
		if to != pair[1] && !within(pair[1], to) {
			to.Content = append(to.Content, pair...)
		}
	case 1: // doubled
		object.Content = append(object.Content, object.Content[field:field+2]...)
	case 2: // renamed
		object.Content[field] = scalar(m.name(object.Content[field].Value))
	case 3: // gone
		object.Content = slices.Delete(object.Content, field, field+2)
	case 4: // another type
		object.Content[field+1] = m.value()
	case 5, 6: // another value of the same field
		m.refill(object.Content[field].Value, &object.Content[field+1])
	case 7: // an element doubled, moved or gone
		if len(lists) > 0 {
			m.list(one(m, lists), one(m, lists))
		}
	case 8: // another element
		m.grow(lists)
	case 9:
		if len(scalars) > 0 {
			at := one(m, scalars)
			at.Style = one(m, []yaml.Style{0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.LiteralStyle, yaml.FoldedStyle})
			at.Tag = ""
		}
	case 10: // a valid change
		m.setting(objects)
	case 11:
		return m.json(top)
	}
	return encoded(&root, data)
}

func visit(n *yaml.Node, do func(*yaml.Node)) {
	do(n)
	for _, child := range n.Content {
		visit(child, do)
	}
}

func within(n, wanted *yaml.Node) bool {
	found := false
	visit(n, func(one *yaml.Node) { found = found || one == wanted })
	return found
}

func encoded(n *yaml.Node, otherwise []byte) []byte {
	out, err := yaml.Marshal(n)
	if err != nil {
		return otherwise
	}
	return out
}

func scalar(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }

func (m mutator) name(old string) string {
	names := []string{
		"apiVersion", "kind", "resources", "providers", "kms", "aesgcm", "aescbc", "secretbox", "identity", "name", "endpoint", "cachesize", "timeout", "keys", "secret",
		strings.ToUpper(old[:min(1, len(old))]) + old[min(1, len(old)):], strings.ToLower(old), old + "s", strings.TrimSuffix(old, "s"),
		"metadata", "cacheSize", "1", "true", "null", "~", "2.5", "''", "a b", "<<",
	}
	return one(m, names)
}

// keys are of 16, 24 and 32 bytes, and of lengths that no provider takes.
func keys() []string {
	return []string{
		"c2VjcmV0IGlzIHNlY3VyZQ==", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
		"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "c2VjcmV0IGlzIHNlY3VyZSwgb3IgaXMgaXQ/Cg==",
	}
}

func (m mutator) value() *yaml.Node {
	texts := []string{
		"", "null", "~", "true", "off", "0", "1", "-1", "3", "3.5", "1e3", "1000.0", "2147483648", "0x10", "010", "1_000", ".inf", ".nan", "[]", "{}", "[a]", "{a: b}",
		"3s", "'3s'", "2001-01-01", "!!binary c2VjcmV0", "!!str 3", "[null]", "[{}]", "'x'", "unix:///a", "v1", "v2", "secrets", "'*.*'", "190:20:30",
	}
	return m.parsed(one(m, texts))
}

func (mutator) parsed(text string) *yaml.Node {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil || len(n.Content) == 0 {
		return scalar(text)
	}
	return n.Content[0]
}

// refill gives a field a value that is of its kind, right or wrong.
func (m mutator) refill(name string, at **yaml.Node) {
	values := map[string][]string{
		"apiVersion": {"v1", "v2", "v3", "V1", "''", "apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "a/b/c", "null"},
		"kind":       {"EncryptionConfiguration", "EncryptionConfig", "encryptionconfiguration", "Pod", "AdmissionConfiguration", "null"},
		"name":       {"a", "b", "key1", "a:b", "''", "a/b", "a b", "null", "1", "'1'", "ü"},
		"endpoint":   {"unix:///a", "unix:/a", "unix://a/b", "unix://", "unix:", "unix:a", "unix:///@a", "/a", "http://a", "unix:///a%25zz", "unix:///a%zz", "UNIX:///a", "''", "null", "'unix:///a b'", "unix://[a"},
		"cachesize":  {"0", "1", "-1", "1000", "'1000'", "1e3", "10.5", "99999999999", "null", "0x10", "010", "1_000", "true", "-0", "1000.0"},
		"timeout":    {"3s", "0s", "-1s", "3", "'3'", "1m", "3 s", "null", "1h2m3s", "1ns", "''", ".5s", "true", "9999999h", "[]", "{}"},
		"secret":     append(keys(), "''", "null", "'a'", "${KEY}", "<BASE 64 ENCODED SECRET>", "1234567890123456", "'c2VjcmV0 IGlzIHNlY3VyZQ=='", "c2VjcmV0IGlzIHNlY3VyZQ"),
		"identity":   {"{}", "null", "[]", "''", "{a: b}", "true"},
		"resources":  {"[]", "null", "[secrets]", "[secrets, secrets]", "['*.*']", "['*.', '*.apps']", "[null]", "secrets", "['']"},
		"providers":  {"[]", "null", "[{identity: {}}]", "[identity: {}]", "[null]", "[{}]", "{identity: {}}"},
		"keys":       {"[]", "null", "[{name: a, secret: " + one(m, keys()) + "}]", "[null]", "{}"},
	}
	if of, ok := values[name]; ok {
		*at = m.parsed(one(m, of))
		return
	}
	*at = m.value()
}

func (m mutator) list(from, to *yaml.Node) {
	if len(from.Content) == 0 {
		return
	}
	i := m.IntN(len(from.Content))
	element := from.Content[i]
	switch m.IntN(4) {
	case 0:
		from.Content = append(from.Content, element)
	case 1:
		from.Content = slices.Delete(from.Content, i, i+1)
	case 2:
		j := m.IntN(len(from.Content))
		from.Content[i], from.Content[j] = from.Content[j], from.Content[i]
	case 3:
		if !within(element, to) {
			from.Content = slices.Delete(from.Content, i, i+1)
			to.Content = append(to.Content, element)
		}
	}
}

func (m mutator) grow(lists []*yaml.Node) {
	if len(lists) == 0 {
		return
	}
	at := one(m, lists)
	if len(at.Content) == 0 {
		return
	}
	like := at.Content[0]
	switch {
	case like.Kind == yaml.ScalarNode:
		at.Content = append(at.Content, scalar(one(m, []string{
			"secrets", "secrets.", "configmaps", "events", "pods", "deployments.apps", "*.apps", "*.", "*.*", "*", "Secrets", "secret", "secrets.v1", "events.events.k8s.io",
			"*.events.k8s.io", "ingresses.extensions", "*.extensions", "secrets.*", "apiserveripinfo", "serviceipallocations", "a.b.c", "pandas.example.com", "*.example.com", "",
		})))
	case len(like.Content) > 0 && like.Content[0].Value == "resources" || len(like.Content) > 2 && like.Content[2].Value == "resources":
		at.Content = append(at.Content, m.parsed(one(m, []string{
			"{resources: [configmaps], providers: [{identity: {}}]}", "{resources: ['*.apps'], providers: [{identity: {}}]}", "{resources: ['*.*'], providers: [{identity: {}}]}",
			"{resources: ['*.'], providers: [{identity: {}}]}", "{resources: [pods], providers: [{kms: {apiVersion: v2, name: pods, endpoint: 'unix:///a'}}]}", "{}", "null",
		})))
	default:
		at.Content = append(at.Content, m.parsed(one(m, []string{
			"identity: {}", "kms: {apiVersion: v2, name: new, endpoint: 'unix:///a'}", "kms: {name: old, endpoint: 'unix:///a', cachesize: 10}", "kms: {name: old, endpoint: 'unix:///b'}",
			"{aesgcm: {keys: [{name: a, secret: " + one(m, keys()) + "}]}}", "{aescbc: {keys: [{name: a, secret: " + one(m, keys()) + "}]}}",
			"{secretbox: {keys: [{name: a, secret: " + one(m, keys()) + "}]}}", "{name: a, secret: " + one(m, keys()) + "}", "{}", "null",
		})))
	}
}

// setting changes a kms entry or key in a way that is mostly right.
func (m mutator) setting(objects []*yaml.Node) {
	object := one(m, objects)
	for i := 0; i+1 < len(object.Content); i += 2 {
		switch object.Content[i].Value {
		case "name":
			object.Content[i+1] = scalar(one(m, []string{"a", "b", "c-d", "e.f", "g/h"}))
		case "timeout":
			object.Content[i+1] = scalar(one(m, []string{"1s", "3s", "10s", "1m30s"}))
		case "endpoint":
			object.Content[i+1] = scalar(one(m, []string{"unix:///a", "unix:///@a", "unix:/a"}))
		}
	}
}

// json writes the file as JSON, or nearly.
func (m mutator) json(top *yaml.Node) []byte {
	var value any
	if top.Decode(&value) != nil {
		return []byte("{}")
	}
	out, err := json.MarshalIndent(value, "", one(m, []string{"", "  ", "\t"}))
	if err != nil {
		return []byte("{")
	}
	switch m.IntN(10) {
	case 0:
		return append(out, "\n---\na: b\n"...)
	case 1:
		return append([]byte("# a comment\n"), out...)
	case 2:
		return append(out, '}')
	case 3:
		return []byte(strings.Replace(string(out), "\"", "'", 2))
	case 4:
		return append([]byte("\n \t"), out...)
	case 5:
		return regexp.MustCompile(`"(kind|name)": *("[^"]*")`).ReplaceAll(out, []byte(`"$1": $2, "$1": $2`))
	case 6:
		return regexp.MustCompile(`[]}]`).ReplaceAll(out, []byte(",$0"))
	}
	return out
}

// text changes how the file is written.
func (m mutator) text(data string) string {
	lines := strings.Split(strings.TrimSuffix(data, "\n"), "\n")
	i := m.IntN(len(lines))
	switch m.IntN(14) {
	case 0:
		lines[i] = "  " + lines[i]
	case 1:
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	case 2:
		lines[i] = "\t" + lines[i]
	case 3:
		lines[i] += " # a comment"
	case 4:
		lines = slices.Insert(lines, i, lines[i])
	case 5:
		lines = slices.Delete(lines, i, i+1)
	case 6:
		lines = append(lines, "---", one(m, []string{"", "a: b", "kind: [", "# nothing", "--- x"}))
	case 7:
		lines = slices.Insert(lines, 0, one(m, []string{"---", "# a comment", "%YAML 1.1", "---\n---", "...", "\ufeff", "%YAML 1.1\n---"}))
	case 8:
		lines[i] = strings.Replace(lines[i], ": ", one(m, []string{":", " : ", ":  ", "= ", ": '", ": &a ", ": *a "}), 1)
	case 9:
		for j := range lines {
			lines[j] = "  " + lines[j]
		}
	case 10:
		return strings.Join(lines, "\r\n")
	case 11:
		lines[i] = strings.Replace(lines[i], "- ", one(m, []string{"-", "-  ", "* ", "- - "}), 1)
	case 12:
		for j := i; j < len(lines); j++ {
			lines[j] = " " + lines[j]
		}
	case 13:
		lines = slices.Insert(lines, i, one(m, []string{"", "  ", "#", "  # x", "~", "? x", ": y", fmt.Sprintf("x%d: y", i), "<<: {kind: x}"}))
	}
	return strings.Join(lines, "\n") + "\n"
}
