package encryptionconfig_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"

// secret is a key that must not come out of an error.
const secret = "c2VjcmV0IGlzIHNlY3VyZQ=="

func TestParse(t *testing.T) {
	got, err := encryptionconfig.Parse([]byte(head + `
resources:
- resources: [secrets, pandas.example.com]
  providers:
  - kms: {name: old, endpoint: "unix:///run/a.sock", cachesize: 1000, timeout: 3s}
  - kms: {apiVersion: v2, name: new, endpoint: "unix:///@b"}
  - aescbc: {keys: [{name: key1, secret: ` + secret + `}]}
  - identity: {}
`))
	if err != nil {
		t.Fatal(err)
	}
	cache, timeout := int32(1000), 3*time.Second
	want := &encryptionconfig.Configuration{
		APIVersion: encryptionconfig.APIVersion, Kind: encryptionconfig.Kind,
		Resources: []encryptionconfig.Resource{{
			Resources: []string{"secrets", "pandas.example.com"},
			Providers: []encryptionconfig.Provider{
				{KMS: &encryptionconfig.KMS{Name: "old", Endpoint: "unix:///run/a.sock", CacheSize: &cache, Timeout: &timeout}},
				{KMS: &encryptionconfig.KMS{APIVersion: "v2", Name: "new", Endpoint: "unix:///@b"}},
				{AESCBC: &encryptionconfig.Keys{Keys: []encryptionconfig.Key{{Name: "key1", Secret: secret}}}},
				{Identity: &encryptionconfig.Identity{}},
			},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse:\n%s", diff)
	}
	for i, want := range []string{"/run/a.sock", "@b"} {
		kms := got.Resources[0].Providers[i].KMS
		if kms.Socket() != want || encryptionconfig.Endpoint(want) != kms.Endpoint {
			t.Errorf("%s is the socket %q, want %q and back", kms.Endpoint, kms.Socket(), want)
		}
	}
	if printed := fmt.Sprintf("%v %+v %#v", got, got.Resources, got.Resources[0].Providers[2].AESCBC); strings.Contains(printed, secret) {
		t.Errorf("a secret is printed: %s", printed)
	}
}

// TestParsesJSON: RKE2 and k3s keep theirs as JSON.
func TestParsesJSON(t *testing.T) {
	got, err := encryptionconfig.Parse([]byte(`{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":` +
		`[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"aescbckey","secret":"` + secret + `"}]}},{"identity":{}}]}]}`))
	if err != nil || len(got.Resources) != 1 || got.Resources[0].Providers[0].String() != "aescbc" {
		t.Errorf("Parse = %v, %v", got, err)
	}
}

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":              {"", "is empty"},
		"another kind":         {"apiVersion: v1\nkind: EncryptionConfig\n", `is "v1" "EncryptionConfig", not apiserver.config.k8s.io/v1 EncryptionConfiguration`},
		"no resources":         {head, "has no resources"},
		"unknown field":        {head + "resources:\n- resource: [secrets]\n", "field resource not found"},
		"a field twice":        {head + "resources: []\nresources: []\n", "already defined"},
		"two documents":        {head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n---\na: b\n", "more than one YAML document"},
		"no name of resources": {head + "resources: [{providers: [{identity: {}}]}]\n", "resources[0]: names no resource"},
		"no providers":         {head + "resources: [{resources: [secrets]}]\n", "resources[0]: has no providers"},
		"empty element":        {head + "resources: [{resources: [secrets], providers: [{}]}]\n", "providers[0] has 0 providers"},
		"two in an element":    {head + "resources: [{resources: [secrets], providers: [{identity: {}, secretbox: {}}]}]\n", "providers[0] has 2 providers"},
		"version":              {head + "resources: [{resources: [secrets], providers: [{kms: {apiVersion: v3, name: a, endpoint: unix:///a}}]}]\n", `"v3" is neither v1 nor v2`},
		"endpoint":             {head + "resources: [{resources: [secrets], providers: [{kms: {name: a, endpoint: /a}}]}]\n", "begins with unix://"},
		"a number for a time":  {head + "resources: [{resources: [secrets], providers: [{kms: {name: a, endpoint: unix:///a, timeout: 3}}]}]\n", "cannot unmarshal"},
		"a secret out of place": {
			head + "resources: [{resources: [secrets], providers: [{secretbox: " + secret + "}]}]\n", "cannot unmarshal",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := encryptionconfig.Parse([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), secret[:10]) {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

// FuzzParse: what is read is written as what is read the same again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "resources: [{resources: [secrets], providers: [{kms: {name: a, endpoint: unix:///a, timeout: 3s}}, {identity: {}}]}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := encryptionconfig.Parse(data)
		if err != nil {
			return
		}
		written, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := encryptionconfig.Parse(written)
		if err != nil {
			t.Fatalf("%v: of\n%s", err, written)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("written and read again:\n%s", diff)
		}
	})
}
