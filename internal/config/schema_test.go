package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const schemaPath = "../../deploy/provider-configuration.schema.json"

// A schemaNode is what these tests know of a schema. Decoding is strict, so that
// nothing is in the schema that they do not look at: what a node says of itself is
// compared with the code, what it says of several fields the broken files show.
type schemaNode struct {
	Schema      string `json:"$schema"`
	ID          string `json:"$id"`
	Comment     string `json:"$comment"`
	Ref         string `json:"$ref"`
	Title       string
	Description string
	Type        string
	Const       string
	Enum        []string
	Default     any
	Pattern     string
	MinLength   *int `json:"minLength"`
	MaxLength   *int `json:"maxLength"`
	Minimum     *uint64
	Maximum     *uint64
	MinItems    *int `json:"minItems"`
	MaxItems    *int `json:"maxItems"`
	UniqueItems bool `json:"uniqueItems"`
	Items       *schemaNode
	Required    []string
	Properties  map[string]*schemaNode
	Additional  any                 `json:"additionalProperties"`
	Names       *schemaNode         `json:"propertyNames"`
	Dependent   map[string][]string `json:"dependentRequired"`
	AllOf       []*schemaNode       `json:"allOf"`
	Not         *schemaNode
	If, Then    *schemaNode
	Contains    *schemaNode
	Defs        map[string]*schemaNode `json:"$defs"`
}

func readSchema(t *testing.T) *schemaNode {
	t.Helper()
	data, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	var root schemaNode
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&root); err != nil {
		t.Fatalf("the schema has what this test does not compare: %v", err)
	}
	return &root
}

// What the fields of the document are, beyond their types.
func forms() map[string]string {
	return map[string]string{
		"socket.mode":                      modeForm.String(),
		"health.address":                   addressForm.String(),
		"health.healthzPath":               pathForm.String(),
		"health.livezPath":                 pathForm.String(),
		"providers[].name":                 nameForm.String(),
		"providers[].keys[].endpoint":      endpointForm.String(),
		"providers[].keys[].assumeRoleARN": roleForm.String(),
		"providers[].keys[].externalID":    externalIDForm.String(),
		"providers[].keys[].sourceARN":     sourceARNForm.String(),
	}
}

// A comparison walks through the schema and the structs together.
type comparison struct {
	t    *testing.T
	defs map[string]*schemaNode
	seen map[string]bool
}

func TestSchemaSaysWhatTheCodeSays(t *testing.T) {
	t.Parallel()
	root := readSchema(t)
	c := &comparison{t, root.Defs, map[string]bool{}}
	doc := newDocument()
	doc.Providers = []providerDocument{{Keys: []Key{{}}}}
	c.object(root, reflect.ValueOf(*doc), "")
	for _, at := range slices.Sorted(maps.Keys(forms())) {
		if !c.seen[at] {
			t.Errorf("%s: has a form and is no field", at)
		}
	}
	if root.Properties["apiVersion"].Const != apiVersion || root.Properties["kind"].Const != kind {
		t.Errorf("head %+v and %+v", root.Properties["apiVersion"], root.Properties["kind"])
	}
	if root.Schema != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("$schema is %q", root.Schema)
	}
}

func (c *comparison) errorf(at, format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("%s: %s", at, fmt.Sprintf(format, args...))
}

func (c *comparison) object(n *schemaNode, v reflect.Value, at string) {
	c.equal(at, "type", n.Type, "object")
	c.equal(at, "additionalProperties", n.Additional, false)
	var names, required []string
	for _, f := range fieldsOf(v.Type()) {
		names = append(names, f.name)
		if f.required {
			required = append(required, f.name)
		}
		if property := n.Properties[f.name]; property != nil {
			c.field(property, v.Field(f.index), strings.TrimPrefix(at+"."+f.name, "."))
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(names)), slices.Sorted(maps.Keys(n.Properties))); diff != "" {
		c.errorf(at, "fields (-code +schema):\n%s", diff)
	}
	if diff := cmp.Diff(required, n.Required); diff != "" {
		c.errorf(at, "required fields (-code +schema):\n%s", diff)
	}
}

func (c *comparison) field(n *schemaNode, v reflect.Value, at string) {
	c.seen[at] = true
	if n.Description == "" && n.Ref == "" {
		c.errorf(at, "has no description")
	}
	if n.Ref != "" {
		n = c.defs[strings.TrimPrefix(n.Ref, "#/$defs/")]
	}
	switch v.Kind() {
	case reflect.Struct:
		c.object(n, v, at)
	case reflect.Slice:
		c.list(n, v, at)
	case reflect.Map:
		c.equal(at, "type", n.Type, "object")
		c.equal(at, "additionalProperties", n.Additional, map[string]any{"type": "string"})
	case reflect.Uint32:
		c.equal(at, "type", n.Type, "integer")
		c.equal(at, "minimum and maximum", []uint64{*n.Minimum, *n.Maximum}, []uint64{0, 1<<32 - 1})
	default:
		c.text(n, v, at)
	}
	c.fallback(n, v, at)
}

