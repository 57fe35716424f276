package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A book is a stream that a test reads while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A serving process of a test, in the test's own.
type serving struct {
	t       *testing.T
	signals chan os.Signal
	log     *book
	code    chan int
}

func serve(t *testing.T, args ...string) *serving {
	t.Helper()
	s := &serving{t: t, signals: make(chan os.Signal), log: &book{}, code: make(chan int, 1)}
	lookup := func(name string) (string, bool) { return "set", strings.HasPrefix(name, "GO") } // so that the runtime is not tuned
	go func() {
		s.code <- cli.Main(t.Context(), args, cli.Streams{Out: s.log, Err: s.log, LookupEnv: lookup, Signals: s.signals})
	}()
	return s
}

func (s *serving) logs(want string) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.log.String(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("no %s in the log:\n%s", want, s.log)
		}
	}
}

func (s *serving) ends(want int) {
	s.t.Helper()
	select {
	case code := <-s.code:
		if code != want {
			s.t.Errorf("exit code %d, want %d:\n%s", code, want, s.log)
		}
	case <-time.After(time.Minute):
		s.t.Fatalf("it does not end:\n%s", s.log)
	}
}

// served makes what a process needs to serve: a key, and a directory for its
// socket.
func served(t *testing.T) (key, dir string) {
	t.Helper()
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	key, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return key, daemontest.Directory(t)
}

func TestSIGHUPLoadsAFileAgainAndEndsNothing(t *testing.T) {
	key, dir := served(t)
	file := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nshutdownDelay: 1s\nproviders:\n- name: aws\n  listen: %s\n  keys:\n  - key: %s\n", filepath.Join(dir, "s"), key)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--config="+file, "--health-port=127.0.0.1:0")
	s.logs(`"msg":"serving"`)
	s.signals <- syscall.SIGHUP
	s.logs(`"msg":"configuration reloaded"`)
	s.signals <- syscall.SIGTERM
	s.logs(`"delay":"1s"`)
	s.signals <- syscall.SIGHUP // is no second signal
	s.ends(cli.Done)
	if strings.Contains(s.log.String(), "second signal") {
		t.Errorf("SIGHUP cut the shutdown short:\n%s", s.log)
	}
}

func TestSIGHUPEndsAProcessWithoutAFile(t *testing.T) {
	key, dir := served(t)
	s := serve(t, "--key="+key, "--listen="+filepath.Join(dir, "s"), "--health-port=127.0.0.1:0")
	s.logs(`"msg":"serving"`)
	s.signals <- syscall.SIGHUP
	s.ends(cli.Done)
	if _, err := os.Lstat(filepath.Join(dir, "s")); err == nil {
		t.Error("the socket is still there")
	}
}
