package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/liveness"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

func callerEnv() map[string]string {
	c := kmstest.Credential()
	return map[string]string{
		"AWS_ACCESS_KEY_ID": c.AccessKeyID, "AWS_SECRET_ACCESS_KEY": c.SecretAccessKey, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	}
}

// shortTiming is usualTiming for tests that are not about time.
func shortTiming() timing {
	return timing{
		Timing:     unixsocket.Timing{HolderPoll: 10 * time.Millisecond, Keep: 20 * time.Millisecond, File: testkit.Patience},
		holderWait: 300 * time.Millisecond,
		portRetry:  20 * time.Millisecond, answer: 20 * time.Millisecond, drain: 5 * time.Second, silence: 200 * time.Millisecond, rest: testkit.Patience,
		settle: 10 * time.Millisecond, settleMost: 100 * time.Millisecond, poll: 10 * time.Second, missing: 300 * time.Millisecond,
		retry: 100 * time.Millisecond, retryMost: 500 * time.Millisecond,
	}
}

// A running daemon of a test, with the emulator as its KMS.
type running struct {
	*Daemon

	t    testing.TB
	kms  *kmstest.Server // nil: no KMS listens
	key  string
	path string // of the first socket
	log  *testkit.LogBook
	down sync.Once
}

// A setup is how a test's daemon differs from the usual one.
type setup struct {
	kms      *kmstest.Server // nil: one of its own
	endpoint string          // "": the KMS's
	args     []string
	time     timing // zero: shortTiming
	listen   string // "": in a directory of its own
	files    *files // nil: usualFiles
}

// run starts a daemon with one key, and stops it with the test.
func run(t testing.TB, s setup) *running {
	t.Helper()
	if s.kms == nil {
		s.kms = kmstest.Start(t)
	}
	key, err := s.kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s.endpoint == "" {
		s.endpoint = s.kms.URL
	}
	if s.listen == "" {
		s.listen = filepath.Join(testkit.Directory(t), "kms.sock")
	}
	if s.time == (timing{}) {
		s.time = shortTiming()
	}
	ops := usualFiles()
	if s.files != nil {
		ops = *s.files
	}
	args := append([]string{"--key=" + key, "--listen=" + s.listen, "--kms-endpoint=" + s.endpoint, "--health-port=127.0.0.1:0"}, s.args...)
	r := &running{t: t, kms: s.kms, key: key, path: s.listen, log: &testkit.LogBook{}}
	r.Daemon = start(parse(t, args), Options{Log: r.log.Logger(), Version: "v1.2.3", Commit: "abc", GoVersion: "go1"}, s.time, ops)
	t.Cleanup(r.shutdown)
	return r
}

func parse(t testing.TB, args []string) *config.Config {
	t.Helper()
	none := func(string) (string, bool) { return "", false }
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse(args, none)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func (r *running) shutdown() { r.down.Do(func() { r.Shutdown(context.Background()) }) }

// itself asks the first socket as the process itself does.
func (r *running) itself() error {
	return r.current.Load().providers[0].at.ask(context.Background())
}

func (r *running) exists() bool { return exists(r.path) }

func exists(path string) bool {
	if strings.HasPrefix(path, "@") {
		return true
	}
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// serving waits until the sockets are there.
func (r *running) serving() *running {
	r.t.Helper()
	testkit.Until(r.t, "the socket is there", func() bool { return r.exists() && r.current.Load().providers[0].at.answers.Load() && r.itself() == nil })
	return r
}

// ready waits until the daemon says that it can encrypt.
func (r *running) ready() *running {
	r.t.Helper()
	testkit.Until(r.t, "/readyz is 200", func() bool { code, _ := r.get("/readyz"); return code == http.StatusOK })
	return r
}

// client returns a KMS v2 client of the socket, which waits for it.
func (r *running) client() v2.KeyManagementServiceClient {
	r.t.Helper()
	return v2.NewKeyManagementServiceClient(connectTo(r.t, r.path))
}

func connectTo(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// get returns the answer of a health path, and 0 where there is none.
func (r *running) get(path string) (code int, body string) {
	r.t.Helper()
	var addr string
	testkit.Until(r.t, "the health port is served", func() bool { addr = r.HealthAddress(); return addr != "" })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testkit.Patience}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatalf("GET %s: %v", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("GET %s: %v", path, err)
	}
	return resp.StatusCode, string(text)
}

// encrypts does one Encrypt and fails the test where that fails.
func (r *running) encrypts(c v2.KeyManagementServiceClient) *v2.EncryptResponse {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	resp, err := c.Encrypt(ctx, &v2.EncryptRequest{Plaintext: bytes.Repeat([]byte("k"), 32), Uid: "u"})
	if err != nil {
		r.t.Fatalf("Encrypt over %s: %v\n%s", r.path, err, r.log)
	}
	return resp
}

// metric returns the value of a series, "" where there is none.
func (r *running) metric(series string) string {
	r.t.Helper()
	_, body := r.get("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// holder is the process that serves a socket.
func holder(ctx context.Context, path string) (pid int, live bool) {
	found, _ := unixsocket.LookAt(ctx, path)
	return found.PID, found.Live
}

// lockFile is where the lock of a socket is.
func lockFile(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock")
}

// ask asks a socket as a stranger does.
func ask(ctx context.Context, path string) error {
	return liveness.Ask(ctx, path, func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) })
}
