package daemon

import (
	"os"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// runHanded starts a daemon that listens on path, with sockets handed over.
func runHanded(t testing.TB, path string, sockets ...*os.File) *running {
	t.Helper()
	kms := kmstest.Start(t)
	key, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, kms: kms, key: key, path: path, log: &testkit.LogBook{}}
	cfg := parse(t, []string{"--key=" + key, "--listen=" + path, "--kms-endpoint=" + kms.URL, "--health-port=127.0.0.1:0"})
	r.Daemon = start(cfg, Options{Log: r.log.Logger(), Version: "v1.2.3", Commit: "abc", GoVersion: "go1", Sockets: sockets}, shortTiming(), usualFiles())
	t.Cleanup(r.shutdown)
	return r
}

func TestServesASocketThatWasHandedOver(t *testing.T) {
	for name, c := range map[string]struct {
		mode   os.FileMode
		warned bool
	}{"closed to others": {0o600, false}, "open to others": {0o666, true}} {
		t.Run(name, func(t *testing.T) {
			path := testkit.Directory(t) + "/s"
			r := runHanded(t, path, testkit.HandOver(t, path, c.mode)).serving()
			r.encrypts(r.client())
			if got := r.log.Has("handed over with another mode"); got != c.warned {
				t.Errorf("warned of the mode: %t, want %t\n%s", got, c.warned, r.log)
			}
			r.shutdown()
			if !r.exists() {
				t.Error("the socket's file went with the process: it is the service manager's")
			}
		})
	}
}

func TestSocketThatWasHandedOverForNothingIsSaid(t *testing.T) {
	dir := testkit.Directory(t)
	r := runHanded(t, dir+"/used", testkit.HandOver(t, dir+"/unused", 0o600)).ready()
	testkit.Until(t, "a warning of it", func() bool { return r.log.Has("nobody answers on a socket that was handed over") })
	r.encrypts(r.client())
}

func TestWhatIsNoListeningUnixSocketIsSaidAndLeft(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	r := runHanded(t, testkit.Directory(t)+"/s", file).ready()
	if !r.log.Has("is no socket to serve on") {
		t.Errorf("it said nothing of /dev/null:\n%s", r.log)
	}
	r.encrypts(r.client())
}

func TestHandedOverSocketWhoseFileIsRemovedIsPutBack(t *testing.T) {
	for name, early := range map[string]bool{"before the start": true, "while serving": false} {
		t.Run(name, func(t *testing.T) {
			path := testkit.Directory(t) + "/s"
			file := testkit.HandOver(t, path, 0o600)
			remove := func() {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if early {
				remove()
			}
			r := runHanded(t, path, file).serving()
			if !early {
				remove()
				testkit.Until(t, "the file is back", r.exists)
			}
			r.serving()
			r.encrypts(r.client())
			if !r.log.Has("restart its socket unit") {
				t.Errorf("it did not say to restart the socket unit:\n%s", r.log)
			}
		})
	}
}
