package awskms_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A peer is the other side of connections, byte by byte.
type peer struct {
	address string

	mu       sync.Mutex
	accepted int
	open     int
}

// startPeer runs f for each connection, which is closed when f returns. f reads to
// notice the end of a connection.
func startPeer(t *testing.T, f func(net.Conn)) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{address: l.Addr().String()}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.count(1, 1)
			wait.Go(func() {
				defer p.count(0, -1)
				defer func() { _ = conn.Close() }()
				f(conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wait.Wait() })
	return p
}

func (p *peer) count(accepted, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted += accepted
	p.open += open
}

func (p *peer) opened() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

func (p *peer) acceptedSoFar() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// silent reads until the other side closes.
func silent(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// says answers each request with a text, and then again and again with more.
func says(text, more string, pause time.Duration) func(net.Conn) {
	return func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		_, err = io.WriteString(conn, text)
		for more != "" && err == nil {
			time.Sleep(pause)
			_, err = io.WriteString(conn, more)
		}
		silent(conn)
	}
}

const okStart = "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n"

// strangers are what may stand at an endpoint instead of an AWS service.
func strangers() map[string]func(net.Conn) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\n"
	const pause = 5 * time.Millisecond
	return map[string]func(net.Conn){
		"101":                            says(switching+"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "", 0),
		"101 that goes on":               says(switching+"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "more", pause),
		"101 without an upgrade":         says(switching+"\r\n", "", 0),
		"199":                            says("HTTP/1.1 199 Hm\r\n\r\n", "", 0),
		"1xx without end":                says("HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n", pause),
		"1xx, a flood":                   says("HTTP/1.1 103 Early Hints\r\n\r\n", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", 100), 0),
		"headers without end":            says(okStart, "A: b\r\n", pause),
		"headers, a flood":               says(okStart, "A: "+strings.Repeat("b", 1000)+"\r\n", 0),
		"a header without end":           says(okStart+"A: ", "b", pause),
		"a body that trickles":           says(okStart+"Content-Length: 1000\r\n\r\n{", " ", pause),
		"a body of chunks without end":   says(okStart+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", pause),
		"a body of chunks, a flood":      says(okStart+"Transfer-Encoding: chunked\r\n\r\n", "400\r\n"+strings.Repeat(" ", 1024)+"\r\n", 0),
		"a body until the end, a flood":  says(okStart+"Connection: close\r\n\r\n", strings.Repeat(" ", 1024), 0),
		"a body that is said to be long": says(okStart+"Content-Length: 99999999999\r\n\r\n{", "", 0),
		"a body a byte too long":         says(okStart+"Connection: close\r\n\r\n"+strings.Repeat(" ", 256<<10+1), "", 0),
		"a trailer without end":          says(okStart+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "A: b\r\n", pause),
		"another protocol":               says("SSH-2.0-OpenSSH_9.6\r\n", "", 0),
		"a header that is none":          says(okStart+"no colon\r\n\r\n", "", 0),
		"chunks that are none":           says(okStart+"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "", 0),
		"a body that is no gzip":         says(okStart+"Connection: close\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\nthis is not any gzip", "", 0),
		"silence":                        silent,
		"an answer before the request": func(conn net.Conn) {
			_, _ = io.WriteString(conn, okStart+"Content-Length: 2\r\n\r\n{}")
			silent(conn)
		},
	}
}

// notKMS are those that are told at once from an AWS service.
func notKMS(name string) bool {
	switch name {
	case "101", "101 that goes on", "101 without an upgrade", "1xx, a flood", "headers, a flood",
		"a body of chunks, a flood", "a body until the end, a flood", "a body that is said to be long", "a body a byte too long",
		"another protocol", "a header that is none", "chunks that are none", "a body that is no gzip":
		return true
	}
	return false
}

// Places, goroutines and descriptors are as before, whatever stands there.
func TestNoAnswerHoldsACall(t *testing.T) {
	kmstest.Start(t).SetEnv(t)
	for name, answer := range strangers() {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			p := startPeer(t, answer)
			conns := awskms.NewConnections()
			limit := 600 * time.Millisecond
			if notKMS(name) {
				limit = 10 * time.Minute // and none of it is used
			}
			c := newClient(t, awskms.Options{Connections: conns, Endpoint: "http://" + p.address, Timeout: limit})
			var wait sync.WaitGroup
			for range 20 {
				wait.Go(func() {
					began := time.Now()
					_, err := c.Encrypt(t.Context(), awskms.Call{}, anyKey, secret.Bytes("seed"))
					if err == nil || time.Since(began) > time.Minute {
						t.Errorf("%v after %s, want an error within the limit", err, time.Since(began))
					}
					if code := cause.Of(err).Code; notKMS(name) && code != cause.NotKMS {
						t.Errorf("%v, want %s", err, cause.NotKMS)
					}
				})
			}
			wait.Wait()
			conns.Close()
			eventually(t, "open connections", 0, p.opened)
			eventually(t, "goroutines", before+1, runtime.NumGoroutine) // that of the listener
		})
	}
}

// A longer one is refused, and not cut: what is left may look like an answer.
func TestAnswersAreTakenUpToALength(t *testing.T) {
	_, key := start(t)
	body := `{"CiphertextBlob":"AQID","KeyId":"` + key + `"}`
	body += strings.Repeat(" ", 256<<10-len(body))
	mustSeal(t, newClient(t, awskms.Options{Endpoint: serveText(t, body)}), key)
	c := newClient(t, awskms.Options{Endpoint: serveText(t, body+" ")})
	if _, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.NotKMS {
		t.Errorf("a byte more: %v, want %s", err, cause.NotKMS)
	}
	chunked := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, body)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, " ")
	})
	if _, err := newClient(t, awskms.Options{Endpoint: chunked}).Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.NotKMS {
		t.Errorf("a byte more, in chunks: %v, want %s", err, cause.NotKMS)
	}
}

