package encryptionconfig

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A checker has the rules of kube-apiserver's validation, the same in 1.33 to 1.37:
// k8s.io/apiserver/pkg/apis/apiserver/validation/validation_encryption.go, and of
// what it builds of a valid file: pkg/server/options/encryptionconfig/config.go.
type checker struct {
	mistakes Mistakes
	nulls    map[string]string // see [decoder]
	named    map[string]string // name of a kms entry → the path of the first that has it
	v1       map[string]*KMS   // name → the first kms entry of v1 that has it
	before   []placedResource  // of the entries above
}

type placedResource struct {
	path string
	id   resource
}

// Check returns what kube-apiserver would refuse of a configuration that was not
// read from a file.
func (c *Configuration) Check() Mistakes {
	return slices.DeleteFunc(c.check(nil), func(m Mistake) bool { return m.onReload })
}

func (c *Configuration) check(nulls map[string]string) Mistakes {
	k := &checker{nulls: nulls, named: map[string]string{}, v1: map[string]*KMS{}}
	if len(c.Resources) == 0 {
		k.mistakes.add(Form, "resources", "has no entry: it needs at least one")
	}
	for i, r := range c.Resources {
		k.entry(r, element("resources", i))
	}
	return k.mistakes
}

func (c *checker) entry(r Resource, path string) {
	names, providers := below(path, "resources"), below(path, "providers")
	if len(r.Resources) == 0 {
		c.mistakes.add(Form, names, "names no resource: it needs at least one, such as secrets")
	}
	c.mistakes = append(c.mistakes, checkNames(r.Resources, names)...)
	c.masked(r.Resources, names)
	if len(r.Providers) == 0 {
		c.mistakes.add(Form, providers, "has no provider: it needs at least one")
	}
	for i, p := range r.Providers {
		c.provider(p, element(providers, i))
	}
}

// A resource is the name of one in the file, taken apart at its first dot.
type resource struct{ name, group string }

func resourceOf(text string) resource {
	name, group, _ := strings.Cut(text, ".")
	return resource{name, group}
}

func everything() resource { return resource{"*", "*"} }

// covers reports whether an entry for r also holds for another resource.
func (r resource) covers(other resource) bool {
	return r == other || r == everything() || r.name == "*" && r.group == other.group
}

// Covers reports whether a name in a list of resources, such as "secrets",
// "pandas.example.com", "*.apps" or "*.*", stands for a resource. The group of the
// core resources is empty.
func Covers(text, name, group string) bool {
	return resourceOf(text).covers(resource{name, group})
}

// For returns the providers of a resource: those of the first entry that covers it, as
// kube-apiserver takes them. ok is false where none does and the resource is stored in
// the clear. [Parse] refuses files in which a wildcard comes before what it covers.
func (c *Configuration) For(name, group string) (r Resource, ok bool) {
	i := slices.IndexFunc(c.Resources, func(r Resource) bool {
		return slices.ContainsFunc(r.Resources, func(text string) bool { return Covers(text, name, group) })
	})
	if i < 0 {
		return Resource{}, false
	}
	return c.Resources[i], true
}

// CheckResources returns what kube-apiserver would refuse of a list of resources.
// Paths are such as "[1]".
func CheckResources(names []string) Mistakes { return checkNames(names, "") }

func checkNames(names []string, path string) Mistakes {
	var m Mistakes
	for i, text := range names {
		if wrong := nameMistake(text); wrong != "" {
			m.add(Form, element(path, i), "%s", wrong)
			continue
		}
		r := resourceOf(text)
		for j, other := range names {
			switch o := resourceOf(other); {
			case j < i && r == o:
				m.add(Form, element(path, i), "%s stands in the list twice", Quote(text))
			case j != i && r != o && o.covers(r):
				m.add(Form, element(path, i), "%s is among %s of the same list: remove one of them", Quote(text), Quote(other))
			default:
				continue
			}
			break
		}
	}
	return m
}

