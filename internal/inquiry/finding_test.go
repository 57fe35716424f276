package inquiry_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/generatedtest"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

var update = flag.Bool("update", false, "write docs/status-codes.md")

func TestPageOfCodesIsCurrent(t *testing.T) {
	generatedtest.Current(t, "../../docs/status-codes.md", inquiry.Page(), *update)
}

// A code means one thing, whoever finds it.
func TestCodesAreTheirOwnOrTheDoctors(t *testing.T) {
	t.Parallel()
	taken := map[string]string{}
	for _, c := range cause.Codes() {
		taken[c.Info().ID] = "a failing call"
	}
	doctors := map[string]string{}
	for _, c := range doctor.Codes() {
		doctors[c.Info().ID] = c.Info().What
	}
	for _, c := range inquiry.Codes() {
		info := c.Info()
		if info.What == "" || info.Next == "" || taken[info.ID] != "" {
			t.Errorf("%+v: incomplete, or taken by %q", info, taken[info.ID])
		}
		if what := doctors[info.ID]; what != "" && what != info.What || what == "" && !strings.HasPrefix(info.ID, "KMS08") {
			t.Errorf("%s is %q, the doctor's is %q", info.ID, info.What, what)
		}
		taken[info.ID] = info.What
	}
}

// listen serves a socket with what the test does to each connection.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	socket := filepath.Join(daemontest.Directory(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return socket
}

func TestWhatStandsAtThePathIsToldInOurWords(t *testing.T) {
	t.Parallel()
	dir := daemontest.Directory(t)
	file, dead := filepath.Join(dir, "file"), filepath.Join(dir, "dead")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	link, loop, messages := filepath.Join(dir, "link"), filepath.Join(dir, "loop"), filepath.Join(dir, "messages")
	if err := errors.Join(os.Symlink("file", link), os.Symlink("loop", loop)); err != nil {
		t.Fatal(err)
	}
	datagrams, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: messages, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = datagrams.Close() }()
	for name, c := range map[string]struct {
		socket string
		want   inquiry.Finding
	}{
		"nothing":              {filepath.Join(dir, "none"), inquiry.Finding{Code: "KMS0801", Cause: "nothing is at " + filepath.Join(dir, "none"), Next: "start the program, or give its --listen"}},
		"nothing, deeper":      {filepath.Join(dir, "no", "s"), inquiry.Finding{Code: "KMS0801", Cause: "nothing is at " + filepath.Join(dir, "no", "s"), Next: "start the program, or give its --listen"}},
		"nothing, abstract":    {"@aep-inquiry-none", inquiry.Finding{Code: "KMS0801", Cause: "nothing is at @aep-inquiry-none", Next: "start the program, or give its --listen"}},
		"a file":               {file, inquiry.Finding{Code: "KMS0706", Cause: "something stands at the socket's path that is no socket (" + file + ")"}},
		"a directory":          {dir, inquiry.Finding{Code: "KMS0706", Cause: "something stands at the socket's path that is no socket (" + dir + ")"}},
		"a socket left over":   {dead, inquiry.Finding{Code: "KMS0708", Cause: "a socket is there that no process serves (" + dead + ")", Next: "find out why the program ended, and start it with the configuration that it had: it replaces the socket"}},
		"below a file":         {filepath.Join(file, "s"), inquiry.Finding{Code: "KMS0707", Cause: "no socket can be made or found at the path (" + file + " is no directory)"}},
		"by a link to a file":  {link, inquiry.Finding{Code: "KMS0706", Cause: "something stands at the socket's path that is no socket (" + link + ")"}},
		"a socket of messages": {messages, inquiry.Finding{Code: "KMS0706", Cause: "something stands at the socket's path that is no socket (" + messages + " is a socket of another kind)"}},
		"a link to itself":     {loop, inquiry.Finding{Code: "KMS0707", Cause: "no socket can be made or found at the path (too many levels of symbolic links)"}},
		"too long":             {"/" + strings.Repeat("x", 200), inquiry.Finding{Code: "KMS0707", Cause: "no socket can be made or found at the path (it has 201 bytes, and a socket's path may have 107)"}},
		"too long, abstract":   {"@" + strings.Repeat("x", 107), inquiry.Finding{Code: "KMS0707", Cause: "no socket can be made or found at the path (it has 108 bytes, and a socket's path may have 107)"}},
		"closes at once":       {listen(t, func(c net.Conn) { _ = c.Close() }), inquiry.Finding{Code: "KMS0803"}},
		"speaks another tongue": {listen(t, func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
			_ = c.Close()
		}), inquiry.Finding{Code: "KMS0803"}},
	} {
		r := inquiry.Ask(t.Context(), inquiry.Question{Socket: c.socket, Timeout: 5 * time.Second})
		if len(r.Findings) != 1 || len(r.Problems) != 1 || r.OK || r.Grace != nil {
			t.Errorf("%s: %+v", name, r)
			continue
		}
		got := r.Findings[0]
		if got.Code != c.want.Code || c.want.Cause != "" && got.Cause != c.want.Cause || c.want.Next != "" && got.Next != c.want.Next || got.Next == "" {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		for _, text := range append(r.Problems, got.Cause, got.Next) {
			if strings.Contains(text, "rpc error") || strings.Contains(text, "transport") || strings.Contains(text, "connection error") {
				t.Errorf("%s: gRPC's words: %q", name, text)
			}
		}
	}
}

