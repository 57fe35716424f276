// Package model drives the built program by the model of test/model: real processes,
// that are killed, stopped and reloaded by signals, over real sockets and in real time.
// What takes minutes to judge is judged where time is virtual, by the drivers in
// internal/provider and internal/daemon.
package model

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
	"sigs.k8s.io/aws-encryption-provider/test/model"
)

// patience is for what a process has to do, ten times what it takes.
const patience = time.Minute

// TestWhateverHappensTheProgramKeepsItsPromises runs one seed that is the same in every
// run and three fresh ones, beside each other. It takes about a minute.
func TestWhateverHappensTheProgramKeepsItsPromises(t *testing.T) {
	t.Parallel()
	program, err := cluster.BuildPlugin(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, seed := range model.Seeds(t, 1, 3) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel() // each mostly waits
			model.Run(t, seed, model.InRealTime(), func(t *testing.T, kms *model.KMS) model.Driver {
				t.Helper()
				return newDriver(t, program, kms)
			})
			if t.Failed() {
				t.Log(model.Repeat(t, seed))
			}
		})
	}
}

// A driver runs the program.
type driver struct {
	t   *testing.T
	dir string
	kms string // URL

	program cluster.Program
	health  string // address
	config  string // of the last start; "": another one has been loaded since
}

func newDriver(t *testing.T, program string, kms *model.KMS) *driver {
	t.Helper()
	dir, err := os.MkdirTemp("", "aep") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	server := httptest.NewServer(kms)
	t.Cleanup(server.Close)
	d := &driver{t: t, dir: dir, kms: server.URL, health: freeAddress(t)}
	d.program = cluster.Program{
		Name: "aws-encryption-provider", Path: program, Args: []string{"--config=" + d.file()}, Log: filepath.Join(dir, "log"),
		Env: []string{
			"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=of-the-model", "AWS_EC2_METADATA_DISABLED=true",
			"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log ends:\n%s", d.program.Tail(40))
		}
	})
	return d
}

// freeAddress is one that nobody has. The program waits for it where somebody takes it.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (d *driver) socket() string { return filepath.Join(d.dir, "s") }
func (d *driver) file() string   { return filepath.Join(d.dir, "config.yaml") }

// Settle implements [model.Driver]: in real time nobody can know.
func (*driver) Settle() {}

// text is the file of a configuration.
func (d *driver) text(c model.Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\noutageGrace: %s\n", c.Grace)
	fmt.Fprintf(&b, "health: {address: %q}\nproviders:\n- name: aws\n  listen: %q\n  keys:\n", d.health, d.socket())
	for _, k := range c.Keys {
		fmt.Fprintf(&b, "  - {key: %q, region: us-west-2, endpoint: %q}\n", k.Name, model.Endpoint(d.kms, k.Who))
	}
	return b.String()
}

