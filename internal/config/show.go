package config

import (
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// A Setting is one value of a configuration, as it is in force, and where it comes
// from. Its JSON form is that of the command config show.
type Setting struct {
	Field  string `json:"field"`  // of the file, such as "providers[0].keys[0].region"
	Value  any    `json:"value"`  // text, number or list of numbers; nil where there is none, or Secret
	Secret bool   `json:"secret"` // there is a value, and it is not shown
	Origin
}

// An Origin says where a value comes from.
type Origin struct {
	From From   `json:"from"`
	Name string `json:"name,omitempty"` // of the flag or variable, or of the field whose value tells this one
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // of File
}

// From is where a value can come from. Its text is part of the JSON form.
type From string

// Where a value can come from.
const (
	FromDefault     From = "default"
	FromFlag        From = "flag"
	FromEnvironment From = "environment"
	FromFile        From = "file"
	FromField       From = "field" // another field's value has it, such as a key's ARN its Region
)

// String returns the origin as a person reads it.
func (o Origin) String() string {
	switch o.From {
	case FromFile:
		return o.File + ":" + strconv.Itoa(o.Line)
	case FromFlag, FromEnvironment, FromField:
		return o.Name
	case FromDefault:
	}
	return string(o.From)
}

// origins tell where the value at a path of the document comes from.
type origins interface {
	origin(path string) Origin
}

// Settings are all values of the configuration that [Flags.Parse] returned, in the
// order of the document. There are none where it failed.
func (f *Flags) Settings() []Setting {
	if f.cfg == nil {
		return nil
	}
	doc := documentOf(f.cfg)
	var settings []Setting
	eachValue(reflect.ValueOf(doc).Elem(), "", func(path string, value any) {
		if path == "apiVersion" || path == "kind" {
			return
		}
		settings = append(settings, shownSetting(path, value, f.regionOrigin(doc, path, value)))
	})
	return settings
}

// documentOf writes a configuration as the file would that says all of it.
func documentOf(cfg *Config) *document {
	doc := &document{
		APIVersion: apiVersion, Kind: kind,
		KMSTimeout: cfg.KMSTimeout, OutageGrace: cfg.OutageGrace, ShutdownDelay: cfg.ShutdownDelay,
		Socket: socketDocument{Mode: fmt.Sprintf("%04o", cfg.Socket.Mode.Perm()), AllowUIDs: cfg.Socket.AllowUIDs},
		Health: healthDocument(cfg.Health),
		Log:    logDocument{Level: logLevel(strings.ToLower(cfg.Log.Level.String())), Format: "text"},
	}
	if cfg.Socket.Group >= 0 {
		doc.Socket.Group = strconv.Itoa(cfg.Socket.Group)
	}
	if cfg.Log.JSON {
		doc.Log.Format = "json"
	}
	for _, p := range cfg.Providers {
		out := providerDocument{Name: p.Name, Listen: p.Listen, Epoch: p.Epoch, RetryTokenCapacity: uint32(p.Retry.Tokens), flatRetries: p.Retry.Flat} //nolint:gosec // it was 32 bits long
		out.Keys = append(out.Keys, p.Keys...)
		doc.Providers = append(doc.Providers, out)
	}
	return doc
}

// eachValue visits the values of a document that are no structs, with their paths.
func eachValue(v reflect.Value, path string, visit func(path string, value any)) {
	switch {
	case v.Kind() == reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			eachValue(v.Field(f.index), join(path, f.name), visit)
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			eachValue(v.Index(i), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	case v.Kind() == reflect.Map && v.Len() > 0:
		texts, _ := reflect.TypeAssert[map[string]string](v)
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			visit(join(path, name), texts[name])
		}
	default:
		visit(path, v.Interface())
	}
}

// shownSetting keeps secrets back.
func shownSetting(path string, value any, from Origin) Setting {
	s := Setting{Field: path, Origin: from}
	v := reflect.ValueOf(value)
	took, isTime := value.(time.Duration)
	switch {
	case isTime:
		s.Value = took.String()
	case (v.Kind() == reflect.Slice || v.Kind() == reflect.Map || v.Kind() == reflect.String) && v.Len() == 0:
	case strings.HasSuffix(path, "].externalID"):
		s.Secret = true
	case strings.HasSuffix(path, "].endpoint"):
		s.Value = WithoutSecrets(v.String())
	case v.Kind() == reflect.String:
		s.Value = v.String()
	default:
		s.Value = value
	}
	return s
}

// WithoutSecrets returns a URL without what may be a password: the user's, a user that
// is alone as tokens are, and what follows a question mark. It is "" for what is no URL.
func WithoutSecrets(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	const hidden = "xxxxx"
	if _, has := u.User.Password(); u.User != nil && !has {
		u.User = url.User(hidden)
	}
	if u.RawQuery != "" {
		u.RawQuery = hidden
	}
	if u.Fragment != "" {
		u.Fragment = hidden
	}
	return u.Redacted()
}

// regionOrigin is the origin of a value. That of a Region may be a key's ARN.
func (f *Flags) regionOrigin(doc *document, path string, value any) Origin {
	from := f.origins.origin(path)
	provider, key, ok := indexes(path)
	if !ok || !strings.HasSuffix(path, "].region") || value == "" {
		return from
	}
	own, _ := keyref.Parse(doc.Providers[provider].Keys[key].Key)
	switch {
	case from.From == FromFile, from.From != FromDefault && key == 0:
		return from
	case own.Region != "":
		return Origin{From: FromField, Name: fmt.Sprintf("providers[%d].keys[%d].key", provider, key)}
	case from.From == FromDefault: // a key that only reads is called in the Region of the one that writes
		return Origin{From: FromField, Name: fmt.Sprintf("providers[%d].keys[0].key", provider)}
	}
	return from
}

// origin tells which flag said what stands at a path.
func (f *Flags) origin(path string) Origin {
	field := indexForm.ReplaceAllString(path, "[]")
	if at := strings.Index(field, ".encryptionContext"); at >= 0 {
		field = field[:at] + ".encryptionContext"
	}
	_, key, _ := indexes(path)
	for _, t := range translation() {
		if t.field != field {
			continue
		}
		flag := t.flag
		switch {
		case flag == "key" && key > 0:
			flag = "decrypt-key"
		case flag == "retry-token-capacity" && f.retryTokens == 0 && f.qpsLimit > 0:
			flag = "qps-limit"
		case flag == "log-level" && f.debug:
			flag = "debug"
		}
		if !f.set.Changed(flag) {
			break
		}
		return originOf(f.given(flag))
	}
	return Origin{From: FromDefault}
}

// originOf is the origin of what was given as a flag or as a variable.
func originOf(given string) Origin {
	if strings.HasPrefix(given, "-") {
		return Origin{From: FromFlag, Name: given}
	}
	return Origin{From: FromEnvironment, Name: given}
}

// origin tells the line that says what stands at a path, or the flag that wins.
func (w *fileWords) origin(path string) Origin {
	given, won := w.overridden[path]
	if path == "log.level" && w.debug {
		given, won = w.overridden[""], true
	}
	if won {
		return originOf(given)
	}
	if line := w.lines[path]; line > 0 {
		return Origin{From: FromFile, File: w.file, Line: line}
	}
	return Origin{From: FromDefault}
}