// nameMistake says what is wrong with one resource by itself.
func nameMistake(text string) string {
	r := resourceOf(text)
	switch {
	case strings.ToLower(text) != text:
		return fmt.Sprintf("%s has capital letters: resources are written in small ones, in the plural%s", Quote(text), orMeant(text))
	case text == "*":
		return `"*" stands for nothing: write *. for all of the core group, or *.* for everything`
	case slices.Contains([]string{"apiserveripinfo", "serviceipallocations", "servicenodeportallocations"}, text):
		return fmt.Sprintf("%q has no API and cannot be encrypted", text)
	case r.group == "events.k8s.io":
		return fmt.Sprintf("%s: events are stored in the core group: write events", Quote(text))
	case r.group == "extensions":
		return fmt.Sprintf("%s: the group extensions has been removed from Kubernetes: write the group that the resource has now, such as ingresses.networking.k8s.io", Quote(text))
	case r.group == "*" && r.name != "*":
		return fmt.Sprintf("%s: a resource cannot be named in all groups at once: write its group, or *.* for everything", Quote(text))
	}
	return ""
}

// masked finds resources that a wildcard of an earlier entry has taken already.
func (c *checker) masked(names []string, path string) {
	for i, text := range names {
		id := resourceOf(text)
		for _, before := range c.before {
			if before.id == (resource{"*", id.group}) || before.id == everything() {
				c.mistakes.add(Form, element(path, i), "%s can never be reached: %s stands for it already, put the wildcard into a later entry", Quote(text), before.path)
				break
			}
		}
	}
	for i, text := range names {
		c.before = append(c.before, placedResource{element(path, i), resourceOf(text)})
	}
}

