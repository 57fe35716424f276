package doctor_test

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

var update = flag.Bool("update", false, "write docs/doctor-codes.md anew")

// A node is where the doctor looks: an emulated KMS, a directory, and a
// configuration, in which nothing is wrong until a case makes it so.
type node struct {
	t       *testing.T
	kms     *kmstest.Server
	key     string
	dir     string
	socket  string
	linked  string   // the socket in the EncryptionConfiguration; "": socket
	flags   []string // beside --key and --listen
	keyFlag string   // "": key
	file    string   // of --config, instead of flags
	options doctor.Options
}

func newNode(t *testing.T, s *kmstest.Server) *node {
	t.Helper()
	s.SetEnv(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	dir := daemontest.Directory(t)
	n := &node{t: t, kms: s, dir: dir, socket: filepath.Join(dir, "s")}
	n.key = n.createKey(kmsemulator.KeyOptions{})
	return n
}

// createKey makes a key that KMS rotates.
func (n *node) createKey(o kmsemulator.KeyOptions) string {
	n.t.Helper()
	key, err := n.kms.CreateKey(kmstest.Region, o)
	n.must(nil, err)
	n.must(nil, n.kms.EnableKeyRotation(key, 90))
	return key
}

func (n *node) must(_ any, err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) write(name, text string) string {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	n.must(nil, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func (n *node) args() []string {
	if n.file != "" {
		return []string{"--config=" + n.file}
	}
	key := n.key
	if n.keyFlag != "" {
		key = n.keyFlag
	}
	return append([]string{"--key=" + key, "--listen=" + n.socket}, n.flags...)
}

// config reads the node's flags, as the program does.
func (n *node) config() (*config.Config, config.Mistakes) {
	n.t.Helper()
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse(n.args(), func(string) (string, bool) { return "", false })
	mistakes, ok := errors.AsType[config.Mistakes](err)
	if err != nil && !ok {
		n.t.Fatal(err)
	}
	return cfg, mistakes
}

func (n *node) examine() *doctor.Report {
	n.t.Helper()
	o := n.options
	o.DocsURL = published
	o.Config, o.Mistakes = n.config()
	r, err := doctor.Examine(n.t.Context(), o)
	n.must(nil, err)
	return r
}

// serve starts a service beside KMS, and returns its address.
func (n *node) serve(h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	n.t.Cleanup(s.Close)
	return s.URL
}

func (n *node) withoutKeys() {
	n.t.Setenv("AWS_ACCESS_KEY_ID", "")
	n.t.Setenv("AWS_SECRET_ACCESS_KEY", "")
}

// silentMetadata is a metadata service that lets connect, and answers nothing.
func (n *node) silentMetadata() {
	n.t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	end := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	n.t.Cleanup(s.Close)
	n.t.Cleanup(func() { close(end) })
	n.t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL)
}

// webIdentity has credentials come by a token, to which STS answers an error.
func (n *node) webIdentity(code, message string) {
	n.withoutKeys()
	n.t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/kms")
	n.t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", n.write("token", "a token"))
	n.t.Setenv("AWS_ENDPOINT_URL_STS", n.serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, code, message)
	}))
}

// run starts the plugin with the node's configuration and waits until it is well.
func (n *node) run() {
	n.t.Helper()
	cfg, mistakes := n.config()
	if cfg == nil {
		n.t.Fatal(mistakes)
	}
	cfg.Health.Address = "127.0.0.1:0"
	daemontest.Start(n.t, cfg)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found, err := daemon.LookAtSocket(n.t.Context(), n.socket); err == nil && found.Live {
			return
		}
	}
	n.t.Fatal("the plugin does not come up")
}

// encryptionConfig has the doctor look at a file with these providers of secrets.
func (n *node) encryptionConfig(providers string) {
	n.options.EncryptionFile = "encryption.yaml"
	n.options.EncryptionConfig = []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" +
		"- resources: [secrets]\n  providers:\n" + strings.ReplaceAll(providers, "SOCKET", cmp.Or(n.linked, n.socket)))
}

