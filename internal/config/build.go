package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// maxItems is what each list of a configuration may have: providers, the keys of
// one, and user ids.
const maxItems = 100

// maxContext bounds an encryption context, which each call carries. AWS' guide
// and the model of its API name no limit, and no reserved names.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/encrypt_context.html
const maxContext = 8192

// maxSocketPath is what fits into sockaddr_un, its final zero byte left out.
const maxSocketPath = 107

// Forms of texts, as the JSON schema has them too.
var (
	nameForm      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	endpointForm  = regexp.MustCompile(`^https?://[^/?#]`)
	roleForm      = regexp.MustCompile(`^arn:aws[a-z0-9-]*:iam::[0-9]{12}:role/[!-~]+$`)
	sourceARNForm = regexp.MustCompile(`^arn:aws[a-z0-9-]*:[!-9;-~]+:[!-9;-~]*:[0-9]{12}:[!-~]+$`)
	pathForm      = regexp.MustCompile(`^/[A-Za-z0-9/._~-]*$`)
	addressForm   = regexp.MustCompile(`^([0-9A-Za-z._%:\[\]-]*:)?[0-9]{1,5}$`)
	modeForm      = regexp.MustCompile(`^0*[67][0-7][0-7]$`)

	// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
	externalIDForm = regexp.MustCompile(`^[A-Za-z0-9_+=,.@:/-]+$`)
)

// Lengths of texts: a name's is that of a label of DNS, the other STS's.
const (
	maxName       = 63
	minExternalID = 2
	maxExternalID = 1224
)

// words name the fields of a document as its operator knows them: those of the
// file, or flags.
type words interface {
	// mistake makes one of the field at a path. It is no mistake where a known
	// one explains it.
	mistake(path, text string) (m Mistake, ok bool)
	// name is what a text calls the field of this name in the file.
	name(field string) string
	// subject is a field's value at the start of a sentence.
	subject(path, value string) string
}

// A builder makes a Config of a document. Every check of a value is here, for
// flags and files alike.
type builder struct {
	words
	mistakes Mistakes
	told     map[Mistake]bool // so that what several keys share is told once
}

func (b *builder) add(path, text string) {
	if m, ok := b.mistake(path, text); ok && !b.told[m] {
		b.told[m] = true
		b.mistakes = append(b.mistakes, m)
	}
}

// addFollowing adds a mistake that the absence of another setting makes.
func (b *builder) addFollowing(path, text string) {
	before := len(b.mistakes)
	b.add(path, text)
	for i := before; i < len(b.mistakes); i++ {
		b.mistakes[i].Follows = true
	}
}

// allowed returns as much of a list as may be.
func allowed[E any](b *builder, list []E, at string) []E {
	if len(list) > maxItems {
		b.add(at, fmt.Sprintf("has more than %d, which is the most", maxItems))
		return list[:maxItems]
	}
	return list
}

func (b *builder) build(doc *document) *Config {
	cfg := &Config{
		KMSTimeout: doc.KMSTimeout, OutageGrace: doc.OutageGrace, ShutdownDelay: doc.ShutdownDelay,
		Socket: b.socket(doc.Socket), Health: b.health(doc.Health), Log: b.log(doc.Log),
	}
	if doc.KMSTimeout <= 0 {
		b.add("kmsTimeout", "must be longer than 0")
	}
	if doc.OutageGrace < 0 {
		b.add("outageGrace", "must not be negative")
	}
	if doc.ShutdownDelay < 0 {
		b.add("shutdownDelay", "must not be negative")
	}
	if len(doc.Providers) == 0 {
		b.add("providers", "is empty: give at least one")
	}
	for i, p := range allowed(b, doc.Providers, "providers") {
		cfg.Providers = append(cfg.Providers, b.provider(p, fmt.Sprintf("providers[%d]", i), len(doc.Providers) == 1))
	}
	b.checkNames(cfg)
	b.checkSockets(cfg)
	return cfg
}

