package config

import (
	"encoding/csv"
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

// maxSocketPath is what fits into sockaddr_un, its final zero byte left out.
const maxSocketPath = 107

// build makes a Config of the flags, and adds every mistake that it finds.
func (f *Flags) build(m *Mistakes) *Config {
	cfg := &Config{
		KMSTimeout: f.kmsTimeout, OutageGrace: f.outageGrace, ShutdownDelay: f.shutdownDelay,
		Socket: f.socket(m), Health: f.health(m), Log: f.log(m),
	}
	if f.kmsTimeout <= 0 {
		m.add("--kms-timeout", "must be longer than 0")
	}
	if f.outageGrace < 0 {
		m.add("--outage-grace", "must not be negative")
	}
	if f.shutdownDelay < 0 {
		m.add("--shutdown-delay", "must not be negative")
	}
	cfg.Warnings = f.warnings()
	cfg.Providers = f.providers(m)
	f.checkListen(cfg, m)
	return cfg
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
	return w
}

func (f *Flags) providers(m *Mistakes) []Provider {
	if len(f.keys) == 0 {
		m.add("--key", "is missing: give the ARN of a KMS key")
		return nil
	}
	if len(f.keys) != len(f.listen) {
		m.add("--listen", fmt.Sprintf("%s and %s: each key needs a socket of its own, in the same order",
			count(len(f.keys), "key"), count(len(f.listen), "socket")))
	}
	if len(f.contexts) > len(f.keys) {
		m.add("--encryption-context", fmt.Sprintf("%s and %s: the n-th context belongs to the n-th key, and the last has none",
			count(len(f.contexts), "context"), count(len(f.keys), "key")))
	}
	if len(f.decryptKeys) > 0 && len(f.keys) > 1 {
		m.add("--decrypt-key", "works with one pair of --key and --listen only: which of several it belongs to could not be said")
	}
	shared, retry := f.shared(m), f.retry(m)
	providers := make([]Provider, len(f.keys))
	for i, name := range f.keys {
		k := shared
		k.Key = name
		ref, err := keyref.Parse(name)
		if err != nil {
			m.add("--key", f.nth(i, name, err))
		}
		if ref.Region != "" && f.region != "" && ref.Region != f.region {
			m.add("--region", fmt.Sprintf("is %s, but the key %s is in %s", quote(f.region), quote(name), ref.Region))
		}
		if k.Region == "" {
			k.Region = ref.Region
		}
		if i < len(f.contexts) {
			k.EncryptionContext = parseContext(f.contexts[i], m)
		}
		p := Provider{Name: strconv.Itoa(i), Keys: append([]Key{k}, f.readKeys(k, m)...), Retry: retry}
		if i < len(f.listen) {
			p.Listen = SocketPath(f.listen[i])
		}
		providers[i] = p
	}
	return providers
}

// shared is what the keys of all pairs have in common.
func (f *Flags) shared(m *Mistakes) Key {
	if f.region != "" && !keyref.ValidRegion(f.region) {
		m.add("--region", quote(f.region)+" is no AWS Region")
	}
	f.checkEndpoint(m)
	if f.assumeRoleARN != "" && !matches(`^arn:aws[a-z0-9-]*:iam::[0-9]{12}:role/.+$`, f.assumeRoleARN) {
		m.add("--assume-role-arn", quote(f.assumeRoleARN)+" is no ARN of a role: want arn:aws:iam::ACCOUNT:role/NAME")
	}
	if f.externalID != "" && f.assumeRoleARN == "" {
		m.add("--external-id", "has no meaning without --assume-role-arn")
	}
	if f.sourceARN != "" && !matches(`^arn:aws[a-z0-9-]*:[^:]+:[^:]*:[0-9]{12}:.+$`, f.sourceARN) {
		m.add("--source-arn", quote(f.sourceARN)+" is no ARN with an account")
	}
	return Key{
		Region: f.region, Endpoint: f.endpoint, AssumeRoleARN: f.assumeRoleARN,
		ExternalID: f.externalID, SourceARN: f.sourceARN,
	}
}

// checkEndpoint never repeats the URL: it may hold a password.
func (f *Flags) checkEndpoint(m *Mistakes) {
	if f.endpoint == "" {
		return
	}
	if u, err := url.Parse(f.endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		m.add("--kms-endpoint", "is no URL: want https://HOST")
	}
}

// retry keeps what the predecessor made of its deprecated limits: a bucket of
// their sum, from which each retry takes one token.
func (f *Flags) retry(m *Mistakes) Retry {
	for _, flag := range []struct {
		name  string
		value int
	}{{"--retry-token-capacity", f.retryTokens}, {"--qps-limit", f.qpsLimit}, {"--burst-limit", f.burstLimit}} {
		if flag.value < 0 {
			m.add(flag.name, "must not be negative")
			return Retry{}
		}
	}
	switch {
	case f.retryTokens > 0:
		return Retry{Tokens: uint(f.retryTokens)}
	case f.qpsLimit > 0 && f.burstLimit == 0:
		m.add("--burst-limit", "must be above 0 with --qps-limit; better use --retry-token-capacity")
	case f.qpsLimit > 0:
		return Retry{Tokens: uint(f.qpsLimit) + uint(f.burstLimit), Flat: true}
	}
	return Retry{}
}

// readKeys are called as the key that writes is, in the Region of their own ARN.
func (f *Flags) readKeys(write Key, m *Mistakes) []Key {
	var keys []Key
	for i, name := range f.decryptKeys {
		ref, err := keyref.Parse(name)
		switch {
		case err != nil:
			m.add("--decrypt-key", quote(name)+" "+err.Error())
		case name == write.Key || slices.Contains(f.decryptKeys[:i], name):
			m.add("--decrypt-key", quote(name)+" is given twice")
		}
		k := write
		k.Key = name
		if ref.Region != "" {
			k.Region = ref.Region
		}
		keys = append(keys, k)
	}
	return keys
}

func (f *Flags) nth(i int, key string, err error) string {
	if len(f.keys) == 1 {
		return quote(key) + " " + err.Error()
	}
	return fmt.Sprintf("key %d, %s, %v", i+1, quote(key), err)
}

// parseContext reads the predecessor's form: a=b,c=d as a line of CSV, in
// brackets or not.
func parseContext(s string, m *Mistakes) map[string]string {
	const field = "--encryption-context"
	s = strings.Trim(s, "[]")
	if s == "" {
		return nil
	}
	pairs, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		m.add(field, quote(s)+" cannot be read: want a=b,c=d")
		return nil
	}
	out := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		_, twice := out[name]
		switch {
		case !ok || name == "":
			m.add(field, quote(pair)+" is no name=value")
		case twice:
			m.add(field, quote(name)+" is given twice in one context")
		}
		out[name] = value
	}
	return out
}