func (c *comparison) list(n *schemaNode, v reflect.Value, at string) {
	c.equal(at, "type", n.Type, "array")
	c.equal(at, "minItems and maxItems", []int{*n.MinItems, *n.MaxItems}, []int{1, maxItems})
	item := reflect.Zero(v.Type().Elem())
	if v.Len() > 0 {
		item = v.Index(0)
	}
	items := *n.Items
	items.Description += "an item" // which needs none of its own
	c.field(&items, item, at+"[]")
}

func (c *comparison) text(n *schemaNode, v reflect.Value, at string) {
	c.equal(at, "type", n.Type, "string")
	var enum []string
	if choice, ok := reflect.TypeAssert[interface{ values() []string }](v); ok {
		enum = choice.values()
	}
	c.equal(at, "enum", n.Enum, enum)
	form := forms()[at]
	if v.Type() == reflect.TypeFor[time.Duration]() {
		form = strings.Replace(durationForm.String(), "-?", "", 1) // no duration may be negative
	}
	if form != "" {
		c.equal(at, "pattern", n.Pattern, form)
	}
	if form == "" && n.Pattern == "" && n.MinLength == nil && enum == nil && n.Const == "" {
		c.errorf(at, "takes an empty text, which the program does not")
	}
	switch at {
	case "providers[].name":
		c.equal(at, "maxLength", *n.MaxLength, maxName)
	case "providers[].keys[].externalID":
		c.equal(at, "minLength and maxLength", []int{*n.MinLength, *n.MaxLength}, []int{minExternalID, maxExternalID})
	}
}

// fallback compares what holds where nothing is said.
func (c *comparison) fallback(n *schemaNode, v reflect.Value, at string) {
	if took, ok := reflect.TypeAssert[time.Duration](v); ok {
		text, _ := n.Default.(string)
		said, err := time.ParseDuration(text)
		if err != nil || said != took {
			c.errorf(at, "default %v, want %v", n.Default, took)
		}
		return
	}
	var want any
	switch {
	case v.Kind() == reflect.Uint32 && !strings.HasSuffix(at, "]"):
		want = float64(v.Uint())
	case v.Kind() == reflect.String && v.String() != "":
		want = v.String()
	}
	c.equal(at, "default", n.Default, want)
}

func (c *comparison) equal(at, what string, schema, code any) {
	c.t.Helper()
	if diff := cmp.Diff(code, schema); diff != "" {
		c.errorf(at, "%s (-code +schema):\n%s", what, diff)
	}
}

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// bySchema is what an editor or a pipeline with the schema says of a file.
func bySchema(schema *jsonschema.Schema, data []byte) error {
	var document any
	if err := yaml.Unmarshal(data, &document); err != nil {
		return err
	}
	return schema.Validate(document)
}

// beyondSchema are the broken files that the schema takes, because it cannot
// know better.
func beyondSchema() map[string]string {
	return map[string]string{
		"a-context-that-is-too-long":        "a sum of lengths",
		"a-key-given-twice":                 "its Region is in its ARN too",
		"a-merge":                           "a matter of YAML",
		"a-name-given-twice":                "of two objects",
		"a-placeholder-for-a-key-id":        "a key id of no other form",
		"a-region-that-contradicts-the-arn": "of two texts",
		"a-second-document-that-is-no-yaml": "one document is looked at",
		"a-socket-given-twice":              "of two objects, and two ways to write a path",
		"a-variable-for-a-socket":           "a path of no form",
		"a-yaml-tag":                        "a matter of YAML",
		"an-empty-second-document":          "one document is looked at",
		"an-epoch-with-a-point":             "1.0 is an integer of JSON",
		"an-octal-epoch":                    "010 is 8 or 10, and both are integers",
		"no-such-group":                     "a matter of the machine",
		"two-documents":                     "one document is looked at",
		"yes-for-a-text":                    "text in YAML 1.2",
	}
}

func TestSchemaRefusesTheBrokenFilesThatItCanKnow(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	paths, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	beyond := beyondSchema()
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		_, excused := beyond[name]
		delete(beyond, name)
		if err := bySchema(schema, data); (err == nil) != excused {
			t.Errorf("%s: %v; want it beyond the schema: %v", name, err, excused)
		}
	}
	for name := range beyond {
		t.Errorf("%s is no file", name)
	}
}

func TestSchemaTakesTheGoodFiles(t *testing.T) {
	t.Parallel()
	schema := compileSchema(t)
	for _, dir := range []string{"testdata/good", "../../deploy/examples"} {
		paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(paths) == 0 {
			t.Errorf("%s: %d files, %v", dir, len(paths), err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := bySchema(schema, data); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}