func (b *builder) provider(p providerDocument, at string, alone bool) Provider {
	out := Provider{
		Name: p.Name, Listen: p.Listen, Epoch: p.Epoch,
		Retry: Retry{Tokens: uint(p.RetryTokenCapacity), Flat: p.flatRetries},
	}
	if !nameForm.MatchString(p.Name) || len(p.Name) > maxName {
		b.add(at+".name", fmt.Sprintf("%s is no name: want at most %d of a-z, 0-9 and -, which do not begin or end with -", quote(p.Name), maxName))
	}
	if out.Listen == "" && alone {
		out.Listen = DefaultSocket
	}
	out.Listen = SocketPath(out.Listen)
	if len(p.Keys) == 0 {
		b.add(at+".keys", "is empty: the first key writes, and all read")
	}
	for i, k := range allowed(b, p.Keys, at+".keys") {
		path := fmt.Sprintf("%s.keys[%d]", at, i)
		key, ok := b.key(k, path)
		if ok && slices.ContainsFunc(out.Keys, key.Equal) {
			b.add(path+".key", quote(key.Key)+" is given twice, with no difference in how it is called")
		}
		out.Keys = append(out.Keys, key)
	}
	return out
}

// key checks a key, and fills in what its name tells. It reports whether it has a name.
func (b *builder) key(k Key, at string) (key Key, ok bool) {
	ref, err := keyref.Parse(k.Key)
	if slip := keyref.Slip(k.Key); slip != "" {
		err = errors.New(slip)
	}
	if err != nil {
		b.add(at+".key", b.subject(at+".key", k.Key)+" "+err.Error())
	}
	switch slip := keyref.Slip(k.Region); {
	case slip != "":
		b.add(at+".region", quote(k.Region)+" "+slip)
	case k.Region != "" && !keyref.ValidRegion(k.Region):
		b.add(at+".region", quote(k.Region)+" is no AWS Region")
	case k.Region != "" && ref.Region != "" && ref.Region != k.Region:
		b.add(at+".region", fmt.Sprintf("is %s, but the key %s is in %s", quote(k.Region), quote(k.Key), ref.Region))
	case k.Region == "":
		k.Region = ref.Region
	}
	b.checkEndpoint(k.Endpoint, at+".endpoint")
	if slip := keyref.Slip(k.AssumeRoleARN); slip != "" {
		b.add(at+".assumeRoleARN", quote(k.AssumeRoleARN)+" "+slip)
	} else if k.AssumeRoleARN != "" && !roleForm.MatchString(k.AssumeRoleARN) {
		b.add(at+".assumeRoleARN", quote(k.AssumeRoleARN)+" is no ARN of a role: want arn:aws:iam::ACCOUNT:role/NAME")
	}
	switch {
	case k.ExternalID == "":
	case k.AssumeRoleARN == "":
		b.addFollowing(at+".externalID", "has no meaning without "+b.name("providers[].keys[].assumeRoleARN"))
	case !externalIDForm.MatchString(k.ExternalID) || len(k.ExternalID) < minExternalID || len(k.ExternalID) > maxExternalID:
		b.add(at+".externalID", fmt.Sprintf("is no external id: want %d to %d letters, digits and _+=,.@:/-", minExternalID, maxExternalID))
	}
	if slip := keyref.Slip(k.SourceARN); slip != "" {
		b.add(at+".sourceARN", quote(k.SourceARN)+" "+slip)
	} else if k.SourceARN != "" && !sourceARNForm.MatchString(k.SourceARN) {
		b.add(at+".sourceARN", quote(k.SourceARN)+" is no ARN with an account")
	}
	b.checkContext(k.EncryptionContext, at+".encryptionContext")
	if len(k.EncryptionContext) == 0 {
		k.EncryptionContext = nil // as KMS sees no difference
	}
	return k, err == nil
}

// checkEndpoint never repeats the URL: it may hold a password.
func (b *builder) checkEndpoint(endpoint, at string) {
	if endpoint == "" {
		return
	}
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" || !endpointForm.MatchString(endpoint) {
		b.add(at, "is no URL: want https://HOST")
	}
}

func (b *builder) checkContext(context map[string]string, at string) {
	size := 0
	for name, value := range context {
		size += len(name) + len(value)
		if name == "" {
			b.add(at, "has a pair without a name")
		}
	}
	if size > maxContext {
		b.add(at, fmt.Sprintf("has %d bytes of names and values: at most %d", size, maxContext))
	}
}

// SocketPath takes an endpoint as the EncryptionConfiguration writes it for the
// path that it is.
func SocketPath(listen string) string {
	if path, ok := strings.CutPrefix(listen, "unix://"); ok {
		return path
	}
	return strings.TrimPrefix(listen, "unix:")
}

