package doctor_test

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func endpointFaults() []fault {
	inject := func(f kmsemulator.Fault) func(*node) { return func(n *node) { n.kms.Inject(f) } }
	flags := func(args ...string) func(*node) { return func(n *node) { n.flags = args } }
	return []fault{
		{"no such name", "KMS0205", "nowhere.invalid", flags("--kms-endpoint=http://nowhere.invalid")},
		{"nobody listens", "KMS0204", "127.0.0.1:1", flags("--kms-endpoint=http://127.0.0.1:1")},
		{"proxy that answers HTML", "KMS0207", "", func(n *node) {
			n.respond(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in</html>") })
		}},
		{"KMS slower than --kms-timeout", "KMS0203", "", func(n *node) {
			n.flags = []string{"--kms-timeout=300ms"}
			n.kms.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang})
		}},
		{"KMS fails", "KMS0202", "", inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Internal})},
		{"throttled", "KMS0201", "", inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Throttle})},
		{"no Region", "KMS0209", "", func(n *node) {
			n.keyFlag = "alias/x"
			n.t.Setenv("AWS_REGION", "")
			n.t.Setenv("AWS_DEFAULT_REGION", "")
		}},

		{"clock off by two minutes", "KMS0703", "2m", func(n *node) { n.forward(-2 * time.Minute) }},
	}
}

func keyFaults() []fault {
	return []fault{
		{"wrong Region", "KMS0103", "", func(n *node) {
			n.keyFlag, n.flags = n.key[strings.LastIndexByte(n.key, '/')+1:], []string{"--region=eu-west-1"}
		}},
		{"alias that is not there", "KMS0103", "alias/typo", func(n *node) { n.keyFlag = "alias/typo" }},
		{"disabled", "KMS0101", "", func(n *node) { n.must(nil, n.kms.DisableKey(n.key)) }},
		{"pending deletion", "KMS0102", "", func(n *node) { n.must(nil, n.kms.ScheduleKeyDeletion(n.key, 7)) }},
		{"asymmetric", "KMS0106", "", func(n *node) {
			key, err := n.kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{Spec: "RSA_2048"})
			n.must(nil, err)
			n.key = key
		}},
		{"no key material", "KMS0107", "", func(n *node) { n.must(nil, n.kms.SetKeyState(n.key, "PendingImport")) }},
		{"rotation is off", "KMS0704", "", func(n *node) {
			key, err := n.kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
			n.must(nil, err)
			n.key = key
		}},

		// permissions and latency
		{"Encrypt denied", "KMS0104", "Encrypt", func(n *node) { n.kms.Deny(n.key, "Encrypt") }},
		{"Decrypt denied", "KMS0104", "Decrypt", func(n *node) { n.kms.Deny(n.key, "Decrypt") }},
		{"denied by a service control policy", "KMS0104", "ask who manages the organization of the node's account", func(n *node) {
			policy := func(effect, actions string) string {
				return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"` + effect + `","Action":"` + actions + `","Resource":"*"}]}`
			}
			n.must(nil, n.kms.Enforce(kmsemulator.Policies{
				Identity: map[string][]string{n.kms.Credential.Principal: {policy("Allow", "kms:*")}}, ServiceControl: policy("Deny", "kms:Encrypt"),
			}))
		}},
		{"context that the key policy refuses", "KMS0104", "kms:EncryptionContext", func(n *node) {
			n.flags = []string{"--encryption-context=cluster=b"}
			n.kms.Inject(kmsemulator.Fault{
				Operation: "Encrypt", Kind: kmsemulator.Error, Code: "AccessDeniedException",
				Message: "User: arn:aws:iam::111122223333:user/tester is not authorized to perform: kms:Encrypt, with kms:EncryptionContext:cluster",
			})
		}},
		{"slow KMS", "KMS0705", "", func(n *node) {
			n.options.Calls = 2
			n.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 600 * time.Millisecond})
		}},
	}
}
