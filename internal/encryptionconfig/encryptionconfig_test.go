package encryptionconfig_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
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

// TestRefusesInOurWords: what is refused, where, and in which words. What is refused
// at all is compared with kube-apiserver in test/loaders.
func TestRefusesInOurWords(t *testing.T) {
	const providers = head + "resources:\n- resources: [secrets]\n  providers:\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":           {"", "is empty"},
		"a comment":         {"# none\n", "is empty, or its first document is: kube-apiserver reads no other"},
		"another kind":      {"apiVersion: v1\nkind: Pod\n", `line 2: kind: is "Pod" of "v1": kube-apiserver takes EncryptionConfiguration of apiserver.config.k8s.io/v1`},
		"an old version":    {"apiVersion: apiserver.config.k8s.io/v1beta1\nkind: EncryptionConfiguration\n", `line 1: apiVersion: is "apiserver.config.k8s.io/v1beta1": kube-apiserver takes apiserver.config.k8s.io/v1`},
		"no head":           {"resources: []\n", "lacks its head: it begins with apiVersion: apiserver.config.k8s.io/v1 and kind: EncryptionConfiguration"},
		"no resources":      {head, "resources: has no entry: it needs at least one"},
		"misspelt field":    {head + "resources:\n- resource: [secrets]\n", "line 4: resources[0].resource: is not known in an element of the list resources: did you mean resources?"},
		"capitals in field": {head + "Resources: []\n", "line 3: Resources: is not known: write resources, capitals count"},
		"misplaced field":   {providers + "  - kms:\n    name: a\n", "line 7: resources[0].providers[0].name: belongs under kms, not in an element of providers: look at the indentation"},
		"unknown field":     {providers + "  - kms: {region: a}\n", "line 6: resources[0].providers[0].kms.region: is not known under kms: there are apiVersion, name, endpoint, cachesize, timeout"},
		"a field twice":     {head + "resources: []\nresources: []\n", "line 4: resources: is given twice: it stands in line 3 already"},
		"a field twice in JSON": {
			`{"kind":"EncryptionConfiguration","kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1"}`, "line 1: kind: is given twice",
		},
		"no name of resources":  {head + "resources:\n- providers: [{identity: {}}]\n", "line 4: resources[0].resources: names no resource: it needs at least one, such as secrets"},
		"no providers":          {head + "resources:\n- resources: [secrets]\n", "line 4: resources[0].providers: has no provider: it needs at least one"},
		"empty element":         {providers + "  - {}\n", "line 6: resources[0].providers[0]: has no provider: it needs one of kms, aesgcm, aescbc, secretbox, identity"},
		"identity without {}":   {providers + "  - identity:\n", "line 6: resources[0].providers[0]: its identity is empty, which is the same as none: write identity: {}"},
		"kms without settings":  {providers + "  - kms:\n", "line 6: resources[0].providers[0]: its kms is empty: indent its settings further than its name"},
		"two in an element":     {providers + "  - {identity: {}, secretbox: {keys: [{name: a, secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}]}}\n", "line 6: resources[0].providers[0]: has identity and secretbox: give each an element of its own, with a hyphen"},
		"version":               {providers + "  - kms: {apiVersion: v3, name: a, endpoint: 'unix:///a'}\n", `line 6: resources[0].providers[0].kms.apiVersion: is "v3": it must be v1 or v2`},
		"a path as endpoint":    {providers + "  - kms: {name: a, endpoint: /a}\n", `line 6: resources[0].providers[0].kms.endpoint: is "/a", a path: write unix:// before it`},
		"another endpoint":      {providers + "  - kms: {name: a, endpoint: 'tcp://a'}\n", `is "tcp://a": it must begin with unix://, kube-apiserver knows no other way to a plugin`},
		"a number for a time":   {providers + "  - kms: {name: a, endpoint: 'unix:///a', timeout: 3}\n", "line 6: resources[0].providers[0].kms.timeout: is a number: it needs a unit, such as 3s"},
		"a time of 0":           {providers + "  - kms: {name: a, endpoint: 'unix:///a', timeout: 0s}\n", "kms.timeout: is 0s: it must be above 0, such as 3s"},
		"a text for a number":   {providers + "  - kms: {name: a, endpoint: 'unix:///a', cachesize: '3'}\n", "kms.cachesize: is a text and must be a number: write it without quotes"},
		"cachesize in v2":       {providers + "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///a', cachesize: 3}\n", "kms.cachesize: is for KMS v1 alone: remove it"},
		"cachesize of 0":        {providers + "  - kms: {name: a, endpoint: 'unix:///a', cachesize: 0}\n", "kms.cachesize: is 0: it must be above 0, or below 0 for no cache"},
		"a colon in v2":         {providers + "  - kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'}\n", `kms.name: "a:b" has a colon, which names for KMS v2 must not have`},
		"a number as name":      {providers + "  - kms: {name: 1, endpoint: 'unix:///a'}\n", "kms.name: is a number and must be a text: put it in quotes"},
		"capitals":              {head + "resources:\n- resources: [Secrets]\n  providers: [{identity: {}}]\n", `line 4: resources[0].resources[0]: "Secrets" has capital letters: resources are written in small ones, in the plural`},
		"an overlap":            {head + "resources:\n- resources: ['*.*', secrets]\n  providers: [{identity: {}}]\n", `resources[0].resources[1]: "secrets" is among "*.*" of the same list: remove one of them`},
		"a masked entry":        {head + "resources:\n- resources: ['*.']\n  providers: [{identity: {}}]\n- resources: [pods]\n  providers: [{identity: {}}]\n", `line 6: resources[1].resources[0]: "pods" can never be reached: resources[0].resources[0] stands for it already, put the wildcard into a later entry`},
		"a star":                {head + "resources:\n- resources: ['*']\n  providers: [{identity: {}}]\n", `"*" stands for nothing: write *. for all of the core group, or *.* for everything`},
		"a key of 9 bytes":      {providers + "  - aescbc: {keys: [{name: a, secret: MTIzNDU2Nzg5}]}\n", "aescbc.keys[0].secret: is a key of 9 bytes: it must be one of 16, 24, 32"},
		"a placeholder":         {providers + "  - aescbc: {keys: [{name: a, secret: <KEY>}]}\n", "aescbc.keys[0].secret: is no base64"},
		"a secret out of place": {providers + "  - secretbox: " + secret + "\n", "line 6: resources[0].providers[0].secretbox: is a text and must be a set of fields"},
		"a secret as name": {
			providers + "  - kms: {apiVersion: v2, name: " + secret + ", endpoint: 'unix:///a'}\n  - kms: {apiVersion: v2, name: " + secret + ", endpoint: 'unix:///a'}\n",
			"a value of 24 characters is the name of resources[0].providers[0].kms already",
		},
		"a secret as field":    {providers + "  - aescbc: {keys: [{name: a, " + secret + ": a}]}\n", "line 6: resources[0].providers[0].aescbc.keys[0].this: is not known in an element of keys: there are name, secret"},
		"a tab":                {head + "resources:\n\t- a\n", "a text cannot begin with this character: indent by blanks, never by tabs"},
		"a tab for a field":    {providers + "  - kms:\n      apiVersion: v2\n      name: a\n\t\tendpoint: unix:///s\n", "it is indented by a tab: indent by blanks"},
		"a wrong indent":       {head + "resources:\n- resources: [secrets]\n providers: []\n", "a field is expected about here"},
		"a quote":              {head + "resources: 'a\n", "a quote is not closed"},
		"a star unquoted":      {head + "resources:\n- resources: [*.*]\n", "needs quotes, such as '*.*'"},
		"a misspelt field":     {providers + "  - kms: {name: a, cachsize: 3}\n", "line 6: resources[0].providers[0].kms.cachsize: is not known under kms: did you mean cachesize?"},
		"a template in YAML":   {providers + "  - aescbc: {keys: [{name: a, secret: {{ key }}}]}\n", "line 6: a template or variable ({{) in this line was not filled in"},
		"a template, a line":   {providers + "  - aescbc:\n      keys:\n      - name: a\n        secret: {{ key }}\n", "line 9: a template or variable ({{) in this line was not filled in"},
		"a template's block":   {head + "{% if x %}\nresources: []\n{% endif %}\n", "line 3: a template or variable ({%) in this line was not filled in: kube-apiserver reads the file as it stands, so fill it in before; line 5: a template"},
		"a template in a text": {providers + "  - aescbc: {keys: [{name: a, secret: '{{ key }}'}]}\n", "; a template or variable ({{) in this line was not filled in"},
		"a template in JSON":   {"{\n\"kind\": {{ .Kind }}\n}", "line 2: a template or variable ({{) in this line was not filled in"},
		"a shell's variable":   {providers + "  - kms: {name: a, endpoint: $ENDPOINT}\n", "; a template or variable ($) in this line was not filled in"},
		"a shell's command":    {providers + "  - aescbc: {keys: [{name: a, secret: $(head -c 32 /dev/urandom)}]}\n", "; a template or variable ($() in this line was not filled in"},
		"no value":             {providers + "  - aescbc: {keys: [{name: a, secret: <no value>}]}\n", "; a template was run without a value for this line"},
		"a variable in braces": {providers + "  - aescbc: {keys: [{name: a, secret: ${KEY}}]}\n", "line 6: a template or variable (${) in this line was not filled in"},
		"= for a colon":        {providers + "  - aescbc:\n      keys:\n      - name: a\n        secret=" + secret + "\n", "line 9: a field without a colon stands here or in the line above; this line has a field with =: write a colon and a blank"},
		"a colon, no blank":    {providers + "  - aescbc:\n      keys:\n      - key1:" + secret + "\n", "line 8: resources[0].providers[0].aescbc.keys[0]: is a text and must be a set of fields; this line has a colon without a blank behind it"},
		"a template as kind":   {"apiVersion: apiserver.config.k8s.io/v1\nkind: ${KIND}\n", "; a template or variable (${) in this line was not filled in"},
		"a merge and a field":  {head + "resources:\n- &a {resources: [secrets], providers: [{identity: {}}]}\n- <<: *a\n  resources: [pods]\n", "line 6: a merge (<<) brings a field that is given here too"},
		"a merge of nothing":   {head + "resources:\n- <<: *a\n", "line 4: a text that begins with * needs quotes, such as '*.*'; without, it stands for an anchor (&) of this file"},
		"a merge of a text":    {head + "resources:\n- <<: a\n", "line 4: a merge (<<) takes an anchor (*) of a set of fields"},
		"a merge in JSON":      {"{\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"kind\":\"EncryptionConfiguration\",\n\"<<\":{}}", "line 2: this: is a merge of YAML, and no merge where it stands in quotes or in JSON"},
		"an anchor in itself":  {head + "resources: &a [*a]\n", "line 3: an anchor (&) has itself (*) in it"},
		"curly quotes":         {providers + "  - kms: {name: a, endpoint: \u201cunix:///a\u201d}\n", "this line has a typographic quote (\u201c): write a plain one (\")"},
		"curly quotes, field":  {providers + "  - \u201ckms\u201d: {}\n", "line 6: resources[0].providers[0].this: is not known in an element of providers: did you mean kms?; this line has a typographic quote"},
		"curly quotes, kind":   {"apiVersion: apiserver.config.k8s.io/v1\nkind: \u2018EncryptionConfiguration\u2019\n", "line 2: kind: is "},
		"no-break blanks":      {head + "resources:\n- resources: [secrets]\n\u00a0\u00a0providers: [{identity: {}}]\n", "this line has a blank (U+00A0)"},
		"a dash for a hyphen":  {head + "resources:\n\u2013 resources: [secrets]\n", "this line has a dash or bullet (\u2013)"},
		"a zero-width blank":   {head + "\u200bresources: []\n", "line 3: this: is not known at the top of the file: did you mean resources?; this line has a character (U+200B) that nobody sees"},
		"capitals and a blank": {head + "resources:\n- resources: ['Secrets ']\n  providers: [{identity: {}}]\n", `line 4: resources[0].resources[0]: "Secrets " has capital letters: resources are written in small ones, in the plural; did you mean secrets?`},
		"a kind":               {head + "resources:\n- resources: [Secret]\n  providers: [{identity: {}}]\n", "did you mean secrets?"},
		"a kind with version":  {head + "resources:\n- resources: [v1/Secret]\n  providers: [{identity: {}}]\n", "did you mean secrets?"},
		"a long time":          {providers + "  - kms: {name: a, endpoint: 'unix:///a', timeout: 99999999999999h}\n", "line 6: resources[0].providers[0].kms.timeout: is a value of 15 characters, too long for a time"},
		"a time in days":       {providers + "  - kms: {name: a, endpoint: 'unix:///a', timeout: 1d}\n", `is "1d": hours are the longest unit`},
		"a time with a blank":  {providers + "  - kms: {name: a, endpoint: 'unix:///a', timeout: 3 s}\n", `is "3 s": it has a blank`},
		"a time in quotes":     {providers + "  - kms: {name: a, endpoint: 'unix:///a', timeout: '3'}\n", `is "3": it needs a unit, such as 3s`},
		"a time in capitals":   {providers + "  - kms: {name: a, endpoint: 'unix:///a', timeout: 3S}\n", `is "3S": it must be a time with one of the units ms, s, m and h`},
		"a large number":       {providers + "  - kms: {name: a, endpoint: 'unix:///a', cachesize: 99999999999}\n", "is a value of 11 characters: it must be a whole number of at most 2147483647"},
		"a list on top":        {"# ours\n- a\n", "line 2: is a list and must be a set of fields"},
		"no document":          {"---\n", "is empty, or its first document is"},
		"no UTF-8":             {head + "resources: [\"\xff\"]\n", "line 3: it is not UTF-8"},
		"NUL":                  {head + "resources: [\"\x00\"]\n", "line 3: it has characters that no text has"},
		"comments in JSON":     {"{\n// ours\n\"kind\": 1}", "line 2: it begins with a brace, so kube-apiserver reads it as JSON, and it is none: JSON has quotes around every name and text, no comments"},
		"twice with CRLF":      {strings.ReplaceAll(head+"resources: []\nresources: []\n", "\n", "\r\n"), "line 4: resources: is given twice: it stands in line 3 already"},
		"twice behind a BOM":   {"\ufeff" + head + "resources: []\nresources: []\n", "line 4: resources: is given twice"},
		"an infinite number":   {head + "x: .inf\n", "line 3: a number in it is infinite or no number"},
		"a field that is none": {head + "resources: []\n? [a]\n: b\n", "line 4: the name of a field is no text"},
		"braces and no JSON":   {"{kind: EncryptionConfiguration}", "line 1: it begins with a brace, so kube-apiserver reads it as JSON, and it is none"},
		"the same name in two entries": {
			head + "resources:\n- resources: [secrets]\n  providers: [{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}]\n- resources: [pods]\n  providers: [{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}]\n",
			`line 7: resources[1].providers[0].kms.name: "a" is the name of resources[0].providers[0].kms already: KMS v2 wants another name in each entry of resources, even for the same socket`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c2, err := encryptionconfig.Parse([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v; want %q in the error", c2, err, c.want)
			}
			if strings.Contains(err.Error(), secret[:10]) {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

// TestWarns: kube-apiserver takes all of these.
func TestWarns(t *testing.T) {
	entry := func(names, provider string) string {
		return head + "resources:\n- resources: [" + names + "]\n  providers:\n  - " + provider + "\n"
	}
	const kms = "kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}"
	for name, c := range map[string]struct{ text, want string }{
		"secrets":           {entry("secrets", kms), ""},
		"secrets.":          {entry("secrets.", kms), ""},
		"core group":        {entry("'*.'", kms), ""},
		"everything":        {entry("'*.*'", kms), ""},
		"nothing encrypts":  {entry("secrets", "identity: {}"), "resources[0].providers: only identity is here, and nothing in the file encrypts: secrets are stored in the clear"},
		"in the shadow":     {entry("secrets", "identity: {}") + "- resources: ['*.*']\n  providers:\n  - " + kms + "\n", "resources[0].providers: only identity is here, and the first entry that covers secrets counts: resources[1] encrypts, and is used only to read; put it first, once every API server reads with it"},
		"others encrypted":  {entry("secrets", "identity: {}") + "- resources: [pods]\n  providers:\n  - " + kms + "\n", "resources[0].providers: only identity is here, so secrets are stored in the clear, while resources[1] encrypts others"},
		"others first":      {entry("pods", kms) + "- resources: [secrets]\n  providers:\n  - identity: {}\n", "resources[1].providers: only identity is here, so secrets are stored in the clear, while resources[0] encrypts others"},
		"a directory":       {entry("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'unix:///run/a/'}"), `is "unix:///run/a/", which is a directory and no socket: did you mean "unix:///run/a"?`},
		"a blank":           {entry("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'unix:///run/a '}"), `is "unix:///run/a ", with a blank at its end that belongs to the path: did you mean "unix:///run/a"?`},
		"out of a move":     {entry("secrets", "identity: {}\n  - "+kms) + "- resources: ['*.*']\n  providers:\n  - " + strings.Replace(kms, "name: a", "name: b", 1) + "\n", ""},
		"secret":            {entry("pods, secret", kms), `line 4: resources[0].resources[1]: nothing encrypts Secrets: "secret" is another resource, did you mean secrets?`},
		"secrets.v1":        {entry("secrets.v1", kms), `nothing encrypts Secrets: "secrets.v1" is another resource, did you mean secrets?`},
		"secrets.core":      {entry("secrets.core", kms), `did you mean secrets?`},
		"sercets":           {entry("sercets", kms), `did you mean secrets?`},
		"of another group":  {entry("secrets.example.com", kms), `nothing encrypts Secrets: no entry has secrets, only "secrets.example.com"`},
		"curly quotes":      {entry("\u201csecrets\u201d", kms), "line 4: resources[0].resources[0]: nothing encrypts Secrets: \"\u201csecrets\u201d\" is another resource, did you mean secrets?"},
		"v1/secrets":        {entry("v1/secrets", kms), `line 4: resources[0].resources[0]: nothing encrypts Secrets: "v1/secrets" is another resource, did you mean secrets?`},
		"core/secrets":      {entry("core/secrets", kms), `"core/secrets" is another resource, did you mean secrets?`},
		"secrets/":          {entry("secrets/", kms), `"secrets/" is another resource, did you mean secrets?`},
		"secrets/status":    {entry("secrets/status", kms), `"secrets/status" is another resource, did you mean secrets?`},
		"a blank after":     {entry("'secrets '", kms), `"secrets " is another resource, did you mean secrets?`},
		"two in one":        {entry("'secrets, configmaps'", kms), `"secrets, configmaps" is another resource, did you mean secrets?`},
		"quotes twice":      {entry(`"'secrets'"`, kms), `"'secrets'" is another resource, did you mean secrets?`},
		"another letter":    {entry("s\u0435crets", kms), "is another resource, did you mean secrets?"},
		"an odd second":     {entry("secrets, v1/configmaps", kms), `line 4: resources[0].resources[1]: "v1/configmaps" is the name of no resource, so nothing is encrypted by it: did you mean configmaps?`},
		"no such resource":  {entry("secrets, 'a b'", kms), `resources[0].resources[1]: "a b" is the name of no resource, so nothing is encrypted by it`},
		"a singular":        {entry("secrets, configmap", kms), `"configmap" is no resource of the core group, so nothing is encrypted by it: did you mean configmaps?`},
		"no group":          {entry("secrets, deployments", kms), `did you mean deployments.apps?`},
		"group first":       {entry("secrets, apps/v1/deployments", kms), `did you mean deployments.apps?`},
		"others":            {entry("secrets, pandas.example.com, '*.apps', leases.coordination.k8s.io, events, widgets", kms), ""},
		"a variable":        {entry("secrets, '${more}'", kms), "line 4: resources[0].resources[1]: a template or variable (${) in this line was not filled in"},
		"a variable's path": {entry("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'unix:///${dir}/a'}"), "line 6: resources[0].providers[0].kms.endpoint: a template or variable (${)"},
		"no name given":     {entry("secrets", "kms: {apiVersion: v2, name: <no value>, endpoint: 'unix:///a'}"), "line 6: resources[0].providers[0].kms.name: a template was run without a value"},
		"a merge":           {head + "resources:\n- &a\n  resources: [secrets]\n  providers:\n  - &k {" + kms + "}\n  - identity: {}\n", ""},
		"configmaps":        {entry("configmaps", kms), `line 4: resources[0]: nothing encrypts Secrets: no entry has secrets, only "configmaps"`},
		"host":              {entry("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'unix://run/a'}"), `resources[0].providers[0].kms.endpoint: is "unix://run/a", which leads to "/a": did you mean "unix:///run/a"?`},
		"no slash":          {entry("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'unix:run/a'}"), `is "unix:run/a", which leads to no socket: did you mean "unix:///run/a"?`},
		"one slash":         {entry("secrets", "kms: {apiVersion: v2, name: a, endpoint: 'unix:/run/a'}"), ""},
		"two documents":     {entry("secrets", kms) + "---\na: b\n", "line 8: has more than one YAML document: kube-apiserver reads the first, and all behind it has no effect"},
		"ends in ---":       {entry("secrets", kms) + "---\n", ""},
		"v1 twice": {
			entry("secrets", "kms: {name: a, endpoint: 'unix:///a'}\n  - kms: {name: a, endpoint: 'unix:///a'}"),
			"with --encryption-provider-config-automatic-reload each kms entry needs its own",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c2, refused, warnings := encryptionconfig.Examine([]byte(c.text))
			if c2 == nil || len(refused) > 0 {
				t.Fatalf("refused: %v", refused)
			}
			if got := warnings.Error(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

var update = flag.Bool("update", false, "write what is said of the posted files")

// TestPostedFiles: each is told as testdata/posted.txt has it. Whether that is what
// kube-apiserver says is compared in test/loaders.
func TestPostedFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/posted/*")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %q, %v", files, err)
	}
	var b strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", filepath.Base(file))
		_, refused, warnings := encryptionconfig.Examine(data)
		for _, m := range refused {
			fmt.Fprintf(&b, "  refused: %s\n", m)
		}
		for _, m := range warnings {
			fmt.Fprintf(&b, "  warning: %s\n", m)
		}
	}
	const golden = "testdata/posted.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("go test ./internal/encryptionconfig -update writes it:\n%s", diff)
	}
}

// TestSocketsOfEndpoints: where kube-apiserver connects to.
func TestSocketsOfEndpoints(t *testing.T) {
	for endpoint, want := range map[string]string{
		"unix:///run/a.sock": "/run/a.sock", "unix:/run/a.sock": "/run/a.sock", "unix:///@a": "@a", "UNIX:///a": "/a", "unix://run/a.sock": "/a.sock",
		"unix:///a%20b": "/a b", "unix:///a?b": "/a", "unix://": "", "unix:a": "", "/run/a.sock": "", "http:///a": "",
	} {
		if got := (&encryptionconfig.KMS{Endpoint: endpoint}).Socket(); got != want {
			t.Errorf("%s leads to %q, want %q", endpoint, got, want)
		}
	}
	for _, socket := range []string{"/run/a.sock", "@a", "/a b", "/a?b", "/a%b"} {
		if got := (&encryptionconfig.KMS{Endpoint: encryptionconfig.Endpoint(socket)}).Socket(); got != socket {
			t.Errorf("the endpoint of %q leads to %q", socket, got)
		}
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
