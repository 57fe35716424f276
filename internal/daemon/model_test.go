package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/lastknown"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
	"sigs.k8s.io/aws-encryption-provider/test/model"
)

// Whatever happens, and in whichever order, a whole daemon keeps what the model
// promises: over gRPC, its file, its reloads and the client of KMS. An hour of it takes
// seconds. Some seeds are the same in every run, the others are fresh.
func TestWhateverHappensADaemonKeepsItsPromises(t *testing.T) { //nolint:paralleltest // it needs all of a processor
	model.Each(t, model.Seeds(t, 1, 2), func(t *testing.T, seed uint64) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) { model.Run(t, seed, model.InABubble(), newModelDriver) })
	})
}

const (
	modelHealth = "127.0.0.1:8080"
	modelKMS    = "127.0.0.1:80"
)

// A modelDriver runs daemons over connections in memory.
type modelDriver struct {
	t       *testing.T
	network testkit.Network
	dir     string
	began   time.Time
	source  *config.Source // nil before the first start
}

func newModelDriver(t *testing.T, kms *model.KMS) model.Driver {
	t.Helper()
	d := &modelDriver{t: t, dir: testkit.Directory(t), began: time.Now()}
	l, err := d.network.Listen(modelKMS)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: kms, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return d
}

// files have nothing of the system but a disk, which answers at once. The file of a
// socket is real, with nobody behind it.
func (d *modelDriver) files() files {
	ops := usualFiles()
	ops.Listen = func(ctx context.Context, path string, mode uint32) (net.Listener, error) {
		l, err := unixsocket.System().Listen(ctx, path, mode)
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			return nil, err
		}
		return d.network.Listen(path)
	}
	ops.Dial = d.network.Dial
	ops.listen = func(_ context.Context, _, address string) (net.Listener, error) { return d.network.Listen(address) }
	ops.dial = func(ctx context.Context, _, address string) (net.Conn, error) {
		return d.network.Dial(ctx, "", address)
	}
	ops.notify = func() (*fsnotify.Watcher, error) { return nil, errors.New("a bubble cannot wait for the system") }
	ops.clock = d.clock()
	return ops
}

// clock is that of a machine which started an hour before the test.
func (d *modelDriver) clock() lastknown.Clock {
	return lastknown.Clock{Wall: time.Now, Boot: func() time.Duration { return time.Hour + time.Since(d.began) }}
}

// Settle implements [model.Driver].
func (*modelDriver) Settle() { synctest.Wait() }

// text is the file of a configuration.
func (d *modelDriver) text(c model.Config) string {
	p := providerText{name: "aws", listen: d.socket()}
	for _, k := range c.Keys {
		p.keys = append(p.keys, fmt.Sprintf("{key: %q, region: us-west-2, endpoint: %q}", k.Name, model.Endpoint("http://"+modelKMS, k.Who)))
	}
	return fileText(fmt.Sprintf("outageGrace: %s\nhealth: {address: %q}\n", c.Grace, modelHealth), p)
}

func (d *modelDriver) socket() string { return filepath.Join(d.dir, "s") }

func (d *modelDriver) file() string { return filepath.Join(d.dir, "config.yaml") }

// load is how a daemon that starts reads the file.
func (d *modelDriver) load(c model.Config) (*config.Config, *config.Source) {
	d.t.Helper()
	d.write(d.text(c))
	flags := config.NewFlags(pflag.NewFlagSet("model", pflag.ContinueOnError))
	cfg, err := flags.Parse([]string{"--config=" + d.file()}, func(string) (string, bool) { return "", false })
	if err != nil {
		d.t.Fatal(err)
	}
	d.source = flags.Source()
	return cfg, d.source
}

