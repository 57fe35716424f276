package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

const fileHead = "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\n"

// A providerText is a provider as a test's file says it.
type providerText struct {
	name, listen string
	keys         []string // keyText each
	epoch        int
}

// keyText is one key of a file, over a KMS.
func keyText(kms *kmstest.Server, key string, more ...string) string {
	return fmt.Sprintf("{key: %q, region: %s, endpoint: %q%s}", key, kmstest.Region, kms.URL, strings.Join(append([]string{""}, more...), ", "))
}

// fileText is a file; globals are lines before the providers.
func fileText(globals string, providers ...providerText) string {
	var b strings.Builder
	b.WriteString(fileHead + globals + "providers:\n")
	for _, p := range providers {
		fmt.Fprintf(&b, "- name: %s\n  listen: %q\n  epoch: %d\n  keys:\n", p.name, p.listen, p.epoch)
		for _, k := range p.keys {
			b.WriteString("  - " + k + "\n")
		}
	}
	return b.String()
}

// A filed daemon runs by a file that its test writes.
type filed struct {
	*running

	dir  string // of the file and of sockets
	file string
}

// A filing is how a filed daemon differs from the usual one.
type filing struct {
	dir   string // "": one of its own
	file  string // "": config.yaml in dir, which is written
	time  timing // zero: shortTiming
	files *files // nil: usualFiles
	log   *testkit.LogBook
	bare  bool // the file says the health address
}

// runFiled starts a daemon with a file, and stops it with the test.
func runFiled(t testing.TB, s filing, text string) *filed {
	t.Helper()
	f := &filed{running: &running{t: t, log: s.log}, dir: s.dir, file: s.file}
	if f.dir == "" {
		f.dir = testkit.Directory(t)
	}
	if f.log == nil {
		f.log = &testkit.LogBook{}
	}
	if f.file == "" {
		f.file = filepath.Join(f.dir, "config.yaml")
		f.write(text)
	}
	if s.time == (timing{}) {
		s.time = shortTiming()
	}
	usual := usualFiles()
	if s.files == nil {
		s.files = &usual
	}
	flags := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	args := []string{"--config=" + f.file, "--health-port=127.0.0.1:0"}
	if s.bare {
		args = args[:1]
	}
	cfg, err := flags.Parse(args, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	f.path = cfg.Providers[0].Listen
	o := Options{Log: f.log.Logger(), Version: "v1.2.3", Commit: "abc", GoVersion: "go1", Source: flags.Source()}
	f.Daemon = start(cfg, o, s.time, *s.files)
	t.Cleanup(f.shutdown)
	return f
}

// runOne starts a daemon with a file of one provider, and waits until it is ready.
func runOne(t testing.TB, globals string) (kms *kmstest.Server, p providerText, f *filed) {
	t.Helper()
	kms = kmstest.Start(t)
	dir := testkit.Directory(t)
	p = providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	f = runFiled(t, filing{dir: dir}, fileText(globals, p))
	f.ready()
	return kms, p, f
}

// write replaces the file, as an editor does.
func (f *filed) write(text string) {
	f.t.Helper()
	f.must(os.WriteFile(f.file+".new", []byte(text), 0o600))
	f.must(os.Rename(f.file+".new", f.file))
}

func (f *filed) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// hashOf is how metrics and log name a file's content.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:16]
}

// loads writes the file, and waits until the daemon serves what it says.
func (f *filed) loads(text string) {
	f.t.Helper()
	f.write(text)
	f.loaded(text)
}

// loaded waits until the daemon serves what text says.
func (f *filed) loaded(text string) {
	f.t.Helper()
	deadline := time.Now().Add(testkit.Patience)
	for f.current.Load().cfg.Hash != hashOf(text) || f.reloader.state.Load().err != nil {
		if time.Now().After(deadline) {
			f.t.Fatalf("not loaded within %s: %v\n%s\n%s", testkit.Patience, f.reloader.state.Load().err, text, f.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// refuses writes the file, and waits until the daemon says why it does not serve
// it, in words with want in them.
func (f *filed) refuses(text, want string) {
	f.t.Helper()
	f.write(text)
	f.refused(want)
}

func (f *filed) refused(want string) {
	f.t.Helper()
	testkit.Until(f.t, "the file is refused: "+want, func() bool {
		err := f.reloader.state.Load().err
		return err != nil && strings.Contains(err.Error(), want)
	})
}

// settled waits, after loads, until what was replaced has come to its end.
func (f *filed) settled() { f.draining.Wait() }

// createKey returns the ARN of a new key.
func createKey(t testing.TB, kms *kmstest.Server) string {
	t.Helper()
	key, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A caller is an API server with a connection to one of some sockets, which
// waits for one where there is none.
type caller struct {
	t     testing.TB
	paths string
	dials atomic.Int64 // connections so far
	v1    v1beta1.KeyManagementServiceClient
	kms   v2.KeyManagementServiceClient
}

func newCaller(t testing.TB, paths ...string) *caller {
	t.Helper()
	c := &caller{t: t, paths: strings.Join(paths, " or ")}
	dial := func(ctx context.Context, _ string) (conn net.Conn, err error) {
		for _, path := range paths {
			if conn, err = (&net.Dialer{}).DialContext(ctx, "unix", path); err == nil {
				c.dials.Add(1)
				return conn, nil
			}
		}
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: testkit.Patience, Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c.v1, c.kms = v1beta1.NewKeyManagementServiceClient(conn), v2.NewKeyManagementServiceClient(conn)
	return c
}

func plaintext() []byte { return bytes.Repeat([]byte("k"), 32) }

func (c *caller) seals() *v2.EncryptResponse {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	resp, err := c.kms.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plaintext(), Uid: "u"})
	if err != nil {
		c.t.Fatalf("Encrypt over %s: %v", c.paths, err)
	}
	return resp
}

func (c *caller) open(ctx context.Context, sealed *v2.EncryptResponse) error {
	resp, err := c.kms.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "u"})
	if err == nil && !bytes.Equal(resp.Plaintext, plaintext()) {
		err = errors.New("other bytes than were encrypted")
	}
	return err
}

func (c *caller) opens(sealed *v2.EncryptResponse) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	if err := c.open(ctx, sealed); err != nil {
		c.t.Fatalf("Decrypt over %s of what was written under %s: %v", c.paths, sealed.KeyId, err)
	}
}

func (c *caller) status() (*v2.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	return c.kms.Status(ctx, &v2.StatusRequest{})
}

func (c *caller) keyID() string {
	c.t.Helper()
	resp, err := c.status()
	if err != nil || resp.Healthz != "ok" {
		c.t.Fatalf("Status over %s: %v, %v; want ok", c.paths, resp, err)
	}
	return resp.KeyId
}
