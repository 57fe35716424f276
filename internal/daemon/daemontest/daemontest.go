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
	d := daemon.Start(cfg, daemon.Options{Log: slog.New(slog.DiscardHandler), Version: "v1", Commit: "c", GoVersion: "go"})
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
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse(
		[]string{"--key=" + key, "--listen=" + socket, "--health-port=127.0.0.1:0"}, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	Start(t, cfg)
	return s, socket, key
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
