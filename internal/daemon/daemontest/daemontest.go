// Package daemontest runs a [daemon.Daemon] for a Go test, gone when the test ends.
//
// Only tests import it.
package daemontest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// Start runs a daemon that logs nothing.
func Start(t testing.TB, cfg *config.Config) *daemon.Daemon {
	t.Helper()
	return StartWith(t, cfg, daemon.Options{Log: slog.New(slog.DiscardHandler)})
}

// StartWith runs a daemon with options of the test, but for its version.
func StartWith(t testing.TB, cfg *config.Config, o daemon.Options) *daemon.Daemon {
	t.Helper()
	o.Version, o.Commit, o.GoVersion = "v1", "c", "go"
	d := daemon.Start(cfg, o)
	t.Cleanup(func() {
		hurry, cancel := context.WithCancel(context.Background())
		cancel()
		d.Shutdown(hurry)
	})
	return d
}

// Running starts a daemon with one key of an emulated KMS, and sets the
// environment to that.
func Running(t *testing.T) (s *kmstest.Server, socket, key string) {
	t.Helper()
	s = kmstest.Start(t)
	s.SetEnv(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(Directory(t), "s")
	Start(t, Config(t, "--key="+key, "--listen="+socket, "--health-port=127.0.0.1:0"))
	return s, socket, key
}

// Config reads flags, and nothing of the environment.
func Config(t testing.TB, args ...string) *config.Config {
	t.Helper()
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse(args, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Directory makes a directory whose name is short enough for sockets, which
// t.TempDir's may not be.
func Directory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "aep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
