package doctor_test

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

var update = flag.Bool("update", false, "write docs/doctor-codes.md")

// A node is where the doctor looks: an emulated KMS, a directory, and a
// configuration, in which nothing is wrong until a case makes it so.
type node struct {
	t       *testing.T
	kms     *kmstest.Server
	key     string
	dir     string
	socket  string
	linked  string   // the socket in the EncryptionConfiguration; "": socket
	second  string   // a further entry of the EncryptionConfiguration
	flags   []string // beside --key and --listen
	keyFlag string   // "": key
	file    string   // of --config, instead of flags
	home    string   // of another user who runs the doctor; "": a directory of its own
	health  string   // the health port of the plugin that runs; "": none, or nobody knows it
	options doctor.Options
	states  func() string // of the plugin that runs
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
	health := []string{"--health-port=127.0.0.1:1"} // where nobody listens
	if n.health != "" {
		health = []string{"--health-port=" + n.health}
	}
	if n.file != "" {
		return append(health, "--config="+n.file)
	}
	key := n.key
	if n.keyFlag != "" {
		key = n.keyFlag
	}
	return append(append(health, "--key="+key, "--listen="+n.socket), n.flags...)
}

// keysFile makes a file of one provider the node's configuration. Each key is an
// entry of YAML, as it stands behind "key:".
func (n *node) keysFile(keys ...string) {
	n.providersFile("- name: a\n  listen: " + n.socket + "\n" + keysOf(keys...))
}

func keysOf(keys ...string) string {
	text := "  keys:\n"
	for _, k := range keys {
		text += "  - key: " + k + "\n"
	}
	return text
}

func (n *node) providersFile(text string) {
	n.t.Helper()
	n.file = n.write("c.yaml", fileHead+"providers:\n"+text)
}

// runsWith starts the plugin with a file of its own of these keys.
func (n *node) runsWith(keys ...string) {
	n.t.Helper()
	n.keysFile(keys...)
	n.runsByFile()
}

// runsByFile starts the plugin with the file, and gives the node another one.
func (n *node) runsByFile() {
	n.t.Helper()
	its := filepath.Join(n.dir, "its.yaml")
	n.must(nil, os.Rename(n.file, its))
	n.file = its
	n.run()
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
	var d *daemon.Daemon
	if n.file != "" {
		flags := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
		n.must(flags.Parse(n.args(), func(string) (string, bool) { return "", false }))
		d = daemontest.StartWith(n.t, cfg, daemon.Options{Source: flags.Source(), Log: slog.New(slog.DiscardHandler)})
	} else {
		d = daemontest.Start(n.t, cfg)
	}
	n.states = d.States
	n.until(func() bool {
		n.health = d.HealthAddress()
		found, err := unixsocket.LookAt(n.t.Context(), n.socket)
		return err == nil && found.Live && n.health != ""
	})
}

// works waits until the plugin that runs has encrypted and decrypted.
func (n *node) works() {
	n.t.Helper()
	n.until(func() bool { return strings.Contains(n.states(), ": healthy") })
}

func (n *node) until(holds func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatal("waited in vain")
		}
	}
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
