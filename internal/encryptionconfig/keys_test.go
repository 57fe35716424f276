package encryptionconfig_test

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// seeded gives the same keys at each run.
func seeded(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // of a test, and to be repeated
}

// randomKey is a key in one of the forms that people write keys in.
func randomKey(r *rand.Rand) string {
	raw := make([]byte, []int{16, 24, 32}[r.IntN(3)])
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	switch r.IntN(6) {
	case 0:
		return hex.EncodeToString(raw)
	case 1:
		return strings.ToUpper(hex.EncodeToString(raw))
	case 2:
		return base64.RawURLEncoding.EncodeToString(raw)
	case 3:
		return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw))
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// oddPlaces are files with a key where none belongs, %s.
func oddPlaces() []string {
	const entry = head + "resources:\n- resources: [secrets]\n  providers:\n  - "
	const kms = head + "resources:\n- resources: [%s]\n  providers:\n  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}\n"
	return []string{
		entry + "aescbc: {keys: [{name: a, secret=%s}]}\n",
		entry + "aescbc:\n      keys:\n      - name: a\n        secret=%s\n",
		entry + "aescbc:\n      keys:\n      - key1:%s\n",
		entry + "aescbc: {keys: ['key1:%s']}\n",
		entry + "aescbc: {keys: [{name: a, %s: a}]}\n",
		entry + "aescbc: {keys: {key1: '%s'}}\n",
		entry + "%s: {}\n",
		entry + "%s\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: %s}\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: 'unix://%s'}\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: 'unix://%s/a.sock'}\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: 'unix:%s'}\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: 'unix:///%s/'}\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: 'unix:///%s '}\n",
		entry + "kms: {apiVersion: v2, name: 'a:%s', endpoint: 'unix:///a'}\n",
		entry + "kms: {apiVersion: '%s', name: a, endpoint: 'unix:///a'}\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: %s}\n",
		entry + "kms: {apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: '%s'}\n",
		entry + "kms: {name: a, endpoint: 'unix:///a', cachesize: %s}\n",
		entry + "kms: {apiVersion: v2, name: '%[1]s', endpoint: 'unix:///a'}\n  - kms: {apiVersion: v2, name: '%[1]s', endpoint: 'unix:///b'}\n",
		entry + "kms: {apiVersion: v2, &%s name: a, endpoint: /a}\n",
		entry + "kms: *%s\n",
		entry + "kms: {<<: *%s}\n",
		entry + "kms: {<<: %s}\n",
		entry + "kms: !%s a\n",
		entry + "kms: !!%s {}\n",
		entry + "kms: {name: a} # %s\n",
		entry + "kms: {name: a, %[1]s: a, %[1]s: b}\n",
		entry + "kms: {name: {{ %s }}}\n",
		entry + "kms: {name: ${%s}}\n",
		entry + "secretbox: '%s'\n",
		entry + "? %s\n",
		entry + "secretbox: \"%s\n",
		entry + "secretbox: \u201c%s\u201d\n",
		kms, strings.ReplaceAll(kms, "%s", "'%s'"), strings.ReplaceAll(kms, "%s", "secret, %s"), strings.ReplaceAll(kms, "%s", "%s.apps"), strings.ReplaceAll(kms, "%s", "apps.%s"),
		strings.ReplaceAll(kms, "%s", "'*.%s'"), strings.ReplaceAll(kms, "%s", "'%s.*'"), strings.ReplaceAll(kms, "%s", "'v1/%s'"), strings.ReplaceAll(kms, "%s", "'%[1]s', '%[1]s'"), strings.ReplaceAll(kms, "%s", "pods, '%s.events.k8s.io'"),
		"apiVersion: %s\nkind: EncryptionConfiguration\n", "apiVersion: v1\nkind: %s\n", "kind: %s\napiVersion: a\n", "%s\n", "- %s\n", "{\"%s\": 1}", "{%s}", "[\"%s\"]", "--- !%s\na: b\n", head + "%s: a\n", head + "---\n%s: [\n",
		"\t%s", "%%YAML %s\n---\n", "%%%s\n---\n", "'%s", "%s: %[1]s: %[1]s", "\x00%s", "\xff%s",
	}
}

// tellsKey reports a piece of a key, of eight characters, that a text has, whatever
// became of its case.
func tellsKey(text, key string) string {
	text, key = strings.ToLower(text), strings.ToLower(key)
	for i := range len(key) - 7 {
		if strings.Contains(text, key[i:i+8]) {
			return key[i : i+8]
		}
	}
	return ""
}

