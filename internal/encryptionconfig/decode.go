package encryptionconfig

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Forms of a time, and of one without its unit.
var (
	timeForm   = regexp.MustCompile(`^[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|\x{b5}s|\x{3bc}s|ms|s|m|h))+$`)
	numberForm = regexp.MustCompile(`^[-+.0-9]+$`)
)

// A shape is a kind of object in the file: where it stands, and its fields.
type shape struct {
	where  string
	fields []string
}

// shapes are those of k8s.io/apiserver/pkg/apis/apiserver/v1/types_encryption.go,
// in the order in which an unknown field is looked for in the others: misplaced
// ones mostly belong further in.
func shapes() []shape {
	return []shape{kmsShape(), keysShape(), keyShape(), providerShape(), entryShape(), fileShape()}
}

func fileShape() shape {
	return shape{"at the top of the file", []string{"apiVersion", "kind", "resources"}}
}

func entryShape() shape {
	return shape{"in an element of the list resources", []string{"resources", "providers"}}
}

func providerShape() shape {
	return shape{"in an element of providers", []string{"kms", "aesgcm", "aescbc", "secretbox", "identity"}}
}

func kmsShape() shape {
	return shape{"under kms", []string{"apiVersion", "name", "endpoint", "cachesize", "timeout"}}
}

func keysShape() shape     { return shape{"under aesgcm, aescbc or secretbox", []string{"keys"}} }
func keyShape() shape      { return shape{"in an element of keys", []string{"name", "secret"}} }
func identityShape() shape { return shape{"under identity", nil} }

// A decoder makes a Configuration of the file's values, as kube-apiserver's strict
// decoder does (sigs.k8s.io/json.UnmarshalStrict): names count with their case,
// unknown fields are refused, and null is the same as no field.
type decoder struct {
	mistakes Mistakes
	nulls    map[string]string // path of a provider → the field of it that is null
}

// fields checks that a value is an object, and returns its fields. Null has none.
func (d *decoder) fields(n node, path string, s shape) map[string]node {
	if n.kind == null || !d.is(n, path, object) {
		return nil
	}
	all := map[string]node{}
	for _, one := range n.fields {
		if !slices.Contains(s.fields, one.name) {
			d.mistakes = append(d.mistakes, Mistake{Path: below(path, field(one.name)), Text: unknown(one.name, s), at: below(path, one.name)})
			continue
		}
		all[one.name] = one.value
	}
	return all
}

// unknown says what a field that is not known here may be.
func unknown(name string, s shape) string {
	if name == mergeKey {
		return "is a merge of YAML, and no merge where it stands in quotes or in JSON: write the fields out"
	}
	name = plainly(name)
	if slices.Contains(s.fields, name) {
		return "is not known " + s.where + ": did you mean " + name + "?"
	}
	for _, known := range s.fields {
		if strings.EqualFold(known, name) {
			return "is not known: write " + known + ", capitals count"
		}
	}
	for _, other := range shapes() {
		if slices.Contains(other.fields, name) {
			return "belongs " + other.where + ", not " + s.where + ": look at the indentation"
		}
	}
	if near := nearest(name, s.fields); near != "" {
		return "is not known " + s.where + ": did you mean " + near + "?"
	}
	if len(s.fields) == 0 {
		return "is not known " + s.where + ": write identity: {}"
	}
	return "is not known " + s.where + ": there are " + strings.Join(s.fields, ", ")
}

func (d *decoder) is(n node, path string, want kind) bool {
	if n.kind == want {
		return true
	}
	switch {
	case want == object && n.kind == text && n.text == "":
		d.mistakes.add(Form, path, "is an empty text: it needs fields under it, or {}")
	case want == text && (n.kind == number || n.kind == boolean):
		d.mistakes.add(Form, path, "is %s and must be a text: put it in quotes", n.kind)
	default:
		d.mistakes.add(Form, path, "is %s and must be %s", n.kind, want)
	}
	return false
}

func (d *decoder) text(n node, path string) string {
	if n.kind == "" || n.kind == null || !d.is(n, path, text) {
		return ""
	}
	return n.text
}

func (d *decoder) list(n node, path string) []node {
	if n.kind == "" || n.kind == null || !d.is(n, path, list) {
		return nil
	}
	return n.items
}

// file decodes the whole. Of a file with another head every field would be
// unknown, so that is told alone.
func (d *decoder) file(n node) *Configuration {
	if n.kind != object {
		if n.kind == null {
			d.mistakes.add(Form, "", "is empty, or its first document is: kube-apiserver reads no other")
		} else {
			d.is(n, "", object)
		}
		return nil
	}
	head := &decoder{}
	c := &Configuration{}
	for _, one := range n.fields {
		switch one.name {
		case "apiVersion":
			c.APIVersion = head.text(one.value, one.name)
		case "kind":
			c.Kind = head.text(one.value, one.name)
		}
	}
	head.head(c)
	if d.mistakes = append(d.mistakes, head.mistakes...); len(head.mistakes) > 0 {
		return nil
	}
	for i, entry := range d.list(d.fields(n, "", fileShape())["resources"], "resources") {
		c.Resources = append(c.Resources, d.entry(entry, element("resources", i)))
	}
	return c
}

