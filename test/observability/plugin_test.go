package observability_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// A plugin is the program's daemon over an emulated KMS.
type plugin struct {
	t       *testing.T
	kms     *kmstest.Server
	key     string
	file    string
	socket  string
	address func() string
	reload  func()
	v1      v1beta1.KeyManagementServiceClient
	v2      v2.KeyManagementServiceClient
	stored  []stored
	log     lines
	answers string // errors that calls were answered with, and what Status said
	grace   string // outageGrace of the file
}

// lines are a log that is written and read at once.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// What is stored in etcd, by v1 where there is no key_id.
type stored struct {
	ciphertext  []byte
	keyID       string
	annotations map[string][]byte
}

func createKey(t *testing.T, kms *kmstest.Server) string {
	t.Helper()
	key, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// run starts one that has encrypted.
func run(t *testing.T, kms *kmstest.Server, key string) *plugin {
	t.Helper()
	p := launch(t, kms, key)
	if err := p.encrypt(grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return p
}

// launch starts one that may never have reached KMS.
func launch(t *testing.T, kms *kmstest.Server, key string) *plugin {
	t.Helper()
	dir := daemontest.Directory(t)
	p := &plugin{t: t, kms: kms, key: key, grace: "3m", file: filepath.Join(dir, "c.yaml"), socket: filepath.Join(dir, "s")}
	p.write(key)
	flags := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	cfg, err := flags.Parse([]string{"--config=" + p.file}, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	d := daemontest.StartWith(t, cfg, daemon.Options{Log: slog.New(slog.NewTextHandler(&p.log, nil)), Source: flags.Source()})
	conn, err := unixsocket.Connect(p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.address, p.reload = d.HealthAddress, d.Reload
	p.v1, p.v2 = v1beta1.NewKeyManagementServiceClient(conn), v2.NewKeyManagementServiceClient(conn)
	return p
}

// write writes the configuration's file, the write key first, and returns the
// hash that the program exports of it.
func (p *plugin) write(keys ...string) string {
	p.t.Helper()
	text := "# " + strconv.Itoa(len(p.stored)) + "\napiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\n" +
		"outageGrace: " + p.grace + "\nhealth: {address: '127.0.0.1:0'}\nproviders:\n- name: aws\n  listen: " + p.socket + "\n  keys:\n"
	for _, key := range keys {
		text += "  - {key: '" + key + "'}\n"
	}
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16]
}

// reads is the key that is served below the first.
func (p *plugin) reads() string {
	p.t.Helper()
	text, err := os.ReadFile(p.file)
	if err != nil {
		p.t.Fatal(err)
	}
	keys := regexp.MustCompile(`\{key: '([^']+)'\}`).FindAllStringSubmatch(string(text), -1)
	if len(keys) < 2 {
		p.t.Fatalf("one key is served:\n%s", text)
	}
	return keys[1][1]
}

// configure has the keys served.
func (p *plugin) configure(keys ...string) {
	p.t.Helper()
	hash := p.write(keys...)
	p.reload()
	p.until(`aws_encryption_provider_config_info{hash="` + hash + `"} 1`)
}

func (p *plugin) encrypt(options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	r, err := p.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("k"), Uid: "u"}, options...)
	if err == nil {
		p.stored = append(p.stored, stored{r.Ciphertext, r.KeyId, r.Annotations})
	}
	return err
}

// traffic is what API servers ask, of v1 and of v2, all that is stored included.
func (p *plugin) traffic() {
	p.t.Helper()
	ctx := p.t.Context()
	_, err := p.v2.Status(ctx, &v2.StatusRequest{})
	_, failed := p.v1.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"})
	r, refused := p.v1.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: []byte("k")})
	if err := errors.Join(err, failed, refused, p.encrypt()); err != nil {
		p.t.Fatal(err)
	}
	p.stored = append(p.stored, stored{ciphertext: r.Cipher})
	if err := p.decryptStored(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plugin) decryptStored() error {
	for _, s := range p.stored {
		var err error
		if s.keyID == "" {
			_, err = p.v1.Decrypt(p.t.Context(), &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: s.ciphertext})
		} else {
			_, err = p.v2.Decrypt(p.t.Context(), &v2.DecryptRequest{Ciphertext: s.ciphertext, KeyId: s.keyID, Annotations: s.annotations, Uid: "u"})
		}
		if err != nil {
			p.answers += err.Error() + "\n"
			return err
		}
	}
	return nil
}

// decryptDamaged asks for what no key made.
func (p *plugin) decryptDamaged() {
	p.t.Helper()
	if _, err := p.v2.Decrypt(p.t.Context(), &v2.DecryptRequest{Ciphertext: []byte("damaged"), KeyId: "k", Uid: "u"}); err == nil {
		p.t.Fatal("damaged data decrypts")
	}
}

// shown is what an operator sees: the log, the health page, what calls answer.
// Keys, times and files that differ from run to run have those of the docs.
func (p *plugin) shown() string {
	p.t.Helper()
	if status, err := p.v2.Status(p.t.Context(), &v2.StatusRequest{}); err != nil {
		p.answers += err.Error() + "\n"
	} else {
		p.answers += "healthz: " + status.Healthz + "\n"
	}
	text := p.log.String() + p.get("/readyz?verbose") + p.answers
	text = strings.ReplaceAll(text, p.file, "/etc/aws-encryption-provider/config.yaml")
	text = regexp.MustCompile(`key/[0-9a-f-]{36}`).ReplaceAllString(text, "key/1234abcd-12ab-34cd-56ef-1234567890ab")
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`).ReplaceAllString(text, "2026-03-01T09:00:00Z")
}

// graceEnds has the outage grace be over: it is counted from the last success.
func (p *plugin) graceEnds() {
	p.t.Helper()
	p.grace = "1ms"
	p.configure(p.key)
}

func (p *plugin) scrape() string {
	p.t.Helper()
	return p.get("/metrics")
}

func (p *plugin) get(path string) string {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); p.address() == ""; {
		if time.Now().After(end) {
			p.t.Fatal("no health port")
		}
		_ = p.encrypt() // takes a moment
	}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.address()+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// until scrapes until a line is there.
func (p *plugin) until(line string) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(p.scrape(), line+"\n"); {
		if time.Now().After(end) {
			p.t.Fatalf("no line %q", line)
		}
		_ = p.encrypt()
	}
}

func start(t *testing.T) *plugin {
	t.Helper()
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	return run(t, kms, createKey(t, kms))
}
