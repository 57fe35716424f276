package config

import (
	"bytes"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// File writes what the flags say as a file of --config that loads to the same
// [Config], and returns the flags that have to stand beside it: those that no file
// has a field for. It is called after a [Flags.Parse] that took no file. The error
// says what cannot be said in a file.
//
// What is at its default is left out, but for what an operator changes in a hurry.
func (f *Flags) File() (data []byte, beside []string, err error) {
	var mistakes Mistakes
	want, doc := f.build(&mistakes), f.document(&mistakes)
	if f.source != nil || len(mistakes) > 0 {
		return nil, nil, errors.New("the flags are no configuration of their own")
	}
	if want.Providers[0].Retry.Flat {
		return nil, nil, errors.New("--qps-limit and --burst-limit have no field in a file: give --retry-token-capacity instead")
	}
	doc.APIVersion, doc.Kind = apiVersion, kind
	if doc.Log.debug {
		doc.Log.Level = "debug"
	}
	if want.Socket.Group >= 0 { // the container that reads the file knows no names
		doc.Socket.Group = strconv.Itoa(want.Socket.Group)
	}
	for i, p := range want.Providers {
		doc.Providers[i].Listen = p.Listen // without the scheme of an endpoint
	}
	if data, err = encode(doc); err != nil {
		return nil, nil, err
	}
	got, err := new(Source).Load(data)
	if err != nil {
		return nil, nil, errors.New("a file cannot say what these flags say: " + err.Error())
	}
	got.Hash, got.Warnings = "", want.Warnings
	if !reflect.DeepEqual(got, want) {
		return nil, nil, errors.New("a file cannot say exactly what these flags say")
	}
	return data, f.args(func(flag string) bool { return !inFile(flag) }), nil
}

// inFile reports whether a file has a field for what a flag says.
func inFile(flag string) bool {
	for _, t := range translation() {
		if t.flag == flag {
			return true
		}
	}
	return false
}

// encode writes a document as its decoder reads it.
func encode(doc *document) ([]byte, error) {
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(structNode(reflect.ValueOf(*doc), reflect.ValueOf(*newDocument()), "")); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// fieldComments stand above fields of an encoded file.
func fieldComments() map[string]string {
	return map[string]string{
		"outageGrace": `# How long Status stays ok in an outage of KMS, since the last success. This is the
# lever in an outage: a longer one, on every node, keeps running API servers in service.`,
		"health":           "# Takes effect at a restart. Probes and scrapers ask there: change them too.",
		"providers[].keys": "# The first key writes, all read.",
	}
}

// structNode leaves out what is as in defaults.
func structNode(v, defaults reflect.Value, path string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("file"), ",")
		if name == "" {
			continue
		}
		at := strings.TrimPrefix(path+"."+name, ".")
		if at != "outageGrace" && reflect.DeepEqual(v.Field(i).Interface(), defaults.Field(i).Interface()) {
			continue
		}
		key := textNode(name)
		key.HeadComment = fieldComments()[at]
		n.Content = append(n.Content, key, valueNode(v.Field(i), defaults.Field(i), at))
	}
	return n
}

func valueNode(v, defaults reflect.Value, path string) *yaml.Node {
	if d, ok := reflect.TypeAssert[time.Duration](v); ok {
		return textNode(durationText(d))
	}
	switch v.Kind() {
	case reflect.Struct:
		return structNode(v, defaults, path)
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			n.Content = append(n.Content, valueNode(v.Index(i), reflect.Zero(v.Type().Elem()), path+"[]"))
		}
		return n
	default:
		n := new(yaml.Node)
		if err := n.Encode(v.Interface()); err != nil {
			panic(err) // of a type that no document has
		}
		return n
	}
}

func textNode(text string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(text)
	return n
}

// durationText is a duration as a file has it: 3m and not 3m0s.
func durationText(d time.Duration) string {
	text := strings.ReplaceAll(d.String(), "µ", "u")
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
