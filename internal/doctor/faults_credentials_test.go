package doctor_test

import (
	"fmt"
	"net/http"
	"path/filepath"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

func credentialFaults() []fault {
	inject := func(f kmsemulator.Fault) func(*node) { return func(n *node) { n.kms.Inject(f) } }
	return []fault{
		{"no credentials", "KMS0301", "", func(n *node) {
			n.t.Setenv("AWS_ACCESS_KEY_ID", "")
			n.t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		}},
		{"expired token", "KMS0302", "", inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.ExpiredToken})},
		{"no credentials, for two keys", "KMS0301", "by the same KMS0301", func(n *node) {
			n.flags = []string{"--decrypt-key=" + n.createKey(kmsemulator.KeyOptions{})}
			n.t.Setenv("AWS_ACCESS_KEY_ID", "")
			n.t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		}},
		{"container's source of credentials that is not there", "KMS0301", "127.0.0.1:1", func(n *node) {
			n.t.Setenv("AWS_ACCESS_KEY_ID", "")
			n.t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			n.t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/")
		}},
		{"Pod Identity agent without an association", "KMS0308", "pod identity association", func(n *node) {
			n.withoutKeys()
			n.t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", n.write("eks-pod-identity-token", "a token"))
			n.t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", n.serve(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "(ResourceNotFoundException): No association", http.StatusNotFound)
			}))
		}},
		{"Pod Identity agent that says no, behind a hop limit", "KMS0308", "EKS Pod Identity agent", func(n *node) {
			n.withoutKeys()
			n.silentMetadata()
			n.t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", n.write("eks-pod-identity-token", "a token"))
			n.t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", n.serve(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "Access Denied.", http.StatusForbidden)
			}))
		}},
		{"instance without a role", "KMS0309", "attach an instance profile", func(n *node) {
			n.withoutKeys()
			n.t.Setenv("AWS_EC2_METADATA_DISABLED", "")
			n.t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", n.serve(http.NotFound))
		}},
		{"token file that is missing", "KMS0310", "no-such-token", func(n *node) {
			n.withoutKeys()
			n.t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/kms")
			n.t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", filepath.Join(n.dir, "no-such-token"))
		}},
		{"token that STS refuses", "KMS0311", "not a valid JWT", func(n *node) { n.webIdentity("InvalidIdentityToken", "The ID Token provided is not a valid JWT") }},
		{"token that has expired", "KMS0312", "is not renewed", func(n *node) { n.webIdentity("ExpiredTokenException", "Token expired") }},
		{"page in place of STS", "KMS0313", "a page of HTML", func(n *node) {
			n.webIdentity("", "")
			n.t.Setenv("AWS_ENDPOINT_URL_STS", n.serve(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprint(w, "<html>please log in</html>")
			}))
		}},
		{"credential_process that fails", "KMS0301", "exited with 1", func(n *node) {
			n.withoutKeys()
			n.t.Setenv("AWS_CONFIG_FILE", n.write("aws", "[default]\ncredential_process = /bin/false\n"))
		}},
		{"endpoint of another Region", "KMS0314", "signed for another Region", func(n *node) {
			n.respond(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"__type":"InvalidSignatureException","message":"Credential should be scoped to a valid region, not 'us-west-2'. "}`)
			})
		}},
		{"STS that does not answer", "KMS0306", "", func(n *node) {
			n.t.Setenv("AWS_ACCESS_KEY_ID", "")
			n.t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			n.t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/kms")
			n.t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", n.write("token", "a token"))
			n.t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
		}},
		{"unknown access key", "KMS0303", "", func(n *node) { n.t.Setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7UNKNOWN") }},
		{"wrong secret", "KMS0304", "", func(n *node) { n.t.Setenv("AWS_SECRET_ACCESS_KEY", "another") }},
		{"metadata service behind a hop limit", "KMS0724", "", func(n *node) {
			n.withoutKeys()
			n.silentMetadata()
		}},
		{"settings that cannot be read", "KMS0307", "", func(n *node) {
			n.t.Setenv("AWS_CONFIG_FILE", n.write("aws", "[profile x]\n"))
			n.t.Setenv("AWS_PROFILE", "missing")
		}},
	}
}
