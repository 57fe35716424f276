package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// stalled starts the program with a standard error that is full and that nobody
// reads.
func stalled(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	size, err := unix.FcntlInt(w.Fd(), unix.F_GETPIPE_SZ, 0)
	if err == nil {
		_, err = w.Write(make([]byte, size))
	}
	if err != nil {
		t.Fatal(err)
	}
	p := command(t, env, args...)
	p.cmd.Stderr = w
	p.start()
	_ = w.Close()
	return p
}

func TestStalledReaderOfTheLogHoldsUpNothing(t *testing.T) {
	t.Parallel()
	s := kmstest.Start(t)
	listen := socketIn(t)
	address := freeAddress(t)
	p := stalled(t, s.Env(), "--key="+key(t, s), "--listen="+listen, "--health-port="+address, "--log-level=debug")
	secret := []byte("of a full pipe")
	for range 50 {
		if got := open(t, listen, seal(t, listen, secret)); !bytes.Equal(got, secret) {
			t.Fatalf("%q went in, %q came back", secret, got)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	status, err := v2.NewKeyManagementServiceClient(dial(t, listen)).Status(ctx, &v2.StatusRequest{}, grpc.WaitForReady(true))
	if err != nil || status.Healthz != "ok" {
		t.Errorf("Status: %v, %v; want ok", status, err)
	}
	if code, body := fetch(t, "http://"+address+"/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d %s, want 200", code, body)
	}
	p.signal(syscall.SIGUSR1)
	p.signal(syscall.SIGTERM)
	began := time.Now()
	p.exits(0)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ended after %s", took)
	}
	if exists(listen) {
		t.Error("the socket outlives the process")
	}
}

func TestStalledReaderDoesNotHoldUpAFailure(t *testing.T) {
	t.Parallel()
	listen := socketIn(t)
	if err := os.Mkdir(listen, 0o700); err != nil {
		t.Fatal(err)
	}
	stalled(t, nil, "--key=alias/k", "--region=us-west-2", "--listen="+listen, "--health-port=127.0.0.1:0").exits(1)
	stalled(t, nil, "--no-such-flag").exits(2)
}

// The promise is six seconds after the first signal, and one after a second. A
// machine that is busy has more here.
func TestEndsInTimeWhileKMSHangsAndNobodyReadsTheLog(t *testing.T) {
	for name, signals := range map[string]int{"after the calls' time": 1, "at once by a second signal": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kmstest.Start(t)
			listen := socketIn(t)
			p := stalled(t, s.Env(), "--key="+key(t, s), "--listen="+listen, "--health-port=127.0.0.1:0", "--kms-timeout=10m")
			seal(t, listen, []byte("k"))
			s.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
			before := s.Calls("Encrypt")
			go func() { // ends with the process
				_, _ = v2.NewKeyManagementServiceClient(dial(t, listen)).Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: []byte("k")})
			}()
			until(t, "KMS has the call", func() bool { return s.Calls("Encrypt") > before })
			began := time.Now()
			for range signals {
				p.signal(syscall.SIGTERM)
				until(t, "it has begun to end", func() bool { return !exists(listen) || !p.running() })
			}
			p.exits(0)
			took := time.Since(began)
			t.Logf("it ended after %s", took)
			if took > patience/2 || signals == 1 && took < 5*time.Second {
				t.Errorf("it ended after %s", took)
			}
			if exists(listen) {
				t.Error("the socket outlives the process")
			}
		})
	}
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