// A stranger is a plugin that is not ours.
type stranger struct {
	v2.UnimplementedKeyManagementServiceServer

	healthz string
	err     error
}

func (s *stranger) Status(context.Context, *v2.StatusRequest) (*v2.StatusResponse, error) {
	return &v2.StatusResponse{Version: "v2", Healthz: s.healthz, KeyId: "k"}, s.err
}

func (s *stranger) Encrypt(_ context.Context, r *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	return &v2.EncryptResponse{Ciphertext: r.GetPlaintext(), KeyId: "k"}, nil
}

func (s *stranger) Decrypt(_ context.Context, r *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	return &v2.DecryptResponse{Plaintext: r.GetCiphertext()}, nil
}

func strange(t *testing.T, s *stranger) string {
	t.Helper()
	socket := filepath.Join(daemontest.Directory(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	v2.RegisterKeyManagementServiceServer(server, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return socket
}

func TestWhatThePluginSaysIsTakenApart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want inquiry.Finding
	}{
		"an error of this program": {
			(&cause.Error{Code: cause.KeyDisabled, Provider: "0", Op: "Encrypt", Key: "arn:aws:kms:us-west-2:111122223333:key/k", AWSCode: "DisabledException", Said: `it is "off"; really (so)`, RequestID: "r"}).Error(),
			inquiry.Finding{
				Code: "KMS0101", Cause: `Encrypt with arn:aws:kms:us-west-2:111122223333:key/k: the key is disabled (DisabledException, "it is \"off\"; really (so)", request r)`,
				Next: "enable the key: aws kms enable-key --key-id arn:aws:kms:us-west-2:111122223333:key/k --region us-west-2",
			},
		},
		"with a beginning and a note": {
			"since 2026-01-01T00:00:00Z: " + (&cause.Error{Code: cause.Throttled, Op: "Decrypt", Key: "k", Note: "and so"}).Error(),
			inquiry.Finding{
				Code: "KMS0201", Cause: "since 2026-01-01T00:00:00Z: Decrypt with k: " + cause.Throttled.Info().What,
				Next: (&cause.Error{Code: cause.Throttled, Op: "Decrypt", Key: "k"}).Next() + "; and so",
			},
		},
		"a code alone":        {"KMS0302 it is so", inquiry.Finding{Code: "KMS0302", Cause: "it is so", Next: cause.CredentialsExpired.Info().Next}},
		"a code of tomorrow":  {"KMS0399: new; do this", inquiry.Finding{Code: "KMS0399", Cause: "new", Next: "do this"}},
		"a word of its own":   {"not today", inquiry.Finding{Code: "KMS0808", Cause: "the program reports a problem without a code (not today)", Next: "look at its log"}},
		"an unclosed quote":   {`KMS0101: a "b; c`, inquiry.Finding{Code: "KMS0101", Cause: `a "b; c`, Next: (&cause.Error{Code: cause.KeyDisabled}).Next()}},
		"semicolons inside":   {`KMS0101: a (b; c) "d; e"; f; g`, inquiry.Finding{Code: "KMS0101", Cause: `a (b; c) "d; e"`, Next: "f; g"}},
		"a bracket too many":  {`KMS0101: a) b; c`, inquiry.Finding{Code: "KMS0101", Cause: `a) b`, Next: "c"}},
		"an empty healthz":    {"", inquiry.Finding{Code: "KMS0808", Cause: "the program reports a problem without a code", Next: "look at its log"}},
		"something like code": {"KMS01010: x", inquiry.Finding{Code: "KMS0808", Cause: "the program reports a problem without a code (KMS01010: x)", Next: "look at its log"}},
	} {
		r := inquiry.Ask(t.Context(), inquiry.Question{Socket: strange(t, &stranger{healthz: c.text}), Timeout: 5 * time.Second})
		if len(r.Findings) == 0 || r.Findings[0] != c.want {
			t.Errorf("%s: %+v, want %+v", name, r.Findings, c.want)
		}
		if name != "an empty healthz" && r.Problems[0] != "healthz: "+c.text {
			t.Errorf("%s: %q", name, r.Problems)
		}
		if r.Grace == nil || r.Grace.State != inquiry.GraceOver {
			t.Errorf("%s: grace %+v", name, r.Grace)
		}
	}
}

func TestAPluginThatIsNotOursIsNamedAsSuch(t *testing.T) {
	t.Parallel()
	socket := strange(t, &stranger{err: status.Error(codes.Internal, "oops")})
	r := inquiry.Ask(t.Context(), inquiry.Question{Socket: socket, Timeout: 5 * time.Second})
	if len(r.Findings) == 0 || r.Findings[0].Code != "KMS0711" || !strings.Contains(r.Findings[0].Cause, "Internal, oops") {
		t.Errorf("%+v", r.Findings)
	}
}

// Status, v2 and v1 fail by the same: it is one finding.
func TestEachCauseIsToldOnce(t *testing.T) {
	s, socket, key := daemontest.Running(t)
	q := inquiry.Question{Socket: socket, Timeout: 3 * time.Second}
	r := ask(t, q, func(r *inquiry.Report) bool { return r.OK })
	if r.Grace == nil || r.Grace.State != inquiry.GraceIdle || len(r.Findings) != 0 {
		t.Errorf("%+v", r)
	}
	if err := s.DisableKey(key); err != nil {
		t.Fatal(err)
	}
	// Status refuses, and Encrypt for the sake of Decrypt: both have to be confirmed first.
	r = ask(t, q, func(r *inquiry.Report) bool {
		return r.Healthz == "" && strings.Contains(strings.Join(r.Problems, "\n"), "nothing is encrypted that could not be read again")
	})
	if r.Grace == nil || r.Grace.State != inquiry.GraceNone || len(r.Problems) < 3 || len(r.Findings) != 1 || r.Findings[0].Code != "KMS0101" || !strings.Contains(r.Findings[0].Cause, "the key is disabled") || !strings.HasPrefix(r.Findings[0].Next, "enable the key: aws kms enable-key --key-id "+key) {
		t.Errorf("%+v", r)
	}
	var shown map[string]any
	text, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(text, &shown)
	}
	if err != nil || shown["version"] != 2.0 {
		t.Fatalf("%v: %s", err, text)
	}
	for _, name := range []string{"healthz", "keyID", "keyIDHash", "v2Version", "v1RoundTripSeconds", "v2RoundTripSeconds", "readyz"} {
		if value, is := shown[name]; !is || value != nil {
			t.Errorf("%s is %v, want null: it was not measured", name, value)
		}
	}
	if grace, ok := shown["grace"].(map[string]any); !ok || grace["state"] != "none" || grace["until"] != nil || len(grace) != 2 {
		t.Errorf("grace %v", shown["grace"])
	}
	if shown["v1Version"] != "v1beta1" || len(shown["findings"].([]any)) != 1 || len(shown["problems"].([]any)) != len(r.Problems) {
		t.Errorf("%s", text)
	}
}

