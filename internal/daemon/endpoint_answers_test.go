package daemon

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// A switched endpoint is the emulator, or something else for a while.
type switched struct {
	kms *kmstest.Server
	url string
	is  atomic.Pointer[string] // what is answered instead; nil: the emulator's answer
}

func startSwitched(t *testing.T) *switched {
	t.Helper()
	s := &switched{kms: kmstest.Start(t)}
	server := s.kms.Server()
	emulator := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := s.is.Load()
		if text == nil {
			emulator.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, *text)
		_, _ = io.Copy(io.Discard, conn) // until the other side closes it
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	s.url = "http://" + l.Addr().String()
	return s
}

// burst makes as many calls at once as a socket admits, and returns their errors.
func (r *running) burst(n int) []string {
	r.t.Helper()
	c := r.client()
	var mu sync.Mutex
	var said []string
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
			defer cancel()
			_, err := c.Encrypt(ctx, &v2.EncryptRequest{Plaintext: bytes.Repeat([]byte("k"), 32)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				said = append(said, "no error")
				return
			}
			said = append(said, err.Error())
		})
	}
	wait.Wait()
	return said
}

// However many calls meet it, each gives back its place; the cause is named; and
// the end is in time.
func TestWhateverStandsAtTheEndpointNoPlaceIsLost(t *testing.T) {
	t.Parallel()
	const most = 1024 // that a socket admits
	for name, c := range map[string]struct{ answer, timeout, code string }{
		"101":                    {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "1m", "KMS0207"},
		"headers that never end": {"HTTP/1.1 200 OK\r\nA: b\r\n", "2500ms", "KMS0203"},
		"a body that never ends": {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "2500ms", "KMS0203"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSwitched(t)
			r := run(t, setup{kms: s.kms, endpoint: s.url, args: []string{"--kms-timeout=" + c.timeout}}).ready()
			r.encrypts(r.client())
			before := runtime.NumGoroutine()
			s.is.Store(&c.answer)
			for range 2 { // the second finds every place free
				named := 0
				for _, said := range r.burst(most) {
					if strings.Contains(said, c.code) {
						named++
					} else if !strings.Contains(said, "KMS02") && !strings.Contains(said, "KMS0502") {
						t.Fatalf("got %s, want %s", said, c.code)
					}
				}
				// On a slow machine some cannot even connect in time.
				if named < most/4 {
					t.Errorf("%d of %d calls say %s", named, most, c.code)
				}
			}
			testkit.Until(t, "/readyz names the cause", func() bool {
				code, body := r.get("/readyz")
				return code != http.StatusOK && strings.Contains(body, c.code)
			})
			s.is.Store(nil)
			r.ready().encrypts(r.client())
			// The tests beside this one have goroutines as well: what would be left of
			// each call are several.
			testkit.Until(t, "goroutines end", func() bool { return runtime.NumGoroutine() < before+most })
			s.is.Store(&c.answer)
			r.stopped(context.Background(), testkit.Patience)
		})
	}
}
