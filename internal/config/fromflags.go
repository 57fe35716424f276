package config

import (
	"encoding/csv"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// Parts of a path to a value.
var (
	indexForm   = regexp.MustCompile(`\[[0-9]+\]`)
	keyPathForm = regexp.MustCompile(`^providers\[([0-9]+)\](?:\.keys\[([0-9]+)\])?`)
)

// A sameAs says which flag and which field of the file mean the same.
type sameAs struct{ flag, field string }

// translation is the dictionary of flags and file. What it does not have, a file
// cannot say: --config itself and the ignored --health-kms-version.
func translation() []sameAs {
	return []sameAs{
		{"key", "providers[].keys[].key"},
		{"decrypt-key", "providers[].keys[].key"},
		{"listen", "providers[].listen"},
		{"encryption-context", "providers[].keys[].encryptionContext"},
		{"region", "providers[].keys[].region"},
		{"kms-endpoint", "providers[].keys[].endpoint"},
		{"assume-role-arn", "providers[].keys[].assumeRoleARN"},
		{"external-id", "providers[].keys[].externalID"},
		{"source-arn", "providers[].keys[].sourceARN"},
		{"retry-token-capacity", "providers[].retryTokenCapacity"},
		{"qps-limit", "providers[].retryTokenCapacity"},
		{"burst-limit", "providers[].retryTokenCapacity"},
		{"kms-timeout", "kmsTimeout"},
		{"outage-grace", "outageGrace"},
		{"shutdown-delay", "shutdownDelay"},
		{"socket-mode", "socket.mode"},
		{"socket-group", "socket.group"},
		{"allow-uid", "socket.allowUIDs"},
		{"health-port", "health.address"},
		{"healthz-path", "health.healthzPath"},
		{"livez-path", "health.livezPath"},
		{"log-level", "log.level"},
		{"log-format", "log.format"},
		{"debug", "log.level"},
	}
}

// Called is what the operator calls a setting of a key, by its name in a file: the
// field with the file, or the flag.
func (c *Config) Called(setting string) string {
	if c.File != "" {
		return setting + " in " + quote(c.File)
	}
	return flagOfKey(setting)
}

// CalledEither is what flags and a file call a setting of a key, where nobody knows
// which of them configures.
func CalledEither(setting string) string {
	return flagOfKey(setting) + " (in a file: " + setting + ")"
}

func flagOfKey(setting string) string {
	flag := setting
	for _, t := range translation() {
		if t.field == "providers[].keys[]."+setting {
			flag = t.flag
		}
	}
	if setting == "keys" { // those that read
		flag = "decrypt-key"
	}
	return "--" + flag
}

// mistake makes [Flags] the words of a configuration by flags. Lists that are
// missing or do not pair are named where they are paired.
func (f *Flags) mistake(path, text string) (Mistake, bool) {
	flag := f.flagOf(path)
	provider, _, _ := indexes(path)
	unpaired := len(f.keys) == 0 || flag == "listen" && provider >= len(f.listen)
	return Mistake{Field: f.given(flag), Text: text}, !unpaired || !strings.HasPrefix(path, "providers")
}

func (f *Flags) name(field string) string { return "--" + f.flagOf(field) }

// subject tells the members of the paired lists apart.
func (f *Flags) subject(path, value string) string {
	provider, _, _ := indexes(path)
	if flag := f.flagOf(path); len(f.keys) > 1 && (flag == "key" || flag == "listen") {
		return fmt.Sprintf("%s %d, %s,", map[string]string{"key": "key", "listen": "socket"}[flag], provider+1, quote(value))
	}
	return quote(value)
}

// flagOf is the flag that says what stands at a path of the document.
func (f *Flags) flagOf(path string) string {
	if _, key, ok := indexes(path); ok && key > 0 && strings.HasSuffix(path, "].key") || strings.HasSuffix(path, "].keys") {
		return "decrypt-key" // only these make a provider's list long
	}
	field := indexForm.ReplaceAllString(path, "[]")
	for _, t := range translation() {
		if t.field == field {
			return t.flag
		}
	}
	return "key" // of providers and their keys as a whole
}

// indexes takes a path apart: providers[1].keys[0].region is of 1 and 0.
func indexes(path string) (provider, key int, ok bool) {
	m := keyPathForm.FindStringSubmatch(path)
	if m == nil {
		return 0, 0, false
	}
	provider, _ = strconv.Atoi(m[1])
	key, err := strconv.Atoi(m[2])
	return provider, key, err == nil
}

// document says with a file's fields what the flags say, and adds the mistakes
// that only flags can have.
func (f *Flags) document(m *Mistakes) *document {
	doc := newDocument()
	doc.KMSTimeout, doc.OutageGrace, doc.ShutdownDelay = f.kmsTimeout, f.outageGrace, f.shutdownDelay
	doc.Socket = socketDocument{Mode: f.socketMode, Group: f.socketGroup, AllowUIDs: f.uids(m)}
	for _, o := range f.overrides() {
		o.set(doc)
	}
	doc.Providers = f.providers(m)
	return doc
}

// overrides are those flags that say how this process is watched, on this
// machine: they are given besides a file too.
func (f *Flags) overrides() []override {
	var out []override
	for _, o := range []struct {
		flag, path string
		set        func(*document)
	}{
		{"health-port", "health.address", func(doc *document) { doc.Health.Address = f.healthPort }},
		{"healthz-path", "health.healthzPath", func(doc *document) { doc.Health.HealthzPath = f.healthzPath }},
		{"livez-path", "health.livezPath", func(doc *document) { doc.Health.LivezPath = f.livezPath }},
		{"log-level", "log.level", func(doc *document) { doc.Log.Level = logLevel(f.logLevel) }},
		{"log-format", "log.format", func(doc *document) { doc.Log.Format = logFormat(f.logFormat) }},
		{"debug", "", func(doc *document) { doc.Log.debug = f.debug }},
	} {
		if f.set.Changed(o.flag) {
			out = append(out, override{o.path, f.given(o.flag), o.set})
		}
	}
	return out
}

func (f *Flags) warnings() []string {
	var w []string
	if f.set.Changed("health-kms-version") {
		w = append(w, "--health-kms-version has no effect: the health of a key is the same for KMS v1 and v2")
	}
	if f.qpsLimit > 0 && f.retryTokens == 0 {
		w = append(w, "--qps-limit and --burst-limit are deprecated and limit no requests: use --retry-token-capacity")
	}
	if f.burstLimit > 0 && f.qpsLimit == 0 {
		w = append(w, "--burst-limit has no effect without --qps-limit")
	}
	for _, name := range f.empty() {
		w = append(w, f.given(name)+" is given and empty: it counts as left out")
	}
	return w
}

// providers pairs the lists. Where there is no key there is nothing to pair.
func (f *Flags) providers(m *Mistakes) []providerDocument {
	if len(f.keys) == 0 {
		m.addFollowing(f.given("key"), "is missing: give the ARN of a KMS key, or a file with --config")
		return nil
	}
	if len(f.keys) != len(f.listen) {
		m.addFollowing(f.given("listen"), fmt.Sprintf("%s and %s: each key needs a socket of its own, in the same order",
			count(len(f.keys), "key"), count(len(f.listen), "socket")))
	}
	if len(f.contexts) > len(f.keys) {
		m.addFollowing(f.given("encryption-context"), fmt.Sprintf("%s and %s: the n-th context belongs to the n-th key, and the last has none",
			count(len(f.contexts), "context"), count(len(f.keys), "key")))
	}
	if len(f.decryptKeys) > 0 && len(f.keys) > 1 {
		m.add(f.given("decrypt-key"), "works with one pair of --key and --listen only: which of several it belongs to could not be said")
	}
	tokens, flat := f.retry(m)
	providers := make([]providerDocument, len(f.keys))
	for i, name := range f.keys {
		k := Key{
			Key: name, Region: f.region, Endpoint: f.endpoint, AssumeRoleARN: f.assumeRoleARN,
			ExternalID: f.externalID, SourceARN: f.sourceARN,
		}
		if i < len(f.contexts) {
			k.EncryptionContext = f.context(f.contexts[i], m)
		}
		p := providerDocument{Name: strconv.Itoa(i), Keys: append([]Key{k}, f.readKeys(k)...), RetryTokenCapacity: tokens, flatRetries: flat}
		if i < len(f.listen) {
			p.Listen = f.listen[i]
		}
		providers[i] = p
	}
	return providers
}

// readKeys are called as the key that writes is, in the Region of their own ARN.
func (f *Flags) readKeys(write Key) []Key {
	region := write.Region
	if ref, err := keyref.Parse(write.Key); err == nil && region == "" {
		region = ref.Region
	}
	keys := make([]Key, len(f.decryptKeys))
	for i, name := range f.decryptKeys {
		keys[i] = write
		keys[i].Key, keys[i].Region = name, region
		if ref, err := keyref.Parse(name); err == nil && ref.Region != "" {
			keys[i].Region = ref.Region
		}
	}
	return keys
}

// retry keeps what the predecessor made of its deprecated limits: a bucket of
// their sum, from which each retry takes one token.
func (f *Flags) retry(m *Mistakes) (tokens uint32, flat bool) {
	for _, flag := range []struct {
		name  string
		value int
	}{{"retry-token-capacity", f.retryTokens}, {"qps-limit", f.qpsLimit}, {"burst-limit", f.burstLimit}} {
		switch {
		case flag.value < 0:
			m.add(f.given(flag.name), "must not be negative")
			return 0, false
		case flag.value > math.MaxInt32:
			m.add(f.given(flag.name), fmt.Sprintf("must not be above %d", math.MaxInt32))
			return 0, false
		}
	}
	switch {
	case f.retryTokens > 0:
		return uint32(f.retryTokens), false //nolint:gosec // looked at above
	case f.qpsLimit > 0 && f.burstLimit == 0:
		m.addFollowing(f.given("burst-limit"), "must be above 0 with --qps-limit; better use --retry-token-capacity")
	case f.qpsLimit > 0:
		return uint32(f.qpsLimit + f.burstLimit), true //nolint:gosec // looked at above
	}
	return 0, false
}

// context reads the predecessor's form: a=b,c=d as a line of CSV, in brackets
// or not.
func (f *Flags) context(s string, m *Mistakes) map[string]string {
	given := f.given("encryption-context")
	s = strings.Trim(s, "[]")
	if s == "" {
		return nil
	}
	pairs, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		m.add(given, quote(s)+" cannot be read: want a=b,c=d")
		return nil
	}
	out := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		_, twice := out[name]
		switch {
		case !ok || name == "":
			m.add(given, quote(pair)+" is no name=value")
			continue
		case twice:
			m.add(given, quote(name)+" is given twice in one context")
		}
		out[name] = value
	}
	return out
}

func (f *Flags) uids(m *Mistakes) []uint32 {
	var uids []uint32
	for _, text := range f.allowUIDs {
		uid, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		if err != nil {
			m.add(f.given("allow-uid"), quote(text)+" is no user id: want a number")
		}
		uids = append(uids, uint32(uid))
	}
	return uids
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