// Without Close nothing stays either, but what a well endpoint would have as well.
func TestAnEndpointThatIsWellAgainIsUsedAgain(t *testing.T) {
	s, key := start(t)
	var mu sync.Mutex
	strange := true
	emulator := strings.TrimPrefix(s.URL, "http://")
	p := startPeer(t, func(conn net.Conn) {
		mu.Lock()
		now := strange
		mu.Unlock()
		if now {
			strangers()["101 that goes on"](conn)
			return
		}
		forward(conn, emulator)
	})
	c := newClient(t, awskms.Options{Endpoint: "http://" + p.address})
	for range 50 {
		if _, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.NotKMS || !strings.Contains(err.Error(), "101") {
			t.Fatalf("got %v, want %s that names the status", err, cause.NotKMS)
		}
	}
	eventually(t, "open connections", 0, p.opened)
	mu.Lock()
	strange = false
	mu.Unlock()
	mustSeal(t, c, key)
}

// forward copies between a connection and a new one until one ends.
func forward(conn net.Conn, address string) {
	other, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(conn, other); _ = conn.Close() }()
	_, _ = io.Copy(other, conn)
	_ = other.Close()
	<-done
}

// exceptTo leads all requests but those to one server by a proxy: net/http reads the
// environment's once in a process.
func exceptTo(t *testing.T, server, proxy string) func(*http.Request) (*url.URL, error) {
	t.Helper()
	to, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *http.Request) (*url.URL, error) {
		if r.URL.Host == strings.TrimPrefix(server, "http://") {
			return nil, nil //nolint:nilnil // net/http's own word for no proxy
		}
		return to, nil
	}
}

// A proxy or a TLS handshake that hangs holds nothing longer than connections take
// to be opened.
func TestNoHangingDialIsKept(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]struct{ endpoint, proxy string }{
		"TLS":         {"https://", ""},
		"CONNECT":     {"https://kms.invalid", "http://"},
		"HTTPS proxy": {"https://kms.invalid", "https://"},
		"SOCKS":       {"https://kms.invalid", "socks5://"},
		"SOCKS, HTTP": {"http://kms.invalid", "socks5://"},
	} {
		t.Run(name, func(t *testing.T) {
			s, key := startBeside(t)
			p := startPeer(t, silent)
			conns := awskms.NewConnections()
			if to.proxy == "" {
				to.endpoint += p.address
			} else {
				conns.Proxy = exceptTo(t, s.URL, to.proxy+p.address)
			}
			mustSeal(t, newClient(t, awskms.Options{Connections: conns, Endpoint: s.URL}), key) // reads the settings
			client := newClient(t, awskms.Options{Connections: conns, Endpoint: to.endpoint, Timeout: 300 * time.Millisecond})
			before := p.acceptedSoFar()
			for range 3 {
				if _, err := client.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.TimedOut {
					t.Errorf("%v, want %s", err, cause.TimedOut)
				}
			}
			if n := p.acceptedSoFar() - before; n < 3 {
				t.Errorf("%d connections, want one for each call at least", n)
			}
			eventually(t, "connections that hang", 0, p.opened)
			conns.Close()
			eventually(t, "open connections", 0, s.Open)
		})
	}
}

