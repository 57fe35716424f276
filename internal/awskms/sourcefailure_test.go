package awskms_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// A sourceCase is one failure of one source.
type sourceCase struct {
	plant func(*place)
	code  string
	words []string // all of which the text has
}

const (
	role   = "arn:aws:iam::111122223333:role/kms"
	text   = "text/plain; charset=utf-8"
	json   = "application/json"
	html   = "text/html"
	page   = "<html><body>please log in</body></html>"
	noRole = "Unable to find role for IP 10.0.0.1"
)

// The endpoints of containers: ECS answers in JSON, the EKS Pod Identity agent in
// text (pkg/errors/errors.go and internal/validation/request.go of
// github.com/aws/eks-pod-identity-agent).
func containerCases() map[string]sourceCase {
	agent := "the EKS Pod Identity agent at \"http://127.0.0.1:"
	endpoint := "the endpoint for a container's credentials at \"http://127.0.0.1:"
	association := "check the pod identity association"
	return map[string]sourceCase{
		"Pod Identity agent: 400": {
			func(p *place) {
				p.podIdentity(400, text, "Service account token cannot be parsed: token contains an invalid number of segments: authorization-secret\n")
			}, "KMS0308",
			[]string{agent, "/v1/credentials\"", "400 Bad Request: Service account token cannot be parsed", association},
		},
		"Pod Identity agent: 403": {
			func(p *place) { p.podIdentity(403, text, "Access Denied. Called agent through invalid address\n") }, "KMS0308",
			[]string{agent, "403 Forbidden: Access Denied. Called agent", association},
		},
		"Pod Identity agent: 404": {
			func(p *place) {
				p.podIdentity(404, text, "[r-1]: (ResourceNotFoundException): No association, fault: client\n")
			}, "KMS0308",
			[]string{agent, "404 Not Found: [r-1]: (ResourceNotFoundException): No association", association},
		},
		"Pod Identity agent: 404 in JSON": {
			func(p *place) {
				p.podIdentity(404, json, `{"code":"ResourceNotFoundException","message":"No association"}`)
			}, "KMS0308",
			[]string{agent, "ResourceNotFoundException", "404 Not Found: No association", association},
		},
		"Pod Identity agent: 429": {
			func(p *place) { p.podIdentity(429, text, "Too Many Requests. rate\n") }, "KMS0306",
			[]string{"429 Too Many Requests", "check the way to " + agent},
		},
		"Pod Identity agent: 500": {
			func(p *place) { p.podIdentity(500, text, "oops\n") }, "KMS0306", []string{"500 Internal Server Error: oops", "check the way to " + agent},
		},
		"Pod Identity agent that is not there": {
			func(p *place) {
				p.podIdentity(200, json, "")
				p.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/v1/credentials")
			}, "KMS0301", []string{agent + "1/v1/credentials\"", "connection refused", association},
		},
		"endpoint: 400 in JSON": {
			func(p *place) { p.container(400, json, `{"code":"InvalidRequest","message":"no id"}`) }, "KMS0308",
			[]string{endpoint, "InvalidRequest", "no id", "check AWS_CONTAINER_CREDENTIALS_FULL_URI"},
		},
		"endpoint: 401 with a code that others use": {
			func(p *place) { p.container(401, json, `{"code":"ExpiredTokenException","message":"old"}`) }, "KMS0308", []string{endpoint, "old"},
		},
		"endpoint: a page":               {func(p *place) { p.container(200, html, page) }, "KMS0313", []string{endpoint, "a page of HTML"}},
		"endpoint: a page with 403":      {func(p *place) { p.container(403, html, page) }, "KMS0313", []string{endpoint, "403 Forbidden: a page of HTML"}},
		"endpoint: no JSON":              {func(p *place) { p.container(200, text, "hello") }, "KMS0313", []string{endpoint}},
		"endpoint: refusal, no JSON":     {func(p *place) { p.container(404, json, page) }, "KMS0313", []string{endpoint, "404 Not Found"}},
		"endpoint: null":                 {func(p *place) { p.container(200, json, "null") }, "KMS0313", []string{"JSON without an access key"}},
		"endpoint: refusal that is null": {func(p *place) { p.container(400, json, " null\n") }, "KMS0308", []string{endpoint, "400 Bad Request"}},
		"endpoint: no key":               {func(p *place) { p.container(200, json, "{}") }, "KMS0313", []string{"JSON without an access key"}},
		"endpoint: expired already": {
			func(p *place) {
				p.container(200, json, `{"AccessKeyId":"a","SecretAccessKey":"key-secret","Token":"t","Expiration":"2001-01-01T00:00:00Z"}`)
			}, "KMS0302", []string{endpoint, "expired already"},
		},
		"endpoint: a URL that is none": {
			func(p *place) { p.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://u:password-secret@h:port-secret/") }, "KMS0307",
			[]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URL"},
		},
		"endpoint: a URL with secrets": {
			func(p *place) {
				p.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://u:password-secret@127.0.0.1:1/path?q=query-secret#fragment-secret")
			}, "KMS0301", []string{"\"http://127.0.0.1:1/path\"", "connection refused"},
		},
		"endpoint: leaves HTTP": {
			func(p *place) { p.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", p.leavesHTTP()) }, "KMS0313",
			[]string{endpoint, "101 Switching Protocols"},
		},
		"endpoint: another host": {
			func(p *place) { p.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://u:password-secret@192.0.2.1/") }, "KMS0307",
			[]string{"192.0.2.1", "only loopback"},
		},
		"authorization token: no file": {
			func(p *place) {
				p.podIdentity(200, json, "{}")
				p.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/no/such/eks-pod-identity-token")
			}, "KMS0310", []string{`"/no/such/eks-pod-identity-token"`, "no such file"},
		},
		"authorization token: an empty file": {
			func(p *place) {
				p.podIdentity(200, json, "{}")
				p.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", p.file("empty", ""))
			}, "KMS0310", []string{`/empty"`, "the file is empty"},
		},
		"authorization token: two lines": {
			func(p *place) {
				p.podIdentity(200, json, "{}")
				p.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", p.file("lines", "authorization-secret\n"))
			}, "KMS0310", []string{`/lines"`, "newline"},
		},
		"over a role of the flag": {
			func(p *place) {
				p.options.AssumeRoleARN = role
				p.container(403, text, "no")
			}, "KMS0308", []string{endpoint, "403 Forbidden: no"},
		},
		"over a role of the flag, no JSON": {
			func(p *place) {
				p.options.AssumeRoleARN = role
				p.container(200, text, "no")
			}, "KMS0313", []string{endpoint},
		},
	}
}

// STS, for a web identity: the words are those of AWS.
func tokenCases() map[string]sourceCase {
	sts := func(status int, code, message string) func(*place) {
		return func(p *place) {
			p.webIdentity("token-secret")
			p.stsError(status, code, message)
		}
	}
	token := "/token\", from AWS_WEB_IDENTITY_TOKEN_FILE"
	answered := func(status int, kind, body string) func(*place) {
		return func(p *place) {
			p.webIdentity("token-secret")
			p.set("AWS_ENDPOINT_URL_STS", p.answers(status, kind, body))
		}
	}
	return map[string]sourceCase{
		"token: no JWT": {
			sts(400, "InvalidIdentityToken", "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token) token-secret"), "KMS0311",
			[]string{token, "InvalidIdentityToken", "not a valid JWT", "identity provider in IAM"},
		},
		"token: unknown issuer": {
			sts(400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account for https://issuer.example"), "KMS0311",
			[]string{token, "https://issuer.example"},
		},
		"token: audience":  {sts(400, "InvalidIdentityToken", "Incorrect token audience"), "KMS0311", []string{token, "Incorrect token audience"}},
		"token: rejected":  {sts(403, "IDPRejectedClaim", "revoked"), "KMS0311", []string{token, "revoked"}},
		"token: expired":   {sts(400, "ExpiredTokenException", "Token expired: current date/time 1 must be before the expiration date/time 0"), "KMS0312", []string{token, "Token expired", "not renewed"}},
		"token: too short": {sts(400, "ValidationError", "1 validation error detected: Value at 'webIdentityToken' failed to satisfy constraint: Member must have length greater than or equal to 4"), "KMS0311", []string{token}},
		"token: issuer that STS cannot reach": {
			sts(400, "IDPCommunicationError", "OpenIDConnect provider's HTTPS certificate"), "KMS0306", []string{"check the way to STS at \"http://127.0.0.1:"},
		},
		"token: trust policy": {
			sts(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"), "KMS0305",
			[]string{token, "Not authorized to perform", "trust policy of the role \"" + role + "\"", "AWS_ROLE_ARN"},
		},
		"token: Region that is off": {sts(403, "RegionDisabledException", "STS is not activated in this region"), "KMS0305", []string{token, "not activated"}},
		"token: STS fails":          {sts(500, "InternalFailure", "oops"), "KMS0306", []string{"check the way to STS at \"http://127.0.0.1:"}},
		"token: STS throttles":      {sts(400, "Throttling", "Rate exceeded"), "KMS0306", []string{"Rate exceeded", "STS at"}},
		"token: STS is not there": {
			func(p *place) {
				p.webIdentity("token-secret")
				p.set("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
			}, "KMS0306", []string{"connection refused", "STS at \"http://127.0.0.1:1"},
		},
		"token: a page":          {answered(200, html, page), "KMS0313", []string{"a page of HTML", "STS at"}},
		"token: a page with 403": {answered(403, html, page), "KMS0313", []string{"403 Forbidden: a page of HTML", "STS at"}},
		"token: no XML":          {answered(200, text, "hello"), "KMS0313", []string{"STS at"}},
		"token: STS leaves HTTP": {
			func(p *place) {
				p.webIdentity("token-secret")
				p.set("AWS_ENDPOINT_URL_STS", p.leavesHTTP())
			}, "KMS0313", []string{"STS at", "101 Switching Protocols"},
		},
		"token: no file": {
			func(p *place) {
				p.webIdentity("token-secret")
				p.set("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/token")
			}, "KMS0310", []string{`"/no/such/token"`, "no such file"},
		},
		"token: a directory": {
			func(p *place) {
				p.webIdentity("token-secret")
				p.set("AWS_WEB_IDENTITY_TOKEN_FILE", p.dir)
			}, "KMS0310", []string{"is a directory"},
		},
		"token: an empty file": {func(p *place) { p.webIdentity("\n") }, "KMS0310", []string{"the file is empty", "/token\""}},
		"token of a profile: no file": {
			func(p *place) {
				p.config("[default]\nrole_arn = " + role + "\nweb_identity_token_file = /no/such/token\n")
			}, "KMS0310", []string{`"/no/such/token"`, "no such file"},
		},
		"token of a profile: trust policy": {
			func(p *place) {
				p.config("[default]\nrole_arn = " + role + "\nweb_identity_token_file = " + p.file("token", "token-secret") + "\n")
				p.stsError(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
			}, "KMS0305", []string{"web_identity_token_file and role_arn of profile \"default\"", "/config\""},
		},
		"token: FIPS with an endpoint of one's own": {
			func(p *place) {
				p.webIdentity("token-secret")
				p.set("AWS_USE_FIPS_ENDPOINT", "true")
			}, "KMS0307", []string{"FIPS and custom endpoint are not supported"},
		},
		"token: an endpoint that is none": {
			func(p *place) {
				p.webIdentity("token-secret")
				p.set("AWS_ENDPOINT_URL_STS", "::")
			}, "KMS0307", nil,
		},
		"token: scope of the signature": {
			sts(403, "SignatureDoesNotMatch", "Credential should be scoped to a valid region. "), "KMS0314", []string{"the endpoint's Region", "AWS_ENDPOINT_URL_STS"},
		},
	}
}

// Roles that are assumed with other credentials.
func roleCases() map[string]sourceCase {
	keys := func(p *place) {
		p.set("AWS_ACCESS_KEY_ID", p.kms.Credential.AccessKeyID)
		p.set("AWS_SECRET_ACCESS_KEY", p.kms.Credential.SecretAccessKey)
	}
	flag := func(code, message string) func(*place) {
		return func(p *place) {
			keys(p)
			p.options.AssumeRoleARN = role
			p.stsError(http.StatusForbidden, code, message)
		}
	}
	denied := "User: arn:aws:iam::111122223333:user/x is not authorized to perform: sts:AssumeRole on resource: " + role
	ofProfile := "[default]\nrole_arn = " + role + "\nsource_profile = base\n"
	return map[string]sourceCase{
		"role of the flag: trust policy": {
			flag("AccessDenied", denied), "KMS0305", []string{"role \"" + role + "\"", "user/x is not authorized", "check the role's trust policy, and --assume-role-arn and --external-id"},
		},
		"role of the flag: service control policy": {
			flag("AccessDenied", denied+" with an explicit deny in a service control policy"), "KMS0305",
			[]string{"ask who manages the organization", "except arn:aws:iam::111122223333:user/x from the Deny in its service control policy"},
		},
		"role of the flag: no identity-based policy": {
			flag("AccessDenied", denied+" because no identity-based policy allows the sts:AssumeRole action"), "KMS0305",
			[]string{"grant sts:AssumeRole on " + role + " to arn:aws:iam::111122223333:user/x"},
		},
		"role of the flag: trust policy that lacks it": {
			flag("AccessDenied", "User: arn:aws:iam::111122223333:user/x is not authorized to perform: sts:AssumeRole because no role trust policy allows the sts:AssumeRole action"),
			"KMS0305",
			[]string{"check the role's trust policy, and --assume-role-arn and --external-id"},
		},
		"role of the flag: trust policy that denies it": {
			flag("AccessDenied", "User: arn:aws:iam::111122223333:user/x is not authorized to perform: sts:AssumeRole with an explicit deny in the role trust policy"),
			"KMS0305",
			[]string{"except arn:aws:iam::111122223333:user/x from the Deny in the trust policy of the role " + role},
		},
		"role of the flag: credentials that expired": {flag("ExpiredToken", "The security token included in the request is expired"), "KMS0302", []string{"STS at"}},
		"role of the flag: unknown credentials":      {flag("InvalidClientTokenId", "invalid"), "KMS0303", []string{"STS at"}},
		"role of the flag: clock":                    {flag("SignatureDoesNotMatch", "Signature expired: 1 is now earlier than 2"), "KMS0304", []string{"clock"}},
		"role of the flag: scope":                    {flag("SignatureDoesNotMatch", "Credential should be scoped to a valid region, not 'us-west-2'."), "KMS0314", []string{"Region"}},
		"role of the flag: no ARN": {
			func(p *place) {
				keys(p)
				p.options.AssumeRoleARN = "short"
			}, "KMS0305", []string{"--assume-role-arn"},
		},
		"role of the flag: FIPS with an endpoint of one's own": {
			func(p *place) {
				keys(p)
				p.options.AssumeRoleARN = role
				p.set("AWS_USE_FIPS_ENDPOINT", "true")
			}, "KMS0307", []string{"FIPS and custom endpoint are not supported"},
		},
		"role of a profile: trust policy": {
			func(p *place) {
				p.config(ofProfile + "[profile base]\naws_access_key_id = a\naws_secret_access_key = key-secret\n")
				p.stsError(403, "AccessDenied", denied)
			}, "KMS0305", []string{"role_arn and external_id of profile \"default\" in \"", "/config\""},
		},
		"role of a profile, over credential_process": {
			func(p *place) { p.config(ofProfile + "[profile base]\ncredential_process = /bin/false\n") }, "KMS0301",
			[]string{"credential_process of profile \"base\" in \"", "exited with 1"},
		},
		"role of a profile, over a container": {
			func(p *place) {
				p.config("[default]\nrole_arn = " + role + "\ncredential_source = EcsContainer\n")
				p.container(404, text, "gone")
			}, "KMS0308", []string{"the endpoint for a container's credentials", "404 Not Found: gone"},
		},
		"source_profile that is not there": {
			func(p *place) { p.config(ofProfile) }, "KMS0307", []string{"source_profile", "base", "is in none of", "/config"},
		},
		"source_profile that leads back": {
			func(p *place) {
				p.config(ofProfile + "[profile base]\nrole_arn = " + role + "\nsource_profile = default\n")
			}, "KMS0307",
			[]string{"source_profile", "default", "leads back to itself", "/config"},
		},
		"profile that is not there": {
			func(p *place) {
				p.config("[default]\n")
				p.set("AWS_PROFILE", "nobody")
			}, "KMS0307", []string{"profile", "nobody", "is in none of", "/config", "AWS_PROFILE"},
		},
		"credential_process": {
			func(p *place) { p.config("[default]\ncredential_process = /bin/echo key-secret\n") }, "KMS0301",
			[]string{"credential_process of profile \"default\" in \"", "/config\"", "something else than the JSON", "by hand"},
		},
		"session of IAM Identity Center": {
			func(p *place) {
				p.set("HOME", p.dir)
				p.config("[default]\nsso_session = s\nsso_account_id = 111122223333\nsso_role_name = r\n[sso-session s]\nsso_region = us-west-2\nsso_start_url = https://example.awsapps.com/start\n")
			}, "KMS0301", []string{"IAM Identity Center", "profile \"default\"", "aws sso login"},
		},
		"access key of a file that AWS does not know": {
			func(p *place) {
				p.config("[default]\naws_access_key_id = unknown\naws_secret_access_key = key-secret\n")
			}, "KMS0303",
			[]string{"the access key of profile \"default\" in \""},
		},
	}
}

// The instance metadata service, and what stands in front of it.
func metadataCases() map[string]sourceCase {
	says := func(status int, kind, body string) func(*place) {
		return func(p *place) {
			p.metadata(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", kind)
				w.WriteHeader(status)
				fmt.Fprint(w, body)
			})
		}
	}
	at := "the instance metadata service at \"http://127.0.0.1:"
	return map[string]sourceCase{
		"metadata: no role":     {says(404, html, page), "KMS0309", []string{at, "404 Not Found", "attach an instance profile"}},
		"metadata: kube2iam":    {says(404, text, noRole), "KMS0309", []string{at, noRole, "kube2iam"}},
		"metadata: empty list":  {says(200, text, ""), "KMS0309", []string{at, "lists no role"}},
		"metadata: 403":         {says(403, html, page), "KMS0308", []string{at, "403 Forbidden", "hop limit", "enabled"}},
		"metadata: 401":         {says(401, text, "no metadata-token-secret"), "KMS0308", []string{at, "401 Unauthorized: no [removed]", "hop limit"}},
		"metadata: a page":      {says(200, html, page+"\n"), "KMS0313", []string{at, "kiam"}},
		"metadata: no JSON":     {says(200, text, "role"), "KMS0313", []string{at, "something else than the JSON"}},
		"metadata: 500":         {says(500, text, "oops"), "KMS0306", []string{at}},
		"metadata: leaves HTTP": {says(101, text, ""), "KMS0313", []string{at}},
		"metadata: leaves HTTP, and goes on": {
			func(p *place) {
				p.set("AWS_EC2_METADATA_DISABLED", "")
				p.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", p.leavesHTTP())
			}, "KMS0313", []string{at, "101 Switching Protocols"},
		},
		"metadata: a role that EC2 may not assume": {
			says(200, json, `{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}`), "KMS0308",
			[]string{at, "AssumeRoleUnauthorizedAccess", "ec2.amazonaws.com"},
		},
		"metadata that is disabled, and nothing else": {func(*place) {}, "KMS0301", []string{"AWS_EC2_METADATA_DISABLED", "give the process credentials"}},
		"metadata, over a role of the flag": {
			func(p *place) {
				p.options.AssumeRoleARN = role
				says(404, html, page)(p)
			}, "KMS0309", []string{at},
		},
		"metadata, for the Region": {
			func(p *place) {
				p.set("AWS_REGION", "")
				says(403, html, page)(p)
			}, "KMS0209", []string{at, "403 Forbidden", "the setting region"},
		},
	}
}

func TestEachSourceIsNamedWithWhatToDoAboutIt(t *testing.T) {
	for _, cases := range []map[string]sourceCase{containerCases(), tokenCases(), roleCases(), metadataCases()} {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				p := newPlace(t)
				c.plant(p)
				e := p.call()
				if e.Code.String() != c.code {
					t.Errorf("got %v, want %s", e, c.code)
				}
				for _, words := range c.words {
					if !strings.Contains(e.Error(), words) {
						t.Errorf("does not say %q: %v", words, e)
					}
				}
				if p.options.AssumeRoleARN == "" && strings.Contains(e.Error(), "--assume-role-arn") {
					t.Errorf("speaks of a flag that is not used: %v", e)
				}
			})
		}
	}
}

// What KMS refuses for its scope is not the clock either.
func TestSignatureForAnotherRegionIsNotTheClock(t *testing.T) {
	p := newPlace(t)
	p.set("AWS_ACCESS_KEY_ID", p.kms.Credential.AccessKeyID)
	p.set("AWS_SECRET_ACCESS_KEY", p.kms.Credential.SecretAccessKey)
	for _, said := range []string{
		"Credential should be scoped to a valid region, not 'us-west-2'. ", "Credential should be scoped to correct service: 'kms'. ",
	} {
		p.options.Endpoint = p.answers(400, "application/x-amz-json-1.1", fmt.Sprintf(`{"__type":"InvalidSignatureException","message":%q}`, said))
		e := p.call()
		if e.Code != cause.ScopeRefused || !strings.Contains(e.Error(), "the setting region") || strings.Contains(e.Error(), "check the node's clock") {
			t.Errorf("got %v, want %s", e, cause.ScopeRefused)
		}
	}
}

// The SDK has a log of its own, on standard error, unless it is given one.
func TestWhatTheSDKLogsComesInTheLog(t *testing.T) {
	p := newPlace(t)
	p.metadata(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	s := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	p.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", s) // which gives no token either
	stderr := p.file("stderr", "")
	f, err := os.OpenFile(stderr, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	own := os.Stderr
	os.Stderr = f
	t.Cleanup(func() { os.Stderr = own })
	var out bytes.Buffer
	p.options.Log = slog.New(slog.NewTextHandler(&out, nil))
	if e := p.call(); e.Code != cause.SourceRefused {
		t.Errorf("got %v", e)
	}
	if !strings.Contains(out.String(), "level=WARN msg=\"the AWS SDK reports\"") || !strings.Contains(out.String(), "falling back to IMDSv1") {
		t.Errorf("the log has %q, want the SDK's line", out.String())
	}
	if text, err := os.ReadFile(stderr); err != nil || len(text) > 0 {
		t.Errorf("standard error has %q (%v), want nothing", text, err)
	}
}