// SocketPath takes an endpoint as the EncryptionConfiguration writes it for the
// path that it is.
func SocketPath(listen string) string {
	if path, ok := strings.CutPrefix(listen, "unix://"); ok {
		return path
	}
	return strings.TrimPrefix(listen, "unix:")
}

// checkListen looks at what only all sockets together show.
func (f *Flags) checkListen(cfg *Config, m *Mistakes) {
	const field = "--listen"
	seen := map[string]bool{}
	for i, listen := range f.listen {
		path := SocketPath(listen)
		abstract := strings.HasPrefix(path, "@")
		switch {
		case path == "" || path == "@":
			m.add(field, fmt.Sprintf("socket %d is empty", i+1))
			continue
		case len(path) > maxSocketPath:
			m.add(field, fmt.Sprintf("%s has %d bytes: a socket's path may have %d", quote(path), len(path), maxSocketPath))
		case strings.ContainsRune(path, 0):
			m.add(field, quote(path)+" contains a zero byte")
		case strings.HasSuffix(path, "/"):
			m.add(field, quote(path)+" is a directory: want the path of a socket in it")
		case abstract && len(cfg.Socket.AllowUIDs) == 0:
			m.add(field, quote(path)+" is an abstract socket, which every user of the network namespace can reach: say with --allow-uid who may")
		}
		if !abstract {
			path = filepath.Clean(path)
		}
		if seen[path] {
			m.add(field, quote(path)+" is given twice: each key needs a socket of its own")
		}
		seen[path] = true
	}
}

func (f *Flags) socket(m *Mistakes) Socket {
	s := Socket{Group: -1}
	mode, err := strconv.ParseUint(f.socketMode, 8, 32)
	if err != nil || mode > 0o777 || mode&0o600 != 0o600 {
		m.add("--socket-mode", quote(f.socketMode)+" is no octal mode that lets the owner in, such as 0600 or 0660")
	}
	s.Mode = fs.FileMode(mode) & fs.ModePerm
	if f.socketGroup != "" {
		s.Group = groupID(f.socketGroup, m)
	}
	for _, text := range f.allowUIDs {
		uid, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		if err != nil {
			m.add("--allow-uid", quote(text)+" is no user id: want a number")
			continue
		}
		s.AllowUIDs = append(s.AllowUIDs, uint32(uid))
	}
	return s
}

func groupID(name string, m *Mistakes) int {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid)
	}
	group, err := user.LookupGroup(name)
	if err != nil {
		m.add("--socket-group", quote(name)+" is no group of this machine")
		return -1
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		m.add("--socket-group", quote(name)+" has no number")
		return -1
	}
	return gid
}

func (f *Flags) health(m *Mistakes) Health {
	h := Health{Address: f.healthPort, HealthzPath: f.healthzPath, LivezPath: f.livezPath}
	if _, err := strconv.ParseUint(h.Address, 10, 16); err == nil {
		h.Address = ":" + h.Address
	}
	_, port, err := net.SplitHostPort(h.Address)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		m.add("--health-port", quote(f.healthPort)+" is no address: want :PORT or HOST:PORT")
	}
	for _, path := range []struct{ field, value string }{{"--healthz-path", h.HealthzPath}, {"--livez-path", h.LivezPath}} {
		switch {
		case !matches(`^/[A-Za-z0-9/._~-]*$`, path.value):
			m.add(path.field, quote(path.value)+" is no path: want one that starts with /")
		case path.value == "/metrics" || path.value == "/readyz" || strings.HasPrefix(path.value, "/readyz/"):
			m.add(path.field, quote(path.value)+" is taken")
		}
	}
	return h
}

func (f *Flags) log(m *Mistakes) Log {
	l := Log{JSON: f.logFormat == "json"}
	if f.logFormat != "json" && f.logFormat != "text" {
		m.add("--log-format", quote(f.logFormat)+" is neither json nor text")
	}
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[f.logLevel]
	if !ok {
		m.add("--log-level", quote(f.logLevel)+" is none of debug, info, warn and error")
	}
	l.Level = level
	if f.debug {
		l.Level = slog.LevelDebug
	}
	return l
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func matches(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }
