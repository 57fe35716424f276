package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// What docs/setup.md creates.
const (
	devRegion = "us-west-2"
	devKeyID  = "1234abcd-12ab-34cd-56ef-1234567890ab"
	devAlias  = "alias/K8sKMSKey"

	devPatience = 30 * time.Second
)

type devFlags struct {
	dir, listen, kmsListen, healthPort, logLevel string
	temporary                                    bool // dir goes with the process
}

func newDev(s Streams) *cobra.Command {
	var f devFlags
	set := pflag.NewFlagSet("dev", pflag.ContinueOnError)
	set.StringVar(&f.dir, "dir", "", "`DIR` that keeps keys and socket between runs; default: a temporary one, removed at the end")
	set.StringVar(&f.listen, "listen", "", "unix `SOCKET` to serve on; default: socket.sock in the directory")
	set.StringVar(&f.kmsListen, "kms-listen", "127.0.0.1:0", "`ADDRESS` of the KMS emulator")
	set.StringVar(&f.healthPort, "health-port", "127.0.0.1:0", "`ADDRESS` of health paths and /metrics")
	set.StringVar(&f.logLevel, "log-level", "warn", "`LEVEL` of the log: debug, info, warn or error")
	cmd := &cobra.Command{Use: "dev [--dir DIR]", Short: "try it out: the same, over a KMS emulator"}
	cmd.Flags().AddFlagSet(set)
	offer(set, "log-level", config.LogLevels()...)
	help := func() {
		printHelp(s, help{
			about:    "Runs a KMS emulator and the plugin in one process. Not for data that matters.",
			usage:    []string{"dev [flags]"},
			examples: []string{"dev", "dev --dir=/var/tmp/kms --listen=/var/tmp/kms.sock"},
			exits:    "0 ended by a signal, 1 failed, 2 wrong usage.",
			flags:    set,
		})
	}
	return parsed(cmd, help, func(ctx context.Context, args []string) error {
		mistakes, err := f.parse(set, args)
		switch {
		case err != nil:
			return err
		case len(mistakes) > 0:
			return mistakes
		}
		return dev(ctx, s, f)
	})
}

// parse reads the command line, and finds every mistake before anything is made.
func (f *devFlags) parse(set *pflag.FlagSet, args []string) (config.Mistakes, error) {
	err := config.ParseArgs(set, args)
	mistakes, ok := errors.AsType[config.Mistakes](err)
	if err != nil && !ok {
		return nil, err
	}
	tried := *f
	if tried.dir == "" {
		tried.dir = filepath.Join(os.TempDir(), tempName+"0123456789")
	}
	_, err = tried.config(&devEmulator{key: devAlias, url: "http://127.0.0.1"})
	found, _ := errors.AsType[config.Mistakes](err)
	for _, m := range found {
		if m.Field == "--listen" && f.listen == "" {
			m.Field = "--dir"
		}
		mistakes = append(mistakes, m)
	}
	if _, _, err := net.SplitHostPort(f.kmsListen); err != nil {
		mistakes = append(mistakes, config.Mistake{Field: "--kms-listen", Text: fmt.Sprintf("%q is no address: want HOST:PORT", f.kmsListen)})
	}
	return mistakes, nil
}

const tempName = "aws-encryption-provider-dev-"

