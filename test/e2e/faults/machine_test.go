package faults

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

const (
	// deadline is the default timeout of a KMS provider entry.
	deadline = 3 * time.Second
	// recovery is how long after the last fault everything may take to be well.
	recovery = 15 * time.Second
	// pollEvery is how often a condition is looked at.
	pollEvery = 50 * time.Millisecond
)

// A machine is a KMS and a plugin that uses it, in one life after another. All
// of it is gone when the test ends; a failed test shows the end of the log.
type machine struct {
	t     *testing.T
	dir   string
	kms   *kmstest.Server
	key   string   // ARN of the first key
	keys  []string // as --key has them, one for each socket
	args  []string // further flags
	env   []string // further variables, which win over the KMS's own
	at    string   // the KMS endpoint that the plugin is given; "": the KMS's own
	lives int
	ledger

	*plugin // nil between two lives
}

func newMachine(t *testing.T, args ...string) *machine {
	t.Helper()
	return newMachineOver(t, kmstest.Start(t), args...)
}

// newMachineOver is newMachine with a KMS of the test's own.
func newMachineOver(t *testing.T, kms *kmstest.Server, args ...string) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms-faults-") // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, kms: kms, args: args}
	m.key = m.newKey()
	m.keys = []string{m.key}
	return m
}

func (m *machine) newKey() string {
	m.t.Helper()
	arn, err := m.kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	m.must(err)
	return arn
}

// keyID is the key_id of a key: its ARN, and its material.
func (m *machine) keyID(arn string) string { return arn + "?material=" + m.kms.CurrentMaterial(arn) }

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// eventually waits until try returns nil, and fails the test at once where it
// does not within limit, or where the plugin ends meanwhile.
func (m *machine) eventually(limit time.Duration, what string, try func(context.Context) error) {
	m.t.Helper()
	var gone <-chan struct{}
	if m.plugin != nil {
		gone = m.program.Exited()
	}
	if err := cluster.Poll(m.t.Context(), pollEvery, limit, gone, try); err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
}

// A plugin is one life of the program.
type plugin struct {
	program *cluster.Program
	sockets []string
	health  string // URL
	conns   []*grpc.ClientConn
}

// launch starts the plugin and waits until its sockets and its health port
// serve, which they do whatever KMS does.
func (m *machine) launch() {
	m.t.Helper()
	m.lives++
	p := &plugin{}
	endpoint := cmp.Or(m.at, m.kms.URL)
	for i := range m.keys {
		p.sockets = append(p.sockets, filepath.Join(m.dir, fmt.Sprintf("%d.sock", i)))
	}
	p.program = &cluster.Program{
		Name: fmt.Sprintf("plugin, life %d", m.lives), Path: binary,
		Args: append([]string{
			"-key=" + strings.Join(m.keys, ","), "-region=" + kmstest.Region, "-listen=" + strings.Join(p.sockets, ","),
			"--kms-endpoint=" + endpoint, "--health-port=127.0.0.1:0",
		}, m.args...),
		Env: slices.Concat([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.dir}, m.kms.Env(), m.env),
		Log: filepath.Join(m.dir, fmt.Sprintf("plugin-%d.log", m.lives)),
	}
	m.must(p.program.Start())
	m.plugin = p
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("log of the %s ends:\n%s", p.program.Name, p.program.Tail(15))
		}
		p.close()
		if err := p.program.Kill(); err != nil {
			m.t.Error(err)
		}
	})
	m.eventually(recovery, "the plugin serves", func(context.Context) error {
		for _, s := range p.sockets {
			if _, err := os.Stat(s); err != nil {
				return err
			}
		}
		address, err := p.healthAddress()
		p.health = "http://" + address
		return err
	})
	for _, s := range p.sockets {
		conn, err := grpc.NewClient("unix:"+s, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
		m.must(err)
		p.conns = append(p.conns, conn)
		m.must(version(m.t.Context(), conn))
	}
}

// version is what an API server asks of a v1 provider before anything else.
func version(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	resp, err := v1beta1.NewKeyManagementServiceClient(conn).Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"})
	if err == nil && resp.Version != "v1beta1" {
		err = fmt.Errorf("Version is %q", resp.Version)
	}
	return err
}

// healthAddress reads out of the log where health is served.
func (p *plugin) healthAddress() (string, error) {
	data, err := os.ReadFile(p.program.Log)
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(data) {
		var entry struct{ Msg, Address string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving health and metrics" {
			return entry.Address, nil
		}
	}
	return "", errors.New("the log names no health address")
}

func (p *plugin) close() {
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// end stops the plugin, if it runs, as a node does.
func (m *machine) end() {
	m.t.Helper()
	if m.plugin == nil {
		return
	}
	m.must(m.program.Signal(syscall.SIGTERM))
	m.ends()
}

// ends demands that the plugin, which has been told to, ends well.
func (m *machine) ends() {
	m.t.Helper()
	const drain = 5 * time.Second // the plugin's own limit
	p := m.plugin
	m.plugin = nil
	select {
	case <-p.program.Exited():
		if err := p.program.ExitError(); err != nil {
			m.t.Errorf("after SIGTERM: %v, want exit code 0", err)
		}
	case <-time.After(drain + 3*time.Second):
		m.t.Errorf("still there %v after SIGTERM", drain+3*time.Second)
	}
	p.close()
	for _, s := range p.sockets {
		if _, err := os.Lstat(s); !errors.Is(err, os.ErrNotExist) {
			m.t.Errorf("after SIGTERM the socket is still there (%v)", err)
		}
	}
	m.noPanic(p)
}

func (m *machine) noPanic(p *plugin) {
	m.t.Helper()
	data, err := os.ReadFile(p.program.Log)
	if err != nil || bytes.Contains(bytes.ToLower(data), []byte("panic")) {
		m.t.Errorf("the log of the %s tells of a panic, or cannot be read (%v):\n%s", p.program.Name, err, p.program.Tail(40))
	}
}

// get asks a health path.
func (p *plugin) get(ctx context.Context, path string) (code int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.health+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(body)), err
}

