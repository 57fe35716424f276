package doctor_test

import (
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

func encryptionFaults() []fault {
	file := func(providers string) func(*node) { return func(n *node) { n.encryptionConfig(providers) } }
	return []fault{
		{"not an EncryptionConfiguration", "KMS0714", "", func(n *node) { n.options.EncryptionConfig = []byte("kind: Pod\napiVersion: v1\n") }},
		{"field that is none", "KMS0714", "cachsize", file("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", cachsize: 3}\n")},
		{"provider that is missing", "KMS0715", "no other kms entry", file("  - aesgcm: {keys: [{name: k, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}\n")},
		{"endpoint of another path", "KMS0715", "unix:///other", file("  - kms: {apiVersion: v2, name: a, endpoint: \"unix:///other\"}\n" + toClear)},
		{"two providers on one name", "KMS0716", "the name of resources[0].providers[0].kms already", file(entryV2 + "  - kms: {apiVersion: v2, name: a, endpoint: \"unix:///other\"}\n")},
		{"name with a colon", "KMS0717", "", file("  - kms: {apiVersion: v2, name: \"a:b\", endpoint: \"unix://SOCKET\"}\n")},
		{"resource in capitals", "KMS0714", "(line 4: \"Secrets\" has capital letters", func(n *node) { n.secretsAs("Secrets") }},
		{"resource twice", "KMS0714", "twice", func(n *node) { n.secretsAs("secrets, secrets.") }},
		{"resources that overlap", "KMS0714", "is among", func(n *node) { n.secretsAs("secrets, '*.*'") }},
		{"star", "KMS0714", "stands for nothing", func(n *node) { n.secretsAs("'*'") }},
		{"group that is gone", "KMS0714", "extensions", func(n *node) { n.secretsAs("secrets, '*.extensions'") }},
		{"key of a wrong length", "KMS0714", "is a key of 9 bytes", file(entryV2 + "  - aescbc: {keys: [{name: k, secret: MTIzNDU2Nzg5}]}\n")},
		{"key that is no base64", "KMS0714", "no base64", file(entryV2 + "  - aescbc: {keys: [{name: k, secret: \"<KEY>\"}]}\n")},
		{"cachesize of 0 with v1", "KMS0721", "is 0", file(entryV2 + "  - kms: {apiVersion: v1, name: old, endpoint: \"unix:///other\", cachesize: 0}\n")},
		{"settings beside kms", "KMS0714", "belongs under kms", file("  - kms:\n    name: a\n" + toClear)},
		{"secret in the singular", "KMS0725", "did you mean secrets?", func(n *node) { n.secretsAs("secret") }},
		{"secrets with a version", "KMS0725", "did you mean secrets?", func(n *node) { n.secretsAs("secrets.v1") }},
		{"secrets with a group", "KMS0725", "did you mean secrets?", func(n *node) { n.secretsAs("secrets.core") }},
		{"second document", "KMS0702", "more than one YAML document", func(n *node) {
			n.secretsAs("secrets")
			n.options.EncryptionConfig = append(n.options.EncryptionConfig, "---\na: b\n"...)
		}},
		{"endpoint with two slashes", "KMS0726", "did you mean", file("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://run/kms/socket.sock\"}\n")},
		{"identity first", "KMS0718", "identity", file(toClear + entryV2)},
		{"aescbc first", "KMS0718", "aescbc", file("  - aescbc: {keys: [{name: k, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}\n" + entryV2)},
		{"v1 where v2 would do", "KMS0719", "", file(entryV1 + toClear)},
		{"cachesize too small", "KMS0720", "cachesize 1000, objects 5000", func(n *node) {
			n.options.Secrets = 5000
			n.encryptionConfig(entryV1)
		}},
		{"cachesize with v2", "KMS0721", "", file("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", cachesize: 3}\n")},
		{"timeout of 0", "KMS0722", "", file("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", timeout: 0s}\n")},
		{"timeout under KMS's latency", "KMS0723", "", func(n *node) {
			n.options.Calls = 2
			n.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 100 * time.Millisecond})
			n.encryptionConfig("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", timeout: 350ms}\n")
		}},
		{"timeout under 3s, which suffices just now", "KMS0723", "its timeout of 2s is short", file("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", timeout: 2s}\n" + toClear)},
		{"timeout far above the program's own", "KMS0731", "timeout 35s, --kms-timeout 2.5s", file("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", timeout: 35s}\n" + toClear)},
		{"timeout far above a short one of the program", "KMS0731", "timeout 5s, --kms-timeout 500ms", func(n *node) {
			n.flags = []string{"--kms-timeout=500ms"}
			n.encryptionConfig("  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", timeout: 5s}\n" + toClear)
		}},
	}
}