func (b *builder) checkNames(cfg *Config) {
	first := map[string]int{}
	for i, p := range cfg.Providers {
		if j, taken := first[p.Name]; taken && p.Name != "" {
			b.add(fmt.Sprintf("providers[%d].name", i), fmt.Sprintf("%s is the name of providers[%d] too", quote(p.Name), j))
			continue
		}
		first[p.Name] = i
	}
}

// checkSockets looks at what only all sockets together show.
func (b *builder) checkSockets(cfg *Config) {
	seen := map[string]bool{}
	for i, p := range cfg.Providers {
		at, path := fmt.Sprintf("providers[%d].listen", i), p.Listen
		abstract := strings.HasPrefix(path, "@")
		switch {
		case path == "" || path == "@":
			b.add(at, b.subject(at, path)+" is no socket: each provider needs one of its own")
			continue
		case len(path) > maxSocketPath:
			b.add(at, fmt.Sprintf("%s has %d bytes: a socket's path may have %d", quote(path), len(path), maxSocketPath))
		case strings.ContainsRune(path, 0):
			b.add(at, quote(path)+" contains a zero byte")
		case placeholder(path) != "": // of a unit or a manifest that nothing filled in
			b.add(at, placeholder(path))
		case strings.HasSuffix(path, "/"):
			b.add(at, quote(path)+" is a directory: want the path of a socket in it")
		case abstract && len(cfg.Socket.AllowUIDs) == 0:
			b.addFollowing(at, fmt.Sprintf("%s is an abstract socket, which every user of the network namespace can reach: say with %s who may",
				quote(path), b.name("socket.allowUIDs")))
		}
		if !abstract {
			path = filepath.Clean(path)
		}
		if seen[path] {
			b.add(at, quote(path)+" is given twice: each provider needs a socket of its own")
		}
		seen[path] = true
	}
}

func (b *builder) socket(doc socketDocument) Socket {
	s := Socket{Group: -1, AllowUIDs: allowed(b, doc.AllowUIDs, "socket.allowUIDs")}
	mode, err := strconv.ParseUint(doc.Mode, 8, 32)
	if err != nil || !modeForm.MatchString(doc.Mode) {
		b.add("socket.mode", quote(doc.Mode)+" is no octal mode that lets the owner in, such as 0600 or 0660")
	}
	s.Mode = fs.FileMode(mode) & fs.ModePerm
	if doc.Group != "" {
		s.Group = b.groupID(doc.Group)
	}
	return s
}

func (b *builder) groupID(name string) int {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid)
	}
	group, err := user.LookupGroup(name)
	if err != nil {
		b.add("socket.group", quote(name)+" is no group of this machine")
		return -1
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		b.add("socket.group", quote(name)+" has no number")
		return -1
	}
	return gid
}

func (b *builder) health(doc healthDocument) Health {
	h := Health(doc)
	if _, err := strconv.ParseUint(h.Address, 10, 16); err == nil {
		h.Address = ":" + h.Address
	}
	_, port, err := net.SplitHostPort(h.Address)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || !addressForm.MatchString(doc.Address) {
		b.add("health.address", quote(doc.Address)+" is no address: want :PORT or HOST:PORT")
	}
	for _, path := range []struct{ at, value string }{{"health.healthzPath", h.HealthzPath}, {"health.livezPath", h.LivezPath}} {
		switch {
		case !pathForm.MatchString(path.value):
			b.add(path.at, quote(path.value)+" is no path: want one that starts with /")
		case path.value == "/metrics" || path.value == "/readyz" || strings.HasPrefix(path.value, "/readyz/"):
			b.add(path.at, quote(path.value)+" is taken")
		}
	}
	return h
}

func (b *builder) log(doc logDocument) Log {
	levels := map[logLevel]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	b.checkChoice("log.level", string(doc.Level), doc.Level.values())
	b.checkChoice("log.format", string(doc.Format), doc.Format.values())
	l := Log{Level: levels[doc.Level], JSON: doc.Format == "json"}
	if doc.debug {
		l.Level = slog.LevelDebug
	}
	return l
}

func (b *builder) checkChoice(at, value string, choices []string) {
	if !slices.Contains(choices, value) {
		b.add(at, quote(value)+" is none of "+enumerated(choices))
	}
}
