// Package encryptionconfig reads and writes kube-apiserver's
// EncryptionConfiguration, the file that says which provider writes a resource
// and which may read it.
//
// It takes what kube-apiserver takes and refuses what kube-apiserver refuses, in
// words of its own that name line and field. The YAML goes through the parser that
// kube-apiserver uses (tree.go), the fields through its strict decoding (decode.go)
// and the settings through its validation (rules.go). The program cannot link
// kube-apiserver's own code; test/loaders compares the two. What kube-apiserver
// takes although nobody can have meant it is a warning (warnings.go).
//
// Local keys are kept, and never printed.
//
// https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/
package encryptionconfig

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// What an entry of kind kms has in kube-apiserver where it does not say:
// k8s.io/apiserver/pkg/apis/apiserver/v1/defaults.go.
const (
	DefaultTimeout   = 3 * time.Second
	DefaultCacheSize = 1000 // v1 only
)

// What stands in the head of a file.
const (
	APIVersion = "apiserver.config.k8s.io/v1"
	Kind       = "EncryptionConfiguration"
)

// What stands in the head of old files. Every kube-apiserver still takes it, "due
// to a docs bug": k8s.io/apiserver/pkg/apis/apiserver/v1/register.go.
const (
	legacyAPIVersion = "v1"
	legacyKind       = "EncryptionConfig"
)

// A Configuration is the whole file. Of several entries for one resource the
// first counts.
type Configuration struct {
	APIVersion string     `yaml:"apiVersion"`
	Kind       string     `yaml:"kind"`
	Resources  []Resource `yaml:"resources"`
}

// A Resource is an entry: resources, and the providers of all of them. The first
// provider writes, all read.
type Resource struct {
	Resources []string   `yaml:"resources"` // such as "secrets", "pandas.example.com", "*.apps" or "*.*"
	Providers []Provider `yaml:"providers"`
}

// String returns the names of the resources, as far as they may be told.
func (r Resource) String() string {
	names := make([]string, len(r.Resources))
	for i, name := range r.Resources {
		names[i] = Shown(name)
	}
	return strings.Join(names, ", ")
}

// GoString returns the same as String.
func (r Resource) GoString() string { return r.String() }

// A Provider is one of its fields.
type Provider struct {
	KMS       *KMS      `yaml:"kms,omitempty"`
	AESGCM    *Keys     `yaml:"aesgcm,omitempty"`
	AESCBC    *Keys     `yaml:"aescbc,omitempty"`
	Secretbox *Keys     `yaml:"secretbox,omitempty"`
	Identity  *Identity `yaml:"identity,omitempty"`
}

// KMS is a plugin and the name that is stored with all that it encrypts.
type KMS struct {
	APIVersion string         `yaml:"apiVersion,omitempty"` // v1, v2; "": v1
	Name       string         `yaml:"name"`
	Endpoint   string         `yaml:"endpoint"`
	CacheSize  *int32         `yaml:"cachesize,omitempty"` // nil: DefaultCacheSize; with v1 only
	Timeout    *time.Duration `yaml:"timeout,omitempty"`   // nil: DefaultTimeout
}

// Keys are those of a local provider.
type Keys struct {
	Keys []Key `yaml:"keys"`
}

// A Key is a local key.
type Key struct {
	Name   string `yaml:"name"`
	Secret string `yaml:"secret"`
}

// String returns the key without its secret.
func (k Key) String() string { return "key " + Shown(k.Name) }

// GoString returns the key without its secret.
func (k Key) GoString() string { return k.String() }

// Identity stores in the clear, and reads what is.
type Identity struct{}

// Version is v1 or v2.
func (k *KMS) Version() string {
	if k.APIVersion == "" {
		return "v1"
	}
	return k.APIVersion
}

// Socket returns the path of the socket that kube-apiserver connects to, @name for
// an abstract one, and "" where the endpoint leads to none. It reads the endpoint
// as a URL, as kube-apiserver does (k8s.io/kms/pkg/util.ParseEndpoint): of
// unix://run/a.sock, "run" is the host and /a.sock the path.
func (k *KMS) Socket() string {
	u, err := url.Parse(k.Endpoint)
	switch {
	case err != nil, u.Scheme != "unix":
		return ""
	case strings.HasPrefix(u.Path, "/@"):
		return u.Path[1:]
	}
	return u.Path
}

// Endpoint returns the endpoint of a socket.
func Endpoint(socket string) string {
	if strings.HasPrefix(socket, "@") {
		socket = "/" + socket
	}
	return (&url.URL{Scheme: "unix", Path: socket}).String()
}

// String names a provider as a person would look for it.
func (p Provider) String() string {
	switch {
	case p.KMS != nil:
		return fmt.Sprintf("kms %s %s at %s", Shown(p.KMS.Version()), Quote(p.KMS.Name), Shown(p.KMS.Endpoint))
	case p.AESGCM != nil:
		return "aesgcm"
	case p.AESCBC != nil:
		return "aescbc"
	case p.Secretbox != nil:
		return "secretbox"
	}
	return "identity"
}

// GoString returns the same as String: no key is printed.
func (p Provider) GoString() string { return p.String() }

// Encrypts reports whether one of the providers encrypts, be it not the first: then
// some of the resources' objects may be encrypted.
func (r Resource) Encrypts() bool { return slices.ContainsFunc(r.Providers, encrypts) }

// Names returns what the providers store with all that they encrypt: names of kms
// entries and of local keys, each as often as it stands there.
func (c *Configuration) Names() []string {
	var names []string
	for _, r := range c.Resources {
		for _, p := range r.Providers {
			if p.KMS != nil {
				names = append(names, p.KMS.Name)
			}
			for _, k := range p.LocalKeys() {
				names = append(names, k.Name)
			}
		}
	}
	return names
}

// LocalKeys returns the keys of aesgcm, aescbc or secretbox, the first of which
// writes. Other providers have none.
func (p Provider) LocalKeys() []Key {
	for _, keys := range []*Keys{p.AESGCM, p.AESCBC, p.Secretbox} {
		if keys != nil {
			return keys.Keys
		}
	}
	return nil
}