func (c *checker) provider(p Provider, path string) {
	var given []string
	for name, ok := range map[string]bool{"kms": p.KMS != nil, "aesgcm": p.AESGCM != nil, "aescbc": p.AESCBC != nil, "secretbox": p.Secretbox != nil, "identity": p.Identity != nil} {
		if ok {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	switch {
	case len(given) == 0 && c.nulls[path] == "identity":
		c.mistakes.add(Form, path, "its identity is empty, which is the same as none: write identity: {}")
	case len(given) == 0 && c.nulls[path] != "":
		c.mistakes.add(Form, path, "its %s is empty: indent its settings further than its name", c.nulls[path])
	case len(given) == 0:
		c.mistakes.add(Form, path, "has no provider: it needs one of %s", strings.Join(providerShape().fields, ", "))
	case len(given) > 1:
		c.mistakes.add(Form, path, "has %s: give each an element of its own, with a hyphen", strings.Join(given, " and "))
	}
	switch {
	case p.KMS != nil:
		c.kms(p.KMS, below(path, "kms"))
	case p.AESGCM != nil:
		c.keys(p.AESGCM.Keys, below(path, "aesgcm.keys"), 16, 24, 32)
	case p.AESCBC != nil:
		c.keys(p.AESCBC.Keys, below(path, "aescbc.keys"), 16, 24, 32)
	case p.Secretbox != nil:
		c.keys(p.Secretbox.Keys, below(path, "secretbox.keys"), 32)
	}
}

func (c *checker) kms(k *KMS, path string) {
	c.name(k, path)
	if k.Timeout != nil && *k.Timeout <= 0 {
		c.mistakes.add(Timeout, below(path, "timeout"), "is %s: it must be above 0, such as 3s", Shown(k.Timeout.String()))
	}
	if wrong := endpointMistake(k.Endpoint); wrong != "" {
		c.mistakes.add(Form, below(path, "endpoint"), "%s", wrong)
	}
	switch version := k.Version(); {
	case version != "v1" && version != "v2":
		c.mistakes.add(Form, below(path, "apiVersion"), "is %s: it must be v1 or v2", Quote(version))
	case version == "v2" && k.CacheSize != nil:
		c.mistakes.add(CacheSize, below(path, "cachesize"), "is for KMS v1 alone: remove it")
	case version == "v1" && k.CacheSize != nil && *k.CacheSize == 0:
		c.mistakes.add(CacheSize, below(path, "cachesize"), "is 0: it must be above 0, or below 0 for no cache")
	}
}

// name checks what is stored with all that the entry encrypts. It is unique in the
// file: for v2 always, for v1 where kube-apiserver reloads the file.
func (c *checker) name(k *KMS, path string) {
	at := below(path, "name")
	if k.Name == "" {
		c.mistakes.add(Form, at, "is missing: it is stored with all that is encrypted")
	}
	if k.Version() != "v1" && strings.Contains(k.Name, ":") {
		c.mistakes.add(Name, at, "%s has a colon, which names for KMS v2 must not have", Quote(k.Name))
	}
	first, taken := c.named[k.Name]
	switch old := c.v1[k.Name]; {
	case taken && k.Version() == "v2" && entryOf(first) != entryOf(path):
		c.mistakes.add(NameTwice, at, "%s is the name of %s already: KMS v2 wants another name in each entry of resources, even for the same socket", Quote(k.Name), first)
	case taken && k.Version() != "v1":
		c.mistakes.add(NameTwice, at, "%s is the name of %s already: each kms entry needs its own", Quote(k.Name), first)
	case taken && (old == nil || old.Endpoint != k.Endpoint):
		c.mistakes.add(NameTwice, at, "%s is the name of %s already, which is another plugin: each needs its own", Quote(k.Name), first)
	case taken:
		c.mistakes.add(NameOnReload, at, "%s is the name of %s already: with --encryption-provider-config-automatic-reload each kms entry needs its own", Quote(k.Name), first)
	}
	if taken && k.Version() == "v1" {
		c.mistakes[len(c.mistakes)-1].onReload = true
	}
	if !taken {
		c.named[k.Name] = path
	}
	if k.Version() == "v1" && c.v1[k.Name] == nil {
		c.v1[k.Name] = k
	}
}

// entryOf is the entry of resources that a path stands in.
func entryOf(path string) string {
	entry, _, _ := strings.Cut(path, "]")
	return entry
}

func endpointMistake(endpoint string) string {
	if endpoint == "" {
		return "is missing: it names the plugin's socket, such as unix:///var/run/kmsplugin/socket.sock"
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return fmt.Sprintf("is %s, which is no URL: write such as unix:///var/run/kmsplugin/socket.sock", Quote(endpoint))
	case u.Scheme == "" && strings.HasPrefix(endpoint, "/"):
		return fmt.Sprintf("is %s, a path: write unix:// before it", Quote(endpoint))
	case u.Scheme != "unix":
		return fmt.Sprintf("is %s: it must begin with unix://, kube-apiserver knows no other way to a plugin", Quote(endpoint))
	}
	// gRPC takes the path as a URL of its own, and refuses what is none.
	path := strings.TrimPrefix(u.Path, "/")
	if !strings.HasPrefix(path, "@") {
		path = u.Path
	}
	if _, err := url.Parse("passthrough:///" + path); err != nil {
		return fmt.Sprintf("is %s: its path has characters that kube-apiserver cannot connect by", Quote(endpoint))
	}
	return ""
}

func (c *checker) keys(keys []Key, path string, lengths ...int) {
	if len(keys) == 0 {
		c.mistakes.add(Form, path, "has no key: it needs at least one")
	}
	for i, k := range keys {
		at := element(path, i)
		if k.Name == "" {
			c.mistakes.add(Form, below(at, "name"), "is missing: it is stored with all that the key encrypts")
		}
		if wrong := secretMistake(k.Secret, lengths); wrong != "" {
			c.mistakes.add(Form, below(at, "secret"), "%s", wrong)
		}
	}
}

// secretMistake says nothing of the secret but its length.
func secretMistake(secret string, lengths []int) string {
	if secret == "" {
		return "is missing: it is the key, in base64"
	}
	want := strings.Trim(strings.ReplaceAll(fmt.Sprint(lengths), " ", ", "), "[]")
	key, err := base64.StdEncoding.DecodeString(secret)
	switch {
	case err != nil:
		return "is no base64: head -c 32 /dev/urandom | base64 makes a key, and a placeholder or a variable must be filled in before"
	case !slices.Contains(lengths, len(key)):
		return fmt.Sprintf("is a key of %d bytes: it must be one of %s", len(key), want)
	}
	return ""
}