func (d *modelDriver) write(text string) {
	d.t.Helper()
	if err := os.WriteFile(d.file()+".new", []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(d.file()+".new", d.file()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *modelDriver) state() string { return filepath.Join(d.dir, "provider-aws.state") }

// Kept implements [model.Driver].
func (d *modelDriver) Kept(c model.Config) *model.Kept {
	if d.source == nil {
		return nil
	}
	cfg, err := d.source.Load([]byte(d.text(c)))
	if err != nil {
		d.t.Fatal(err)
	}
	f := lastknown.File{Path: d.state(), Clock: d.clock()}
	s, err := f.Read(digest(cfg.Providers[0]))
	if err != nil {
		return nil
	}
	return &model.Kept{KeyID: s.KeyID, KeyARN: s.KeyARN, LastOK: s.LastOK}
}

// SetFull implements [model.Disk]: what is in the place of the next file cannot be
// removed.
func (d *modelDriver) SetFull(full bool) {
	place := d.state() + ".new"
	err := os.RemoveAll(place)
	if full {
		err = errors.Join(err, os.MkdirAll(filepath.Join(place, "full"), 0o700))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// Start implements [model.Driver].
func (d *modelDriver) Start(c model.Config) model.Process {
	cfg, source := d.load(c)
	conn, err := unixsocket.ConnectBy(func(ctx context.Context) (net.Conn, error) { return d.network.Dial(ctx, "", d.socket()) })
	if err != nil {
		d.t.Fatal(err)
	}
	p := &modelDaemon{driver: d, config: c, conn: conn, v2: v2.NewKeyManagementServiceClient(conn), v1: v1beta1.NewKeyManagementServiceClient(conn)}
	p.Daemon = start(cfg, Options{
		Log: slog.New(slog.DiscardHandler), Version: "v1.2.3", Commit: "abc", GoVersion: "go1", Source: source, RuntimeDir: d.dir,
	}, usualTiming(), d.files())
	<-p.Serving()
	return p
}

// A modelDaemon is a daemon that serves one provider, and its API server's connection.
type modelDaemon struct {
	*Daemon

	driver *modelDriver
	config model.Config
	conn   *grpc.ClientConn
	v1     v1beta1.KeyManagementServiceClient
	v2     v2.KeyManagementServiceClient
}

// Kill implements [model.Process]: what the end of the process writes is undone.
func (p *modelDaemon) Kill() {
	left, err := os.ReadFile(p.driver.state())
	hurry, cancel := context.WithCancel(context.Background())
	cancel()
	p.Shutdown(hurry)
	_ = p.conn.Close()
	switch {
	case err == nil:
		err = os.WriteFile(p.driver.state(), left, 0o600)
	case errors.Is(err, fs.ErrNotExist):
		err = os.RemoveAll(p.driver.state())
	}
	if err != nil {
		p.driver.t.Fatal(err)
	}
}

// Reload implements [model.Process]. The daemon tries again by itself what it could not
// serve, so that the file of before is put back.
func (p *modelDaemon) Reload(c model.Config) error {
	err := p.loads(c)
	if err == nil {
		p.config = c
		return nil
	}
	if again := p.loads(p.config); again != nil {
		p.driver.t.Errorf("the configuration of before cannot be loaded: %v", again)
	}
	return err
}

// loads writes a file, and waits until the daemon serves it or says why it does not.
func (p *modelDaemon) loads(c model.Config) error {
	text := p.driver.text(c)
	p.driver.write(text)
	before := p.reloader.state.Load()
	p.Daemon.Reload()
	for {
		time.Sleep(100 * time.Millisecond)
		if now := p.reloader.state.Load(); now != before {
			return now.err
		}
	}
}

// Status implements [model.Process].
func (p *modelDaemon) Status(ctx context.Context) (model.Status, error) {
	r, err := p.v2.Status(ctx, &v2.StatusRequest{})
	if err != nil {
		return model.Status{}, model.FromGRPC(err)
	}
	return model.Status{Healthz: r.GetHealthz(), KeyID: r.GetKeyId()}, nil
}

// Encrypt implements [model.Process].
func (p *modelDaemon) Encrypt(ctx context.Context, plaintext []byte) (model.Written, error) {
	r, err := p.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plaintext, Uid: "u"})
	if err != nil {
		return model.Written{}, model.FromGRPC(err)
	}
	return model.Written{Ciphertext: r.GetCiphertext(), KeyID: r.GetKeyId(), Annotations: r.GetAnnotations()}, nil
}

// Decrypt implements [model.Process].
func (p *modelDaemon) Decrypt(ctx context.Context, s model.Stored) ([]byte, error) {
	if s.V1 {
		r, err := p.v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: s.Ciphertext})
		return bytes.Clone(r.GetPlain()), model.FromGRPC(err)
	}
	r, err := p.v2.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: s.Ciphertext, KeyId: s.KeyID, Annotations: s.Annotations, Uid: "u"})
	return bytes.Clone(r.GetPlaintext()), model.FromGRPC(err)
}

// Health implements [model.Process].
func (p *modelDaemon) Health() model.Health {
	h := p.current.Load().providers[0].provider.Health()
	out := model.Health{Contacted: h.Contacted, KeyID: h.KeyID, State: h.State}
	for _, k := range h.ReadKeys {
		out.ReadKeys = append(out.ReadKeys, model.ReadKey{Key: k.Key, Unlisted: k.Unlisted, State: k.State, Deletion: k.Deletion != nil})
	}
	return out
}