// status is the API server's poll of the first socket.
func (p *plugin) status(ctx context.Context, socket int) (*v2.StatusResponse, error) {
	return p.statusWithin(ctx, socket, deadline)
}

// statusWithin is status with another deadline.
func (p *plugin) statusWithin(ctx context.Context, socket int, limit time.Duration) (*v2.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return v2.NewKeyManagementServiceClient(p.conns[socket]).Status(ctx, &v2.StatusRequest{})
}

// The two APIs that wrap keys, by the names of their calls in reports.
const (
	v1API = "v1"
	v2API = "v2"
)

// A sealed DEK is one that the plugin acknowledged.
type sealed struct {
	api         string
	plaintext   []byte
	ciphertext  []byte
	keyID       string
	annotations map[string][]byte
}

// encrypt seals a new DEK on a socket.
func (p *plugin) encrypt(ctx context.Context, socket int, api string) (sealed, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	s := sealed{api: api, plaintext: make([]byte, 32)}
	_, _ = rand.Read(s.plaintext) // never fails
	if api == v1API {
		resp, err := v1beta1.NewKeyManagementServiceClient(p.conns[socket]).Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: s.plaintext})
		s.ciphertext = resp.GetCipher()
		return s, err
	}
	resp, err := v2.NewKeyManagementServiceClient(p.conns[socket]).Encrypt(ctx, &v2.EncryptRequest{Plaintext: s.plaintext, Uid: "faults"})
	s.ciphertext, s.keyID, s.annotations = resp.GetCiphertext(), resp.GetKeyId(), resp.GetAnnotations()
	return s, err
}

// errWrongPlaintext is a Decrypt that succeeded and lied.
var errWrongPlaintext = errors.New("a Decrypt succeeded with another plaintext")

// decrypt opens what encrypt sealed.
func (p *plugin) decrypt(ctx context.Context, socket int, s sealed) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var plaintext []byte
	if s.api == v1API {
		resp, err := v1beta1.NewKeyManagementServiceClient(p.conns[socket]).Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: s.ciphertext})
		if err != nil {
			return err
		}
		plaintext = resp.Plain
	} else {
		resp, err := v2.NewKeyManagementServiceClient(p.conns[socket]).Decrypt(ctx, &v2.DecryptRequest{
			Ciphertext: s.ciphertext, KeyId: s.keyID, Annotations: s.annotations, Uid: "faults",
		})
		if err != nil {
			return err
		}
		plaintext = resp.Plaintext
	}
	if !bytes.Equal(plaintext, s.plaintext) {
		return errWrongPlaintext
	}
	return nil
}

// A ledger holds what was acknowledged on the first socket.
type ledger struct {
	mu      sync.Mutex
	entries []sealed
}

// write encrypts on the first socket and enters what was acknowledged.
func (m *machine) write(ctx context.Context, api string) error {
	s, err := m.encrypt(ctx, 0, api)
	if err != nil {
		return err
	}
	if want := m.keyID(m.key); api == v2API && s.keyID != want {
		m.t.Errorf("Encrypt answers key_id %q, want %q", s.keyID, want)
	}
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	m.entries = append(m.entries, s)
	return nil
}

// readsAll demands that everything that was ever acknowledged can be read.
func (m *machine) readsAll() {
	m.t.Helper()
	for i, s := range m.entries {
		if err := m.decrypt(m.t.Context(), 0, s); err != nil {
			m.t.Fatalf("acknowledged ciphertext %d of %d (%s) cannot be read: %v", i+1, len(m.entries), s.api, err)
		}
	}
}

// well is nil when nothing is wrong with the plugin and no failure is
// outstanding.
func (m *machine) well(ctx context.Context) error {
	st, err := m.status(ctx, 0)
	if err != nil {
		return err
	}
	if st.Healthz != "ok" {
		return fmt.Errorf("Status is %q", st.Healthz)
	}
	code, text, err := m.get(ctx, "/readyz")
	if err == nil && (code != http.StatusOK || strings.Contains(text, "failed since")) {
		err = fmt.Errorf("/readyz is %d %q", code, text)
	}
	return err
}

// settle waits until no call arrives at KMS any more, so that the checks of one
// round are not counted in the next.
func (m *machine) settle() {
	m.t.Helper()
	const quiet = 250 * time.Millisecond
	calls, since := -1, time.Now()
	m.eventually(recovery, "KMS is left alone", func(context.Context) error {
		if now := m.kms.Calls("*"); now != calls {
			calls, since = now, time.Now()
		}
		if time.Since(since) < quiet {
			return fmt.Errorf("call %d has just arrived", calls)
		}
		return nil
	})
}
