package loaders_test

import (
	"fmt"
	"strings"
)

// cases has a file for each rule, accepted and refused ones, so that no rule
// depends on a mutation that happens to meet it.
func cases() map[string]string {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
	all := map[string]string{
		"empty":              "",
		"blank":              "\n",
		"comment":            "# nothing\n",
		"null":               "null\n",
		"list":               "- a\n",
		"text":               "a\n",
		"no entry":           head,
		"entries null":       head + "resources: null\n",
		"entries empty":      head + "resources: []\n",
		"entry null":         head + "resources: [null]\n",
		"entries no list":    head + "resources: {}\n",
		"no names":           head + "resources: [{providers: [{identity: {}}]}]\n",
		"no providers":       head + "resources: [{resources: [secrets]}]\n",
		"names no list":      head + "resources: [{resources: secrets, providers: [{identity: {}}]}]\n",
		"name a number":      head + "resources: [{resources: [1], providers: [{identity: {}}]}]\n",
		"name a YAML 1.1":    head + "resources: [{resources: [on], providers: [{identity: {}}]}]\n",
		"name null":          head + "resources: [{resources: [null], providers: [{identity: {}}]}]\n",
		"unknown on top":     head + "metadata: {}\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"unknown in entry":   head + "resources: [{resource: [secrets], resources: [secrets], providers: [{identity: {}}]}]\n",
		"capital field":      head + "Resources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"twice":              head + "kind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"masked by group":    head + "resources: [{resources: ['*.'], providers: [{identity: {}}]}, {resources: [secrets], providers: [{identity: {}}]}]\n",
		"masked by all":      head + "resources: [{resources: ['*.*'], providers: [{identity: {}}]}, {resources: [a.b], providers: [{identity: {}}]}]\n",
		"masked by same":     head + "resources: [{resources: ['*.a'], providers: [{identity: {}}]}, {resources: ['*.a'], providers: [{identity: {}}]}]\n",
		"wildcard behind":    head + "resources: [{resources: [secrets], providers: [{identity: {}}]}, {resources: ['*.'], providers: [{identity: {}}]}]\n",
		"same again":         head + "resources: [{resources: [secrets], providers: [{identity: {}}]}, {resources: [secrets], providers: [{identity: {}}]}]\n",
		"legacy":             "apiVersion: v1\nkind: EncryptionConfig\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"legacy kind alone":  "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfig\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"legacy group alone": "apiVersion: v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"another kind":       "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: []\n",
		"in memory":          "apiVersion: apiserver.config.k8s.io/__internal\nkind: EncryptionConfiguration\nResources: [{Resources: [secrets], Providers: [{Identity: {}}]}]\n",
		"no kind":            "apiVersion: apiserver.config.k8s.io/v1\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"kind a number":      "apiVersion: apiserver.config.k8s.io/v1\nkind: 1\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"second document":    head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n---\na: b\n",
		"second broken":      head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n---\na: [\n",
		"first empty":        "---\n---\n" + head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"flow":               "{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: []}\n",
		"JSON":               `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"providers":[{"identity":{}}]}]}`,
		"JSON and more":      `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"providers":[{"identity":{}}]}]} x`,
		"JSON twice":         `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"resources":["secrets"],"providers":[{"identity":{}}]}]}`,
		"JSON escapes":       `{"\u0061piVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"providers":[{"identity":{}}]}]}`,
		"anchors":            head + "resources: [{resources: &a [secrets], providers: &b [{identity: {}}]}, {resources: [pods], providers: *b}]\n",
		"merged":             head + "resources:\n- &a {resources: [secrets], providers: [{identity: {}}]}\n- {<<: *a, resources: [pods]}\n",
		"field of no text":   head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n? [a]\n: b\n",
		"field null":         head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n~: b\n",
		"no apiVersion":      "kind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"JSON behind blanks": "\n \t{\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"kind\":\"EncryptionConfiguration\",\"resources\":[{\"resources\":[\"secrets\"],\"providers\":[{\"identity\":{}}]}]}",
		"flow behind blanks": "\n {apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets], providers: [{identity: {}}]}]}",
		"flow that is good":  "{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets], providers: [{identity: {}}]}]}",
		"binary":             head + "resources: [{resources: [!!binary c2VjcmV0cw==], providers: [{identity: {}}]}]\n",
		"merge and field":    head + "resources:\n- &a {resources: [secrets], providers: [{identity: {}}]}\n- {<<: *a, providers: [{identity: {}}]}\n",
		"merge of nothing":   head + "resources:\n- {<<: *a}\n",
		"merge of a text":    head + "resources:\n- {<<: a, resources: [secrets], providers: [{identity: {}}]}\n",
		"merge of two":       head + "resources:\n- &a {resources: [secrets]}\n- &b {providers: [{identity: {}}]}\n- {<<: [*a, *b]}\n",
		"merge quoted":       head + "resources:\n- {'<<': {}, resources: [secrets], providers: [{identity: {}}]}\n",
		"anchor in itself":   head + "resources: &a [*a]\n",
		"template":           head + "resources: [{resources: [secrets], providers: {{ providers }}}]\n",
		"template block":     head + "{% if x %}\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n{% endif %}\n",
		"variable":           head + "resources: [{resources: ['${resource}'], providers: [{identity: {}}]}]\n",
		"no value":           head + "resources: [{resources: [<no value>], providers: [{identity: {}}]}]\n",
		"curly quotes":       head + "resources: [{resources: [\u201csecrets\u201d], providers: [{identity: {}}]}]\n",
		"curly field":        head + "\u201cresources\u201d: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"no-break blank":     head + "resources:\n- resources: [secrets]\n\u00a0\u00a0providers: [{identity: {}}]\n",
		"BOM":                "\ufeff" + head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
		"BOM and JSON":       "\ufeff{\"apiVersion\":\"apiserver.config.k8s.io/v1\",\"kind\":\"EncryptionConfiguration\",\"resources\":[{\"resources\":[\"secrets\"],\"providers\":[{\"identity\":{}}]}]}",
		"CRLF":               strings.ReplaceAll(head+"resources:\n- resources: [secrets]\n  providers: [{identity: {}}]\n", "\n", "\r\n"),
		"CR":                 strings.ReplaceAll(head+"resources:\n- resources: [secrets]\n  providers: [{identity: {}}]\n", "\n", "\r"),
		"no UTF-8":           head + "resources: [{resources: [\"\xff\"], providers: [{identity: {}}]}]\n",
		"NUL":                head + "resources: [{resources: [\"\x00\"], providers: [{identity: {}}]}]\n",
		"NUL escaped":        head + "resources: [{resources: [\"\\0\"], providers: [{identity: {}}]}]\n",
		"tab":                head + "resources:\n\t- resources: [secrets]\n",
		"JSON and comment":   "{\"apiVersion\":\"apiserver.config.k8s.io/v1\", // ours\n\"kind\":\"EncryptionConfiguration\",\"resources\":[{\"resources\":[\"secrets\"],\"providers\":[{\"identity\":{}}]}]}",
		"JSON list":          "[{\"kind\":\"EncryptionConfiguration\"}]",
		"separator alone":    "---\n",
		"infinite":           head + "resources: [{resources: [secrets], providers: [{identity: {}}]}]\nx: .inf\n",
	}
	entry := func(name, names, providers string) {
		all[name] = head + fmt.Sprintf("resources:\n- resources: [%s]\n  providers: [%s]\n", names, providers)
	}
	for _, names := range []string{
		"Secrets", "secrets.V1", "'*'", "'*.'", "'*.*'", "'*.apps'", "'secrets.*'", "events.events.k8s.io", "'*.events.k8s.io'", "a.extensions", "'*.extensions'", "apiserveripinfo",
		"serviceipallocations", "servicenodeportallocations", "apiserveripinfo.a", "secrets, secrets", "secrets, secrets.", "secrets, '*.'", "a.b, '*.b'", "a.b, '*.c'", "a, '*.*'",
		"'*.*', '*.*'", "'*.', '*.b'", "secret", "secrets.v1", "secrets.core", "'a b'", "a..b", "'.a'", "events", "É", "v1/secrets", "core/secrets", "secrets/", "'secrets '", "'Secrets '", "configmap", "deployments",
	} {
		entry("names "+names, names, "{identity: {}}")
	}
	for _, provider := range []string{
		"null", "{}", "{identity: null}", "{identity: []}", "{identity: {a: b}}", "{Identity: {}, identity: {}}", "{identity: {}, secretbox: {keys: []}}", "{identity: {}, aescbc: {keys: [{name: a, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}}", "{aesgcm: {}}", "{aesgcm: {keys: []}}", "{aesgcm: []}",
		"{aescbc: {keys: [null]}}", "{aescbc: {keys: [{name: a}]}}", "{aescbc: {keys: [{secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}}", "{aescbc: {keys: [{name: a, secret: 1}]}}", "{aes: {}}",
		"{aescbc: {keys: [{name: a, secret: c2VjcmV0IGlzIHNlY3VyZQ==, x: y}]}}", "{aescbc: {keys: [{name: 'a:b', secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}}", "{kms: null}", "{kms: {}}",
	} {
		entry("provider "+provider, "secrets", provider)
	}
	for _, kind := range []string{"aesgcm", "aescbc", "secretbox"} {
		for _, secret := range append(keys(), "''", "c2VjcmV0", "a-b_", "c2VjcmV0IGlzIHNlY3VyZQ", `"c2VjcmV0IGlz\nIHNlY3VyZQ=="`) {
			entry(kind+" "+secret, "secrets", "{"+kind+": {keys: [{name: a, secret: "+secret+"}]}}")
		}
	}
	for _, version := range []string{"v1", "v2"} {
		for _, more := range []string{
			"name: a", "name: a:b", "name: a/b", "name: ''", "endpoint: unix:///b", "cachesize: 0", "cachesize: 1", "cachesize: -1", "cachesize: null", "cachesize: 2147483648", "cachesize: 1.5",
			"cachesize: 1e3", "cachesize: '1'", "timeout: 0s", "timeout: -1s", "timeout: 1ns", "timeout: 3", "timeout: x", "timeout: ''", "timeout: null", "timeout: true", "timeout: {}", "timeout: 99999999999999h", "timeout: 2562048h", "timeout: 3 s", "timeout: 1d", "timeout: 3S", "timeout: '3'", "timeout: +3s", "timeout: .5s", "timeout: 3sec", "cachesize: 99999999999999999999", "x: y", "name: 1",
		} {
			entry("kms "+version+" "+more, "secrets", fmt.Sprintf("{kms: {apiVersion: %s, %s}}", version, completed(more)))
		}
		for _, endpoint := range []string{
			"''", "/a", "unix:", "unix://", "unix://a", "unix:a", "unix:/a", "unix:///a", "unix://a/b", "unix:///@a", "UNIX:///a", "tcp://a", "unix:///a%25zz", "unix:///@a%25b", "unix:///a%zz",
			"'unix:///a b'", "unix:///a?b", "unix:///a%0ab", "unix://h:x/a", "'unix://[a'", "unix:///%40a", "unix://@a",
		} {
			entry("endpoint "+version+" "+endpoint, "secrets", fmt.Sprintf("{kms: {apiVersion: %s, name: a, endpoint: %s}}", version, endpoint))
		}
	}
	for _, version := range []string{"v3", "V1", "''", "null", "1"} {
		entry("kms version "+version, "secrets", fmt.Sprintf("{kms: {apiVersion: %s, name: a, endpoint: 'unix:///a'}}", version))
	}
	for _, first := range []string{"v1", "v2"} {
		for _, second := range []string{"v1", "v2"} {
			entry("two names "+first+second, "secrets", fmt.Sprintf(
				"{kms: {apiVersion: %s, name: a, endpoint: 'unix:///a'}}, {kms: {apiVersion: %s, name: a, endpoint: 'unix:///a'}}", first, second))
		}
	}
	all["v2 in two entries"] = head + "resources:\n- resources: [secrets]\n  providers: [{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}]\n" +
		"- resources: [pods]\n  providers: [{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}]\n"
	return all
}

// completed adds what a kms entry needs besides.
func completed(setting string) string {
	for _, need := range []string{"name: a", "endpoint: 'unix:///a'"} {
		if setting[:4] != need[:4] {
			setting += ", " + need
		}
	}
	return setting
}
