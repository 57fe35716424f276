package cli

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

func TestASignalEndsAStartWhoseFileHangs(t *testing.T) {
	t.Parallel()
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		synctest.Test(t, func(t *testing.T) {
			signals := make(chan os.Signal, 2)
			signals <- syscall.SIGUSR1 // ends nothing
			signals <- sig
			hung := make(chan struct{})
			defer close(hung)
			_, ended, err := parseUntilEnded(Streams{Signals: signals}, func() (*config.Config, error) {
				<-hung
				return nil, errors.New("late")
			})
			if !ended || err != nil {
				t.Errorf("%s: ended %t, %v; want the start to be over", sig, ended, err)
			}
		})
	}
}

// Without a file SIGHUP ends the process; with one it means the file.
func TestSIGHUPThatComesWithTheStartCounts(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]bool{"": true, "config.yaml": false} {
		synctest.Test(t, func(t *testing.T) {
			signals := make(chan os.Signal, 1)
			signals <- syscall.SIGHUP
			_, ended, err := parseUntilEnded(Streams{Signals: signals}, func() (*config.Config, error) {
				time.Sleep(time.Second)
				return &config.Config{File: file}, nil
			})
			if ended != want || err != nil {
				t.Errorf("with the file %q: ended %t, %v; want %t", file, ended, err, want)
			}
		})
	}
}

func TestAServiceManagerThatDoesNotListenHoldsUpNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manager.Close() }()
	for err == nil { // until its queue is full
		err = notify(path, "STATUS=full")
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the limit", err)
	}
}

// The daemon has five seconds and a half of the six.
func TestLastWordsFitIntoTheTimeOfTheEnd(t *testing.T) {
	t.Parallel()
	if most := lastWord + lineFlush; most > 400*time.Millisecond {
		t.Errorf("they may take %s, want 400ms at most", most)
	}
}