// secretsAs has the doctor look at a good file that names these resources.
func (n *node) secretsAs(names string) {
	n.encryptionConfig(entryV2 + toClear)
	n.options.EncryptionConfig = bytes.Replace(n.options.EncryptionConfig, []byte("[secrets]"), []byte("["+names+"]"), 1)
}

const (
	entryV2 = "  - kms: {apiVersion: v2, name: a, endpoint: \"unix://SOCKET\", timeout: 3s}\n"
	entryV1 = "  - kms: {apiVersion: v1, name: old, endpoint: \"unix://SOCKET\", cachesize: 1000, timeout: 3s}\n"
	toClear = "  - identity: {}\n"

	fileHead = "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\n"
)

// respond puts something else than KMS where the endpoint is.
func (n *node) respond(answer http.HandlerFunc) {
	s := httptest.NewServer(answer)
	n.t.Cleanup(s.Close)
	n.t.Setenv("AWS_ENDPOINT_URL_KMS", s.URL)
}

// forward answers for KMS with a clock of its own.
func (n *node) forward(off time.Duration) {
	inner := n.kms.Server().Handler
	n.respond(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		inner.ServeHTTP(answer, r)
		maps.Copy(w.Header(), answer.Header())
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// A fault is one thing that is wrong, and the code by which the doctor names it.
type fault struct {
	name  string
	code  string
	seen  string // in the text or the cause
	plant func(n *node)
}

func faults() []fault {
	inject := func(f kmsemulator.Fault) func(*node) { return func(n *node) { n.kms.Inject(f) } }
	flags := func(args ...string) func(*node) { return func(n *node) { n.flags = args } }
	return slices.Concat([]fault{
		// configuration
		{"file with a mistake", "KMS0701", "c.yaml:3", func(n *node) {
			n.file = n.write("c.yaml", fileHead+"providers: [{name: a, listen: /tmp/s, keys: [{key: alias/a}], nonsense: 1}]\n")
		}},
		{"setting without effect", "KMS0702", "", flags("--qps-limit=5", "--burst-limit=5")},

		// endpoint
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

		// clock
		{"clock off by two minutes", "KMS0703", "2m", func(n *node) { n.forward(-2 * time.Minute) }},

		// credentials
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

		// keys
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
	}, socketFaults(), encryptionFaults())
}

func socketFaults() []fault {
	return []fault{
		{"plain file at the path", "KMS0706", "a file", func(n *node) { n.write("s", "") }},
		{"directory at the path", "KMS0706", "a directory", func(n *node) { n.must(nil, os.Mkdir(n.socket, 0o700)) }},
		{"file where a directory should be", "KMS0707", "", func(n *node) { n.socket = filepath.Join(n.write("file", ""), "s") }},
		{"dead socket", "KMS0708", "", func(n *node) {
			l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "unix", n.socket)
			n.must(nil, err)
			l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // of a unix socket
			n.must(nil, l.Close())
		}},
		{"directory that everybody writes to", "KMS0709", "", func(n *node) { n.must(nil, os.Chmod(n.dir, 0o777)) }},
		{"other mode than configured", "KMS0710", "0600, want 0660", func(n *node) {
			n.run()
			n.flags = []string{"--socket-mode=0660"}
		}},
		{"another program on the socket", "KMS0711", "", func(n *node) {
			l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "unix", n.socket)
			n.must(nil, err)
			n.must(nil, os.Chmod(n.socket, 0o600))
			s := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
			go func() { _ = s.Serve(l) }()
			n.t.Cleanup(func() { _ = s.Close() })
		}},
		{"plugin whose key was disabled", "KMS0101", "", func(n *node) {
			n.run()
			n.must(nil, n.kms.DisableKey(n.key))
		}},
		{"plugin that is ill by itself", "KMS0712", "KMS0101", func(n *node) {
			n.run()
			n.must(nil, n.kms.DisableKey(n.key))
			n.key = n.createKey(kmsemulator.KeyOptions{})
		}},
		{"plugin with another context", "KMS0713", "encryption context", func(n *node) {
			n.run()
			n.flags = []string{"--encryption-context=cluster=b"}
		}},
		{"plugin with another key", "KMS0713", "writes with", func(n *node) {
			n.run()
			n.key = n.createKey(kmsemulator.KeyOptions{})
		}},
	}
}

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
	}
}