// TestNoKeyIsTold: of a key at any place of any file nothing is told.
func TestNoKeyIsTold(t *testing.T) {
	const seed = 20261128
	r := seeded(seed)
	check := func(text, key string) {
		t.Helper()
		_, refused, warnings := encryptionconfig.Examine([]byte(text))
		what := refused.Error() + "\n" + warnings.Error()
		if piece := tellsKey(what, key); piece != "" {
			t.Errorf("seed %d: %q tells %q of the key in\n%s", seed, what, piece, text)
		}
	}
	for _, form := range oddPlaces() {
		for range 50 {
			key := randomKey(r)
			check(fmt.Sprintf(form, key), key)
		}
	}
	files, err := filepath.Glob("testdata/posted/*")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %q, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for at := r.IntN(3); at <= len(data); at += 1 + r.IntN(5) { // put in, or in place of some characters
			key := randomKey(r)
			check(string(data[:at])+key+string(data[min(len(data), at+max(0, r.IntN(20)-10)):]), key)
		}
	}
}

// TestProvidersTellNoKey, which other packages print.
func TestProvidersTellNoKey(t *testing.T) {
	r := seeded(1)
	for range 200 {
		key := randomKey(r)
		kms := &encryptionconfig.KMS{Name: key, Endpoint: "unix:///" + key, APIVersion: key}
		keys := &encryptionconfig.Keys{Keys: []encryptionconfig.Key{{Name: key, Secret: key}}}
		text := fmt.Sprint(encryptionconfig.Provider{KMS: kms}, encryptionconfig.Provider{AESCBC: keys}, keys, encryptionconfig.Quote(key), encryptionconfig.Shown(key))
		if piece := tellsKey(text, key); piece != "" {
			t.Errorf("%s tells %q of %q", text, piece, key)
		}
	}
}

// TestUsualValuesAreShown: what people write into such files, and what may be told
// of anything else.
func TestUsualValuesAreShown(t *testing.T) {
	for _, value := range []string{
		"", "secrets", "Secrets", "secret", "v3", "*.*", "pandas.example.com", "ingresses.networking.k8s.io", "aws-encryption-provider", "aws-encryption-provider-2", "aws-kms-primary", "cloudkmsprovider",
		"unix:///var/run/kmsplugin/socket.sock", "unix:///run/kms/a.sock", "unix://run/a", "/tmp/kms.sock", "tcp://localhost:8080", "apiserver.config.k8s.io/v1beta1", "3s", "500ms", "-1h", "my-cluster-kms", "a b",
		"unix:///tmp/review/s.sock", "unix:///opt/vendor/our-plugin.sock", "clusters.anywhere.eks.amazonaws.com", "virtualmachines.kubevirt.io",
	} {
		if got := encryptionconfig.Shown(value); got != value {
			t.Errorf("%q is told as %q", value, got)
		}
	}
	for value, want := range map[string]string{
		"unix:///0123456789abcdef": "a value of 24 characters", "abcdefab.cdefabcd": "a value of 17 characters", "unix:///Zm9v/YmFy": "a value of 17 characters",
		"0123456789abcdef": "a value of 16 characters", "AbCdEfGh": "a value of 8 characters", "/abcdefg": "a value of 8 characters", "key1:AbCdEfGh": "a value of 13 characters",
		"AbCd EfGh IjKl": "a value of 14 characters", "00:11:22:33:44": "a value of 14 characters", strings.Repeat("secrets ", 20): "a value of 160 characters", "cl\u00fcster\u00e4\u00f6\u00fc\u00df-\u20ac": "a value of 13 characters",
	} {
		if got := encryptionconfig.Quote(value); got != want {
			t.Errorf("%q is told as %q, want %q", value, got, want)
		}
	}
}

// FuzzNoKeyIsTold: wherever a key is put into whatever file.
func FuzzNoKeyIsTold(f *testing.F) {
	for i, form := range oddPlaces() {
		f.Add([]byte(fmt.Sprintf(form, "")), uint16(i), uint64(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, at uint16, seed uint64) {
		key := randomKey(seeded(seed))
		here := min(int(at), len(data))
		text := string(data[:here]) + key + string(data[here:])
		_, refused, warnings := encryptionconfig.Examine([]byte(text))
		if piece := tellsKey(refused.Error()+"\n"+warnings.Error(), key); piece != "" && tellsKey(string(data), key) == "" {
			t.Errorf("%v, %v tell %q of the key in\n%s", refused, warnings, piece, text)
		}
	})
}