func (d *decoder) head(c *Configuration) {
	switch {
	case len(d.mistakes) > 0:
		return
	case c.APIVersion == legacyAPIVersion && c.Kind == legacyKind, c.APIVersion == APIVersion && c.Kind == Kind:
		return
	case c.APIVersion == "" && c.Kind == "":
		d.mistakes.add(Form, "", "lacks its head: it begins with apiVersion: %s and kind: %s", APIVersion, Kind)
	case c.APIVersion == "":
		d.mistakes.add(Form, "apiVersion", "is missing: write apiVersion: %s", APIVersion)
	case c.Kind == "":
		d.mistakes.add(Form, "kind", "is missing: write kind: %s", Kind)
	case c.Kind == Kind:
		d.mistakes.add(Form, "apiVersion", "is %s: kube-apiserver takes %s", Quote(c.APIVersion), APIVersion)
	default:
		d.mistakes.add(Form, "kind", "is %s of %s: kube-apiserver takes %s of %s", Quote(c.Kind), Quote(c.APIVersion), Kind, APIVersion)
	}
}

func (d *decoder) entry(n node, path string) Resource {
	f := d.fields(n, path, entryShape())
	var r Resource
	at := below(path, "resources")
	for i, one := range d.list(f["resources"], at) {
		r.Resources = append(r.Resources, d.text(one, element(at, i)))
	}
	at = below(path, "providers")
	for i, one := range d.list(f["providers"], at) {
		r.Providers = append(r.Providers, d.provider(one, element(at, i)))
	}
	return r
}

func (d *decoder) provider(n node, path string) Provider {
	var p Provider
	f := d.fields(n, path, providerShape())
	for _, name := range providerShape().fields {
		one, ok := f[name]
		at := below(path, name)
		switch {
		case !ok:
		case one.kind == null:
			if d.nulls == nil {
				d.nulls = map[string]string{}
			}
			d.nulls[path] = name
		case name == "kms":
			p.KMS = d.kms(one, at)
		case name == "aesgcm":
			p.AESGCM = d.keys(one, at)
		case name == "aescbc":
			p.AESCBC = d.keys(one, at)
		case name == "secretbox":
			p.Secretbox = d.keys(one, at)
		case name == "identity":
			d.fields(one, at, identityShape())
			p.Identity = &Identity{}
		}
	}
	return p
}

func (d *decoder) kms(n node, path string) *KMS {
	f := d.fields(n, path, kmsShape())
	at := func(name string) (node, string) { return f[name], below(path, name) }
	return &KMS{
		APIVersion: d.text(at("apiVersion")), Name: d.text(at("name")), Endpoint: d.text(at("endpoint")),
		CacheSize: d.cacheSize(at("cachesize")), Timeout: d.timeout(at("timeout")),
	}
}

func (d *decoder) cacheSize(n node, path string) *int32 {
	if n.kind == "" || n.kind == null {
		return nil
	}
	if n.kind == text {
		d.mistakes.add(CacheSize, path, "is a text and must be a number: write it without quotes")
		return nil
	}
	if n.kind != number {
		d.mistakes.add(CacheSize, path, "is %s and must be a number", n.kind)
		return nil
	}
	size, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil || size > math.MaxInt32 || size < math.MinInt32 {
		d.mistakes.add(CacheSize, path, "is %s: it must be a whole number of at most %d", Shown(n.text), math.MaxInt32)
		return nil
	}
	count := int32(size)
	return &count
}

func (d *decoder) timeout(n node, path string) *time.Duration {
	switch n.kind {
	case "", null:
		return nil
	case number:
		d.mistakes.add(Timeout, path, "is a number: it needs a unit, such as 3s")
		return nil
	case text:
		timeout, err := time.ParseDuration(n.text)
		if err != nil {
			d.mistakes.add(Timeout, path, "is %s%s", Quote(n.text), notTime(n.text))
		}
		return &timeout
	case boolean, list, object:
	}
	d.mistakes.add(Timeout, path, "is %s: it must be a time, such as 3s", n.kind)
	return nil
}

// notTime says what is wrong with a text that time.ParseDuration refuses.
func notTime(text string) string {
	unit := strings.TrimSpace(strings.TrimLeft(text, "+-.0123456789 "))
	switch {
	case timeForm.MatchString(text):
		return ", too long for a time: kube-apiserver counts 292 years at most, write such as 3s"
	case numberForm.MatchString(text):
		return ": it needs a unit, such as 3s or 500ms"
	case slices.Contains([]string{"d", "day", "days", "w", "weeks", "y"}, unit):
		return ": hours are the longest unit, write such as 24h"
	case strings.ContainsFunc(text, unicode.IsSpace):
		return ": it has a blank, and a time has none, such as 3s or 500ms"
	}
	return ": it must be a time with one of the units ms, s, m and h, such as 3s or 500ms"
}

func (d *decoder) keys(n node, path string) *Keys {
	f := d.fields(n, path, keysShape())
	k := &Keys{}
	at := below(path, "keys")
	for i, one := range d.list(f["keys"], at) {
		path := element(at, i)
		key := d.fields(one, path, keyShape())
		k.Keys = append(k.Keys, Key{
			Name: d.text(key["name"], below(path, "name")), Secret: d.text(key["secret"], below(path, "secret")),
		})
	}
	return k
}