// dev runs emulator and daemon until a signal ends them.
func dev(ctx context.Context, s Streams, f devFlags) error {
	if f.dir == "" {
		dir, err := os.MkdirTemp("", tempName)
		if err != nil {
			return fmt.Errorf("making a temporary directory: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		f.dir, f.temporary = dir, true
	} else if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of --dir: %w", err)
	}
	if err := leaveAWS(); err != nil {
		return err
	}
	emulator, err := startEmulator(ctx, f)
	if err != nil {
		return err
	}
	defer emulator.stop()
	cfg, err := f.config(emulator)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log, closeLog := newLogger(s, cfg.Log, level)
	defer closeLog()
	logStart(log, cfg)
	d := daemon.Start(cfg, daemonOptions(log)) //nolint:contextcheck // Shutdown ends it
	tried := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	var trying sync.WaitGroup
	defer trying.Wait()
	defer cancel()
	trying.Go(func() {
		took, err := roundTrip(ctx, d, cfg.Providers[0].Listen)
		if err == nil {
			f.introduce(s, cfg, emulator, healthAddress(ctx, d), took)
		}
		tried <- err
	})
	return wait(s, d, cfg, log, level, tried) //nolint:contextcheck // a signal ends it
}

// leaveAWS makes sure that no setting of the user's reaches AWS from here, or
// keeps the emulator from being reached.
func leaveAWS() error {
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, config.EnvPrefix) {
			continue
		}
		if err := os.Unsetenv(name); err != nil {
			return fmt.Errorf("clearing %s: %w", name, err)
		}
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "dev", "AWS_SECRET_ACCESS_KEY": "dev", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "NO_PROXY": "*", "no_proxy": "*",
	} {
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

func (f *devFlags) config(e *devEmulator) (*config.Config, error) {
	listen := f.listen
	if listen == "" {
		listen = filepath.Join(f.dir, "socket.sock")
	}
	if !strings.HasPrefix(listen, "@") {
		path, err := filepath.Abs(config.SocketPath(listen))
		if err != nil {
			return nil, fmt.Errorf("finding the socket's path: %w", err)
		}
		listen = path
	}
	none := func(string) (string, bool) { return "", false }
	args := []string{
		"--key=" + e.key, "--region=" + devRegion, "--listen=" + listen, "--kms-endpoint=" + e.url,
		"--health-port=" + f.healthPort, "--log-level=" + f.logLevel, "--log-format=text",
	}
	if strings.HasPrefix(listen, "@") { // a file's mode would say the same
		args = append(args, fmt.Sprintf("--allow-uid=%d", os.Getuid()))
	}
	return config.NewFlags(pflag.NewFlagSet("dev", pflag.ContinueOnError)).Parse(args, none)
}

type devEmulator struct {
	key, url string
	alias    string // what there is to say of devAlias
	example  string // name of a key that a client may ask for
	stop     func()
}

// aliased says what the guide's create-alias would find: where the alias is there,
// KMS refuses to make it again.
func (e *devEmulator) aliased(target string) {
	switch target {
	case e.key:
		e.alias, e.example = devAlias+", there already: skip create-alias, or give it another name", devAlias
	case "":
		e.alias, e.example = "none: "+devAlias+" was deleted", e.key
	default:
		e.alias, e.example = devAlias+", there already, of "+target, devAlias
	}
}

// startEmulator runs the emulator, with the guide's key and alias in it.
func startEmulator(ctx context.Context, f devFlags) (*devEmulator, error) {
	e, err := kmsemulator.New(kmsemulator.Options{Dir: filepath.Join(f.dir, "kms")})
	if err != nil {
		return nil, fmt.Errorf("starting the KMS emulator: %w", err)
	}
	key := "arn:aws:kms:" + devRegion + ":111122223333:key/" + devKeyID
	if !e.HasKey(key) {
		if key, err = e.CreateKey(devRegion, kmsemulator.KeyOptions{KeyID: devKeyID}); err == nil {
			err = e.CreateAlias(devRegion, devAlias, key)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("creating the key: %w", err), e.Close())
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.kmsListen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening for the KMS emulator: %w", err), e.Close())
	}
	server := e.Server()
	done := make(chan struct{})
	go func() { // ends with the server, in stop
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return // the plugin's own health says what that means
		}
	}()
	started := &devEmulator{key: key, url: "http://" + reachable(l.Addr().String()), stop: func() {
		_ = server.Close()
		<-done
		_ = e.Close()
	}}
	started.aliased(e.AliasTarget(devRegion, devAlias))
	return started, nil
}

// roundTrip encrypts and decrypts over the socket, as an API server would, once
// it is this process's: its holder may still be another one.
func roundTrip(ctx context.Context, d *daemon.Daemon, path string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, devPatience)
	defer cancel()
	select {
	case <-d.Serving():
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for the socket: %w", ctx.Err())
	}
	conn, err := unixsocket.Connect(path)
	if err != nil {
		return 0, fmt.Errorf("making a client: %w", err)
	}
	defer func() { _ = conn.Close() }()
	client := v2.NewKeyManagementServiceClient(conn)
	if _, err := client.Status(ctx, &v2.StatusRequest{}, grpc.WaitForReady(true)); err != nil {
		return 0, fmt.Errorf("asking for Status over the socket: %w", err)
	}
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // never fails, by its contract
	start := time.Now()
	sealed, err := client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed, Uid: "dev"})
	if err != nil {
		return 0, fmt.Errorf("encrypting over the socket: %w", err)
	}
	opened, err := client.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "dev"})
	if err != nil {
		return 0, fmt.Errorf("decrypting over the socket: %w", err)
	}
	if !bytes.Equal(opened.Plaintext, seed) {
		return 0, errors.New("what came back over the socket is not what went in")
	}
	return time.Since(start), nil
}

// healthAddress waits a moment for the health port, which starts beside the
// sockets.
func healthAddress(ctx context.Context, d *daemon.Daemon) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for d.HealthAddress() == "" && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return d.HealthAddress()
}

// reachable is an address that a client on this machine can use where a server
// listens on every one.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// introduce prints what was set up and how to use it.
func (f *devFlags) introduce(s Streams, cfg *config.Config, e *devEmulator, health string, took time.Duration) {
	if health == "" {
		health = "(the port is taken; trying again)"
	} else {
		health = fmt.Sprintf("http://%[1]s/readyz, http://%[1]s/metrics", reachable(health))
	}
	state := f.dir
	if f.temporary {
		state += ", removed at the end; --dir keeps it"
	}
	fmt.Fprintf(s.Out, `The plugin runs over a KMS emulator: real keys, no AWS. Not for data that matters.

  socket      %[1]s
  key         %[2]s
  alias       %[3]s
  KMS         %[4]s
  health      %[5]s
  state       %[8]s
  round trip  32 bytes encrypted and decrypted over the socket in %[6]s

For an API server on this machine, --encryption-provider-config with:

apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
      - secrets
    providers:
      - kms:
          apiVersion: v2
          name: aws-encryption-provider
          endpoint: unix://%[1]s
          timeout: 3s
      - identity: {}

The emulator speaks to any AWS client:

  AWS_ACCESS_KEY_ID=dev AWS_SECRET_ACCESS_KEY=dev aws kms describe-key --key-id %[9]s --region %[7]s --endpoint-url %[4]s

Ctrl-C ends it.
`, cfg.Providers[0].Listen, e.key, e.alias, e.url, health, took.Round(10*time.Microsecond), devRegion, state, e.example)
}
