// Package kmstest runs a [kmsemulator.Emulator] for a Go test: on a loopback
// port, with credentials, gone when the test ends.
//
//	s := kmstest.Start(t)
//	arn, _ := s.CreateKey("us-west-2", kmsemulator.KeyOptions{})
//	s.SetEnv(t) // the SDK's default chain now finds the emulator
//
// Only tests import it.
package kmstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// Region is the Region that SetEnv names.
const Region = "us-west-2"

// A Server is an emulator that listens.
type Server struct {
	*kmsemulator.Emulator

	// URL is the KMS endpoint, such as http://127.0.0.1:40001.
	URL string
	// Credential is one that the emulator knows.
	Credential kmsemulator.Credential
	// CAPEM is the certificate to trust and CAFile a file with it, for
	// AWS_CA_BUNDLE; both are empty without TLS. They are those of Start.
	CAPEM  []byte
	CAFile string

	server      *http.Server
	sts         string
	dir         string
	connections atomic.Int64
	handshakes  atomic.Int64
	certificate atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// Start runs an emulator over plain HTTP until the test ends. At most one
// Options is taken; without Credentials in it, the emulator knows the one pair
// that Server.Credential holds.
func Start(t testing.TB, options ...kmsemulator.Options) *Server {
	t.Helper()
	s := newServer(t, options)
	s.URL = "http://" + run(t, s.server, s.server.Serve)
	return s
}

// StartEmulator serves an emulator that the test has made itself, over plain
// HTTP until the test ends. Its Credential is zero.
func StartEmulator(t testing.TB, e *kmsemulator.Emulator) *Server {
	t.Helper()
	s := around(t, e)
	s.URL = "http://" + run(t, s.server, s.server.Serve)
	return s
}

// StartTLS is Start over TLS, with a certificate of its own for 127.0.0.1 and
// localhost.
func StartTLS(t testing.TB, options ...kmsemulator.Options) *Server {
	t.Helper()
	s := newServer(t, options)
	s.CAPEM = s.ReplaceCertificate(t)
	s.CAFile = filepath.Join(s.dir, "ca.pem")
	if err := os.WriteFile(s.CAFile, s.CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	s.server.TLSConfig = &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate.Load(), nil },
		MinVersion:     tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		VerifyConnection: func(tls.ConnectionState) error {
			s.handshakes.Add(1)
			return nil
		},
	}
	s.URL = "https://" + run(t, s.server, func(l net.Listener) error { return s.server.ServeTLS(l, "", "") })
	return s
}

// Connections returns how many TCP connections the KMS endpoint has accepted.
func (s *Server) Connections() int { return int(s.connections.Load()) }

// Open returns how many TCP connections to the KMS endpoint are open.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Disconnect closes every open connection, whatever it is used for.
func (s *Server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Close()
	}
}

// Handshakes returns how many TLS handshakes it has done, resumed ones included.
func (s *Server) Handshakes() int { return int(s.handshakes.Load()) }

// StopServing closes the KMS endpoint and its connections, as if the host had
// gone. The emulator and its other methods live on.
func (s *Server) StopServing() { _ = s.server.Close() }

// STSURL starts an STS endpoint, once, and returns its address. Not for
// concurrent use.
func (s *Server) STSURL(t testing.TB) string {
	t.Helper()
	if s.sts == "" {
		s.sts = startHandler(t, s.STS())
	}
	return s.sts
}

// StartIMDS starts an instance metadata endpoint and returns its address.
func (s *Server) StartIMDS(t testing.TB) string {
	t.Helper()
	return startHandler(t, s.IMDS())
}

// Env returns environment variables, "NAME=value", with which the default chain
// of an AWS SDK uses the emulator and nothing else of the machine it runs on.
// Values that are empty switch off what the machine may have set.
func (s *Server) Env() []string {
	none := filepath.Join(s.dir, "no-such-file")
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.Credential.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + s.Credential.SecretAccessKey,
		"AWS_SESSION_TOKEN=" + s.Credential.SessionToken,
		"AWS_REGION=" + Region,
		"AWS_ENDPOINT_URL_KMS=" + s.URL,
		"AWS_CA_BUNDLE=" + s.CAFile,
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + none,
		"AWS_SHARED_CREDENTIALS_FILE=" + none,
		"AWS_PROFILE=",
		"AWS_ROLE_ARN=",
		"AWS_WEB_IDENTITY_TOKEN_FILE=",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=",
	}
}

// SetEnv sets Env for the rest of the test, which cannot be parallel then.
func (s *Server) SetEnv(t testing.TB) {
	t.Helper()
	for _, pair := range s.Env() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
}

// Credential returns the pair that Start gives the emulator.
func Credential() kmsemulator.Credential {
	return kmsemulator.Credential{
		AccessKeyID:     "AKIAIOSFODNN7EXAMPLE",
		SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		Principal:       "arn:aws:iam::111122223333:user/tester",
	}
}

func newServer(t testing.TB, options []kmsemulator.Options) *Server {
	t.Helper()
	var o kmsemulator.Options
	switch len(options) {
	case 0:
	case 1:
		o = options[0]
	default:
		t.Fatalf("kmstest: %d Options, want at most one", len(options))
	}
	if len(o.Credentials) == 0 {
		o.Credentials = []kmsemulator.Credential{Credential()}
	}
	e, err := kmsemulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := around(t, e)
	s.Credential = o.Credentials[0]
	return s
}

// around prepares a server for an emulator, and the end of both.
func around(t testing.TB, e *kmsemulator.Emulator) *Server {
	t.Helper()
	s := &Server{Emulator: e, server: e.Server(), dir: t.TempDir(), open: map[net.Conn]struct{}{}}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("closing the emulator: %v", err)
		}
	})
	s.server.ConnState = s.track
	inner := s.server.ConnContext
	s.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		s.connections.Add(1)
		return inner(ctx, c)
	}
	return s
}

func (s *Server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.open[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(s.open, c)
	case http.StateActive, http.StateIdle:
	}
}

func startHandler(t testing.TB, h http.Handler) string {
	t.Helper()
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	return "http://" + run(t, server, server.Serve)
}

// run serves until the test ends; its goroutine ends with the server.
func run(t testing.TB, server *http.Server, serve func(net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().String()
}

// ReplaceCertificate makes new connections meet another certificate, of another
// CA, and returns that CA's. CAPEM and CAFile stay as they are.
func (s *Server) ReplaceCertificate(t testing.TB) (caPEM []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "KMS emulator"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	s.certificate.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv})
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