// By a proxy that is well, connections are kept for as long as without one.
func TestConnectionsByAProxyAreKept(t *testing.T) {
	s, key := start(t)
	other := kmstest.StartTLS(t)
	t.Setenv("AWS_CA_BUNDLE", other.CAFile)
	arn, err := other.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	proxy := startPeer(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		forward(conn, strings.TrimPrefix(other.URL, "https://"))
	})
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	conns.Proxy = exceptTo(t, s.URL, "http://"+proxy.address)
	mustSeal(t, newClient(t, awskms.Options{Connections: conns, Endpoint: s.URL}), key)
	c := newClient(t, awskms.Options{Connections: conns, Endpoint: strings.Replace(other.URL, "127.0.0.1", "localhost", 1), Timeout: time.Minute})
	mustSeal(t, c, arn)
	settled(t, proxy.opened)
	before := proxy.acceptedSoFar()
	time.Sleep(4500 * time.Millisecond) // a proxy has 4 s to open one
	mustSeal(t, c, arn)
	if n := proxy.acceptedSoFar() - before; n > 0 || proxy.opened() == 0 {
		t.Errorf("%d new connections, %d open; want those of before", n, proxy.opened())
	}
}

// Whoever gives credentials or the Region may be a stranger as well.
func TestNoAnswerHoldsALookUp(t *testing.T) {
	_, key := start(t)
	for name, answer := range strangers() {
		if !notKMS(name) {
			continue // has the time limits of the SDK's own calls
		}
		p := startPeer(t, answer)
		for source, env := range map[string]map[string]string{
			"container": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://" + p.address + "/"},
			"IMDS":      {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://" + p.address},
			"Region":    {"AWS_REGION": "", "AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://" + p.address},
			"STS":       {"AWS_ENDPOINT_URL_STS": "http://" + p.address},
		} {
			t.Run(source+", "+name, func(t *testing.T) {
				o := awskms.Options{Timeout: 20 * time.Second}
				if source == "STS" {
					o.AssumeRoleARN = "arn:aws:iam::111122223333:role/r"
				} else {
					t.Setenv("AWS_ACCESS_KEY_ID", "")
					t.Setenv("AWS_SECRET_ACCESS_KEY", "")
				}
				for k, v := range env {
					t.Setenv(k, v)
				}
				o.Connections = awskms.NewConnections()
				began := time.Now()
				_, err := newClient(t, o).Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
				if took := time.Since(began); cause.Of(err).Class() == "" || cause.Of(err).Code == cause.TimedOut || took > 9*time.Second {
					t.Errorf("%v after %s, want what is wrong with credentials before the limit of a look-up", err, took)
				}
				want := cause.NotASource
				if source == "Region" {
					want = cause.RegionUnknown
				}
				if code := cause.Of(err).Code; code != want {
					t.Errorf("%v, want %s", err, want)
				}
				o.Connections.Close()
				eventually(t, "open connections", 0, p.opened)
			})
		}
	}
}

// What failed is said alike whether there is another attempt or not.
func TestFailureIsSaidAlikeWithoutAnotherAttempt(t *testing.T) {
	kmstest.Start(t).SetEnv(t)
	p := startPeer(t, func(conn net.Conn) {
		if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(conn, okStart+"Content-Length: 1000\r\n\r\n{")
		}
	})
	c := newClient(t, awskms.Options{Endpoint: "http://" + p.address, Retry: awskms.RetryBudget{Tokens: 20}})
	said := map[string]bool{}
	for range 5 {
		_, err := c.Encrypt(t.Context(), awskms.Call{}, anyKey, secret.Bytes("seed"))
		said[cause.Of(err).Said] = true
	}
	if len(said) != 1 || !said["unexpected EOF"] {
		t.Errorf("said %v, want the same in each call", said)
	}
}