func (d *driver) write(text string) {
	d.t.Helper()
	err := os.WriteFile(d.file()+".new", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(d.file()+".new", d.file())
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// Kept implements [model.Driver]. Of which configuration a file is that was written
// after a reload only the program knows.
func (d *driver) Kept(c model.Config) *model.Kept {
	data, err := os.ReadFile(filepath.Join(d.dir, ".s.state"))
	if err != nil || d.config != c.ID() {
		return nil
	}
	var s struct {
		KeyID  string `json:"key_id"`
		KeyARN string `json:"key_arn"`
		LastOK struct {
			Wall int64 `json:"wall"`
		} `json:"last_ok"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		d.t.Errorf("the file of what is known: %v", err)
	}
	return &model.Kept{KeyID: s.KeyID, KeyARN: s.KeyARN, LastOK: time.Unix(0, s.LastOK.Wall)}
}

// Start implements [model.Driver].
func (d *driver) Start(c model.Config) model.Process {
	d.t.Helper()
	d.write(d.text(c))
	d.config = c.ID()
	if err := d.program.Start(); err != nil {
		d.t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+d.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	p := &process{driver: d, current: c, conn: conn, v1: v1beta1.NewKeyManagementServiceClient(conn), v2: v2.NewKeyManagementServiceClient(conn)}
	p.until("the program serves", func(ctx context.Context) bool {
		_, err := p.v1.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"}, grpc.WaitForReady(true))
		return err == nil && p.metrics(ctx) != ""
	})
	return p
}

// A process is one life of the program.
type process struct {
	driver  *driver
	current model.Config
	conn    *grpc.ClientConn
	v1      v1beta1.KeyManagementServiceClient
	v2      v2.KeyManagementServiceClient
	keyID   string // that was told last
}

func (p *process) until(what string, holds func(ctx context.Context) bool) {
	p.driver.t.Helper()
	ctx, cancel := context.WithTimeout(p.driver.t.Context(), patience)
	defer cancel()
	for !holds(ctx) {
		if ctx.Err() != nil || !p.driver.program.Running() {
			p.driver.t.Fatalf("not so in time: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// metrics are what the health port tells, "" where it is not served.
func (p *process) metrics(ctx context.Context) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.driver.health+"/metrics", http.NoBody)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return ""
	}
	return text.String()
}

// Kill implements [model.Process].
func (p *process) Kill() {
	if err := p.driver.program.Kill(); err != nil {
		p.driver.t.Error(err)
	}
	_ = p.conn.Close()
}

// Freeze implements [model.Pauser].
func (p *process) Freeze() { p.signal(syscall.SIGSTOP) }

// Thaw implements [model.Pauser]: the time has passed.
func (p *process) Thaw(time.Duration) { p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) {
	if err := p.driver.program.Signal(s); err != nil {
		p.driver.t.Error(err)
	}
}

// Reload implements [model.Process]. The program tries again by itself what it could not
// serve, so that the file of before is put back.
func (p *process) Reload(c model.Config) error {
	p.driver.config = ""
	hash := p.load(c)
	failed := fmt.Sprintf(`"configuration not reloaded: the running one goes on","file":%q,"hash":%q`, p.driver.file(), hash)
	said := ""
	p.until("the file is loaded, or not", func(ctx context.Context) bool {
		said = p.driver.said(failed)
		return said != "" || p.serves(ctx, hash)
	})
	if said == "" {
		p.current = c
		return nil
	}
	before := p.load(p.current)
	p.until("the file of before is loaded", func(ctx context.Context) bool { return p.serves(ctx, before) })
	return errors.New(said)
}

// load writes a file and has the program read it.
func (p *process) load(c model.Config) (hash string) {
	text := p.driver.text(c) + fmt.Sprintf("# %d\n", time.Now().UnixNano()) // so that each has a hash of its own
	sum := sha256.Sum256([]byte(text))
	p.driver.write(text)
	p.signal(syscall.SIGHUP)
	return hex.EncodeToString(sum[:8])
}

// serves reports whether the program serves the file with a hash.
func (p *process) serves(ctx context.Context, hash string) bool {
	m := p.metrics(ctx)
	return strings.Contains(m, fmt.Sprintf("aws_encryption_provider_config_info{hash=%q} 1\n", hash)) &&
		strings.Contains(m, "aws_encryption_provider_config_reload_success 1\n")
}

// said is the line of the log that has some words, "" where none has.
func (d *driver) said(words string) string {
	for line := range strings.Lines(d.program.Tail(200)) {
		if strings.Contains(line, words) {
			return line
		}
	}
	return ""
}

// Status implements [model.Process].
func (p *process) Status(ctx context.Context) (model.Status, error) {
	r, err := p.v2.Status(ctx, &v2.StatusRequest{})
	if err != nil {
		return model.Status{}, model.FromGRPC(err)
	}
	p.keyID = r.GetKeyId()
	return model.Status{Healthz: r.GetHealthz(), KeyID: r.GetKeyId()}, nil
}

// Encrypt implements [model.Process].
func (p *process) Encrypt(ctx context.Context, plaintext []byte) (model.Written, error) {
	r, err := p.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plaintext, Uid: "u"})
	if err != nil {
		return model.Written{}, model.FromGRPC(err)
	}
	return model.Written{Ciphertext: r.GetCiphertext(), KeyID: r.GetKeyId(), Annotations: r.GetAnnotations()}, nil
}

// Decrypt implements [model.Process].
func (p *process) Decrypt(ctx context.Context, s model.Stored) ([]byte, error) {
	if s.V1 {
		r, err := p.v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: s.Ciphertext})
		return r.GetPlain(), model.FromGRPC(err)
	}
	r, err := p.v2.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: s.Ciphertext, KeyId: s.KeyID, Annotations: s.Annotations, Uid: "u"})
	return r.GetPlaintext(), model.FromGRPC(err)
}

// Health implements [model.Process] as far as metrics tell it.
func (p *process) Health() model.Health {
	m := p.metrics(p.driver.t.Context())
	h := model.Health{KeyID: p.keyID, State: evidence.Unknown}
	for _, s := range evidence.States() {
		if strings.Contains(m, fmt.Sprintf("aws_encryption_provider_health{provider=%q,state=%q} 1\n", "aws", s)) {
			h.State = s
		}
	}
	return h
}