// findings are the codes of a report, with all that is said of them.
func findings(r *doctor.Report) (codes []string, said string) {
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			if c.Code != "" {
				codes = append(codes, c.Code)
				said += fmt.Sprintf("%s\n%s: %s\n%s\n%s\n", c.Text, c.Code, c.Cause, c.Next, *c.Link)
			}
		}
	}
	return codes, said
}

func TestEachFaultIsNamedOnceWithOneInstruction(t *testing.T) {
	all := faults()
	if len(all) < 25 {
		t.Errorf("%d faults, want 25", len(all))
	}
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) {
			n := newNode(t, kmstest.Start(t))
			f.plant(n)
			r := n.examine()
			codes, _ := findings(r)
			also := f.code == "KMS0720" && slices.Equal(codes, []string{"KMS0719", f.code}) // a cache is v1's
			if !also && !slices.Equal(codes, []string{f.code}) {
				t.Errorf("finds %q, want %s alone:\n%s", codes, f.code, text(t, r))
			}
			if !strings.Contains(text(t, r), f.seen) {
				t.Errorf("does not say %q:\n%s", f.seen, text(t, r))
			}
			leaksNothing(t, n, r)
			linksLead(t, r)
		})
	}
}

// published is where the pages are, as far as a report knows.
const published = "https://docs.example/kms"

// linksLead looks for the section that each link leads to.
func linksLead(t *testing.T, r *doctor.Report) {
	t.Helper()
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			if c.Code == "" {
				continue
			}
			path, published := strings.CutPrefix(*c.Link, published+"/")
			page, anchor, _ := strings.Cut(path, "#")
			text, err := os.ReadFile(filepath.Join("../../docs", page))
			if !published || err != nil || anchor != strings.ToLower(c.Code) || !strings.Contains(string(text), "\n## "+c.Code+"\n") {
				t.Errorf("%s leads nowhere: %v", *c.Link, err)
			}
		}
	}
}

func TestUnknownCAIsNamed(t *testing.T) {
	n := newNode(t, kmstest.StartTLS(t))
	t.Setenv("AWS_CA_BUNDLE", "")
	if codes, said := findings(n.examine()); !slices.Equal(codes, []string{"KMS0206"}) {
		t.Errorf("finds %q, want KMS0206:\n%s", codes, said)
	}
}

func TestRoleThatCannotBeAssumedIsNamed(t *testing.T) {
	n := newNode(t, kmstest.Start(t, kmsemulator.Options{Roles: []kmsemulator.Role{{ARN: "arn:aws:iam::111122223333:role/other"}}}))
	n.flags = []string{"--assume-role-arn=arn:aws:iam::111122223333:role/kms"}
	if codes, said := findings(n.examine()); !slices.Equal(codes, []string{"KMS0305"}) {
		t.Errorf("finds %q, want KMS0305:\n%s", codes, said)
	}
}

func TestClockThatAWSRefusesIsNamed(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	n.respond(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"__type":"InvalidSignatureException","message":"Signature not yet current"}`)
	})
	r := n.examine()
	if codes, said := findings(r); !slices.Equal(codes, []string{"KMS0304"}) || !strings.Contains(said, "off by 10m") {
		t.Errorf("finds %q, want KMS0304 of the clock:\n%s", codes, text(t, r))
	}
}

// text is the report as a person reads it.
func text(t *testing.T, r *doctor.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b, doctor.PrintOptions{Form: "table"}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// leaksNothing looks for what must never be printed, in every form.
func leaksNothing(t *testing.T, n *node, r *doctor.Report) {
	t.Helper()
	for _, form := range doctor.Forms() {
		var b strings.Builder
		if err := r.Print(&b, doctor.PrintOptions{Form: form}); err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{n.kms.Credential.SecretAccessKey, "c2VjcmV0", "Authorization"} {
			if strings.Contains(b.String(), secret) {
				t.Errorf("%s shows %q", form, secret)
			}
		}
	}
}