func TestTheGraceIsToldWithTheTimeOfItsEnd(t *testing.T) {
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	key, socket := createKey(t, kms), filepath.Join(daemontest.Directory(t), "s")
	d := daemontest.Start(t, daemontest.Config(t, "--key="+key, "--listen="+socket, "--health-port=127.0.0.1:0", "--kms-timeout=500ms", "--outage-grace=1h"))
	q := inquiry.Question{Socket: socket, Timeout: 3 * time.Second}
	ask(t, q, func(r *inquiry.Report) bool { return r.OK })
	kms.StopServing()
	r := ask(t, q, func(r *inquiry.Report) bool { return !r.OK })
	if r.Healthz != "ok" || r.Grace.State != inquiry.GraceRunning || r.Grace.Until != "" || !strings.Contains(r.Grace.String(), "--health-address tells when") {
		t.Errorf("%+v, %v", r, r.Grace)
	}
	q.Health = d.HealthAddress()
	r = ask(t, q, func(r *inquiry.Report) bool { return r.Grace.Until != "" })
	if end, err := time.Parse(time.RFC3339, r.Grace.Until); err != nil || time.Until(end) < 50*time.Minute || r.Grace.State != inquiry.GraceRunning {
		t.Errorf("%+v: %v", r.Grace, err)
	}
}
