package encryptionconfig_test

import (
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// The rules are those of k8s.io/apiserver's transformerFromOverrides: a resource by its
// name, then its group as a whole, then everything.
func TestForTakesTheEntryThatKubeAPIServerTakes(t *testing.T) {
	t.Parallel()
	c, err := encryptionconfig.Parse([]byte(head + `
resources:
- resources: [secrets, pandas.example.com]
  providers: [{secretbox: {keys: [{name: a, secret: "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="}]}}]
- resources: ["*.apps"]
  providers: [{identity: {}}]
- resources: ["*."]
  providers: [{secretbox: {keys: [{name: b, secret: "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="}]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		name, group, key string
		covered          bool
	}{
		{"secrets", "", "a", true},
		{"pandas", "example.com", "a", true},
		{"secrets", "example.com", "", false},
		{"pandas", "", "b", true},
		{"configmaps", "", "b", true},
		{"deployments", "apps", "", true},
		{"deployments", "extensions", "", false},
	} {
		r, ok := c.For(one.name, one.group)
		key := ""
		if ok && r.Encrypts() {
			key = r.Providers[0].LocalKeys()[0].Name
		}
		if ok != one.covered || key != one.key {
			t.Errorf("For(%q, %q) is covered: %v, by key %q; want %v, %q", one.name, one.group, ok, key, one.covered, one.key)
		}
	}
	if _, ok := c.For("anything", "of.any"); ok {
		t.Error("nothing stands for everything here")
	}
	if !encryptionconfig.Covers("*.*", "anything", "of.any") || encryptionconfig.Covers("*.", "anything", "of.any") {
		t.Error("*.* stands for everything, and *. for the core group alone")
	}
	if names := c.Names(); len(names) != 2 || names[0] != "a" || names[1] != "b" {
		t.Errorf("Names() = %q, want a and b", names)
	}
}
