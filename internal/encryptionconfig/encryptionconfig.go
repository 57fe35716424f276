// Package encryptionconfig reads and writes kube-apiserver's
// EncryptionConfiguration, the file that says which provider writes a resource
// and which may read it.
//
// It is read as kube-apiserver reads it, strictly: an unknown field, or one that
// is given twice, is an error. Only what concerns the order of providers is
// looked at further; kube-apiserver checks the rest. Keys of aescbc and the like
// are kept, and never printed by an error.
//
// The daemon cannot link kube-apiserver's own types; a test module compares.
// https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/
package encryptionconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// What an entry of kind kms has in kube-apiserver where it does not say:
// k8s.io/apiserver/pkg/apis/apiserver/v1/defaults.go.
const (
	DefaultTimeout   = 3 * time.Second
	DefaultCacheSize = 1000 // v1 only
)

// What stands in the head of every file.
const (
	APIVersion = "apiserver.config.k8s.io/v1"
	Kind       = "EncryptionConfiguration"
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
func (k Key) String() string { return "key " + k.Name }

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

// Socket returns the path of the endpoint's socket, @name for an abstract one,
// and "" where the endpoint is no socket.
func (k *KMS) Socket() string {
	path, ok := strings.CutPrefix(k.Endpoint, "unix://")
	switch {
	case !ok, path == "":
		return ""
	case strings.HasPrefix(path, "/@"):
		return path[1:]
	}
	return path
}

// Endpoint returns what Socket takes apart.
func Endpoint(socket string) string {
	if strings.HasPrefix(socket, "@") {
		return "unix:///" + socket
	}
	return "unix://" + socket
}

// String names a provider as a person would look for it.
func (p Provider) String() string {
	switch {
	case p.KMS != nil:
		return fmt.Sprintf("kms %s %q at %s", p.KMS.Version(), p.KMS.Name, p.KMS.Endpoint)
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

// Parse reads a file, YAML or JSON.
func Parse(data []byte) (*Configuration, error) {
	var head struct { // first: of another file, every field is unknown
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(data, &head); err == nil && len(data) > 0 && (head.APIVersion != APIVersion || head.Kind != Kind) {
		return nil, fmt.Errorf("is %.80q %.80q, not %s %s", head.APIVersion, head.Kind, APIVersion, Kind)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	var c Configuration
	switch err := decoder.Decode(&c); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("is empty")
	case err != nil:
		return nil, withoutValues(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more than one YAML document: kube-apiserver reads one")
	}
	if len(c.Resources) == 0 {
		return nil, errors.New("has no resources")
	}
	for i, r := range c.Resources {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("resources[%d]: %w", i, err)
		}
	}
	return &c, nil
}

// withoutValues is the parser's error in one line, without the values that it
// quotes: they may be keys.
func withoutValues(err error) error {
	text := regexp.MustCompile("`[^`]*`").ReplaceAllString(err.Error(), "a value")
	text = regexp.MustCompile(` (not found|already set) in type [a-zA-Z.]+`).ReplaceAllString(text, " $1")
	text = strings.TrimPrefix(strings.TrimPrefix(text, "yaml: "), "unmarshal errors:\n  ")
	return errors.New("cannot be read: " + strings.ReplaceAll(text, "\n  ", "; "))
}

func (r Resource) check() error {
	if len(r.Resources) == 0 {
		return errors.New("names no resource")
	}
	if len(r.Providers) == 0 {
		return errors.New("has no providers")
	}
	for i, p := range r.Providers {
		set := 0
		for _, one := range []bool{p.KMS != nil, p.AESGCM != nil, p.AESCBC != nil, p.Secretbox != nil, p.Identity != nil} {
			if one {
				set++
			}
		}
		switch {
		case set != 1:
			return fmt.Errorf("providers[%d] has %d providers, want one in each element", i, set)
		case p.KMS != nil && p.KMS.Version() != "v1" && p.KMS.Version() != "v2":
			return fmt.Errorf("providers[%d]: kms: apiVersion %.20q is neither v1 nor v2", i, p.KMS.APIVersion)
		case p.KMS != nil && (p.KMS.Name == "" || p.KMS.Socket() == ""):
			return fmt.Errorf("providers[%d]: kms: needs a name and an endpoint that begins with unix://", i)
		}
	}
	return nil
}
