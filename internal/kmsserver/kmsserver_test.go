package kmsserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeProvider answers with what its functions say, and remembers what it was
// asked.
type fakeProvider struct {
	encrypt func(ctx context.Context, plaintext secret.Bytes) (provider.Encrypted, error)
	decrypt func(ctx context.Context, s keyring.Stored) (secret.Bytes, error)
	status  func() (provider.Status, error)
}

func (f *fakeProvider) Encrypt(ctx context.Context, plaintext secret.Bytes) (provider.Encrypted, error) {
	return f.encrypt(ctx, plaintext)
}

func (f *fakeProvider) Decrypt(ctx context.Context, s keyring.Stored) (secret.Bytes, error) {
	return f.decrypt(ctx, s)
}

func (f *fakeProvider) Status(context.Context) (provider.Status, error) { return f.status() }

// logBuffer is a buffer that goroutines may write.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type fixture struct {
	v1  v1beta1.KeyManagementServiceClient
	v2  v2.KeyManagementServiceClient
	raw *grpc.ClientConn
	reg *prometheus.Registry
	log *logBuffer

	server  *kmsserver.Server
	metrics *metrics.Metrics
	logger  *slog.Logger
}

// target returns one for the fixture's server.
func (f *fixture) target(name string, p kmsserver.Provider) *kmsserver.Target {
	return kmsserver.NewTarget(kmsserver.TargetOptions{Name: name, Key: "alias/k", Provider: p, Metrics: f.metrics, Log: f.logger})
}

// serve runs a server over a unix socket, with a client of it.
func serve(t *testing.T, p kmsserver.Provider, level slog.Level) fixture {
	t.Helper()
	f := fixture{reg: prometheus.NewPedanticRegistry(), log: &logBuffer{}}
	classes := make([]string, 0, len(cause.Classes()))
	for _, c := range cause.Classes() {
		classes = append(classes, string(c))
	}
	f.metrics = metrics.New(f.reg, "v", "c", "go", classes, nil)
	f.logger = slog.New(kmsserver.NamingCalls(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: level})))
	f.server = kmsserver.New("v1.2.3", f.target("0", p))
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.server.Serve(l) })
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); f.server.Stop(); wg.Wait(); f.server.Target().Retire() })
	f.raw, f.v1, f.v2 = conn, v1beta1.NewKeyManagementServiceClient(conn), v2.NewKeyManagementServiceClient(conn)
	return f
}

func TestBothAPIsDoTheSameWithTheirOwnMessages(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []keyring.Stored
	f := serve(t, &fakeProvider{
		encrypt: func(_ context.Context, plaintext secret.Bytes) (provider.Encrypted, error) {
			return provider.Encrypted{
				Ciphertext: append([]byte("1"), plaintext...), KeyID: "arn", Annotations: map[string][]byte{"a.b": []byte("c")},
			}, nil
		},
		decrypt: func(_ context.Context, s keyring.Stored) (secret.Bytes, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, s)
			return secret.Bytes("seed"), nil
		},
		status: func() (provider.Status, error) { return provider.Status{Healthz: "ok", KeyID: "arn"}, nil },
	}, slog.LevelInfo)
	ctx := t.Context()

	version, err := f.v1.Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"})
	if err != nil || version.Version != "v1beta1" || version.RuntimeName != "AWSKMS" || version.RuntimeVersion != "v1.2.3" {
		t.Errorf("Version: %v, %v", version, err)
	}
	sealed1, err := f.v1.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: []byte("seed")})
	if err != nil || string(sealed1.Cipher) != "1seed" {
		t.Errorf("v1 Encrypt: %v, %v", sealed1, err)
	}
	opened1, err := f.v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: []byte("x")})
	if err != nil || string(opened1.Plain) != "seed" {
		t.Errorf("v1 Decrypt: %v, %v", opened1, err)
	}
	st, err := f.v2.Status(ctx, &v2.StatusRequest{})
	if err != nil || st.Version != "v2beta1" || st.Healthz != "ok" || st.KeyId != "arn" {
		t.Errorf("Status: %v, %v", st, err)
	}
	sealed2, err := f.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("seed"), Uid: "u"})
	if err != nil || string(sealed2.Ciphertext) != "1seed" || sealed2.KeyId != "arn" || string(sealed2.Annotations["a.b"]) != "c" {
		t.Errorf("v2 Encrypt: %v, %v", sealed2, err)
	}
	opened2, err := f.v2.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: []byte("y"), KeyId: "k", Annotations: map[string][]byte{"a.b": []byte("c")}, Uid: "u"})
	if err != nil || string(opened2.Plaintext) != "seed" {
		t.Errorf("v2 Decrypt: %v, %v", opened2, err)
	}
	want := []keyring.Stored{
		{Ciphertext: []byte("x"), Bare: true},
		{Ciphertext: []byte("y"), KeyID: "k", Annotations: map[string][]byte{"a.b": []byte("c")}},
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("asked of the keyring (-want +got):\n%s", diff)
	}
}

func TestGRPCCodeFollowsFromTheClass(t *testing.T) {
	t.Parallel()
	var failure error
	f := serve(t, &fakeProvider{
		encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) { return provider.Encrypted{}, failure },
		status:  func() (provider.Status, error) { return provider.Status{}, failure },
	}, slog.LevelError+4)
	for code, want := range map[cause.Code]codes.Code{
		cause.KeyDisabled: codes.FailedPrecondition, cause.TimedOut: codes.Unavailable, cause.NoCredentials: codes.Unauthenticated,
		cause.NoKeyMadeIt: codes.InvalidArgument, cause.CallerLeft: codes.Canceled, cause.TooLittleTime: codes.DeadlineExceeded,
		cause.TooManyCalls: codes.ResourceExhausted, cause.Unforeseen: codes.Internal,
	} {
		failure = &cause.Error{Code: code, Key: "arn:k"}
		_, v1Err := f.v1.Encrypt(t.Context(), &v1beta1.EncryptRequest{Version: "v1beta1", Plain: []byte("x")})
		_, v2Err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")})
		_, stErr := f.v2.Status(t.Context(), &v2.StatusRequest{})
		for api, err := range map[string]error{"v1": v1Err, "v2": v2Err, "status": stErr} {
			if s := status.Convert(err); s.Code() != want || !strings.HasPrefix(s.Message(), code.String()) {
				t.Errorf("%s, %s: %v: %q; want %v with the code's text", code, api, s.Code(), s.Message(), want)
			}
		}
	}
}

func TestV1RefusesAnotherVersion(t *testing.T) {
	t.Parallel()
	f := serve(t, &fakeProvider{}, slog.LevelInfo)
	for _, version := range []string{"", "v1", "v2", strings.Repeat("v", 100_000)} {
		_, encErr := f.v1.Encrypt(t.Context(), &v1beta1.EncryptRequest{Version: version, Plain: []byte("x")})
		_, decErr := f.v1.Decrypt(t.Context(), &v1beta1.DecryptRequest{Version: version, Cipher: []byte("x")})
		for _, err := range []error{encErr, decErr} {
			if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), "KMS0408") || len(s.Message()) > 1000 {
				t.Errorf("version %.20q: %v", version, err)
			}
		}
	}
}

func TestMessagesThatAreTooLongOrMalformedAreRefused(t *testing.T) {
	t.Parallel()
	f := serve(t, &fakeProvider{
		decrypt: func(context.Context, keyring.Stored) (secret.Bytes, error) { return secret.Bytes("seed"), nil },
	}, slog.LevelInfo)
	_, err := f.v2.Decrypt(t.Context(), &v2.DecryptRequest{Ciphertext: []byte("x"), KeyId: strings.Repeat("k", 10<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a key_id of 10 MB: %v", err)
	}
	if _, err := f.v2.Decrypt(t.Context(), &v2.DecryptRequest{Ciphertext: []byte("x"), KeyId: strings.Repeat("k", 200<<10)}); err != nil {
		t.Errorf("a key_id of 200 kB fits into a message: %v", err)
	}
	invalid := protowire.AppendTag(nil, 3, protowire.BytesType) // key_id
	invalid = protowire.AppendBytes(invalid, []byte("\xff\xfe"))
	for name, body := range map[string][]byte{"invalid UTF-8": invalid, "no protobuf": []byte("\xff\xff\xff\xff")} {
		err := f.raw.Invoke(t.Context(), v2.KeyManagementService_Decrypt_FullMethodName, body, new([]byte), grpc.ForceCodec(rawCodec{}))
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "unmarshal") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.v2.Decrypt(t.Context(), &v2.DecryptRequest{Ciphertext: []byte("x")}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, errors.New("not bytes")
	}
	return b, nil
}
func (rawCodec) Unmarshal([]byte, any) error { return nil }
func (rawCodec) Name() string                { return "proto" }

func TestOverloadIsRefusedAndNeverForStatus(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(1024)
	f := serve(t, &fakeProvider{
		encrypt: func(ctx context.Context, _ secret.Bytes) (provider.Encrypted, error) {
			waiting.Done()
			select {
			case <-release:
			case <-ctx.Done():
			}
			return provider.Encrypted{Ciphertext: []byte("1")}, nil
		},
		status: func() (provider.Status, error) { return provider.Status{Healthz: "ok", KeyID: "k"}, nil },
	}, slog.LevelError+4)
	var calls sync.WaitGroup
	for range 1024 {
		calls.Go(func() {
			if _, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")}); err != nil {
				t.Error(err)
			}
		})
	}
	waiting.Wait()
	_, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "KMS0601") {
		t.Errorf("one call more: %v", err)
	}
	if _, err := f.v2.Status(t.Context(), &v2.StatusRequest{}); err != nil {
		t.Errorf("Status amid 1,024 calls: %v", err)
	}
	close(release)
	calls.Wait()
}

func TestPanicIsAnErrorOfOneCall(t *testing.T) {
	t.Parallel()
	f := serve(t, &fakeProvider{
		decrypt: func(context.Context, keyring.Stored) (secret.Bytes, error) { panic("secret-seed-in-panic?") },
		status:  func() (provider.Status, error) { return provider.Status{Healthz: "ok", KeyID: "k"}, nil },
	}, slog.LevelInfo)
	_, err := f.v2.Decrypt(t.Context(), &v2.DecryptRequest{Ciphertext: []byte("x")})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "KMS0903") {
		t.Errorf("got %v", err)
	}
	if _, err := f.v2.Status(t.Context(), &v2.StatusRequest{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if !strings.Contains(f.log.String(), "stack") {
		t.Error("the log has no stack")
	}
}

func TestFailureIsOneLineAMinuteWithACount(t *testing.T) {
	t.Parallel()
	failure := &cause.Error{Code: cause.KeyDisabled, Key: "arn:k"}
	f := serve(t, &fakeProvider{
		encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) { return provider.Encrypted{}, failure },
	}, slog.LevelInfo)
	for range 50 {
		_, _ = f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x"), Uid: "uid-1"})
	}
	lines := strings.Split(strings.TrimSpace(f.log.String()), "\n")
	if len(lines) != 1 {
		t.Fatalf("%d lines, want 1:\n%s", len(lines), f.log)
	}
	for _, want := range []string{`"code":"KMS0101"`, `"class":"refused"`, `"uid":"uid-1"`, `"level":"ERROR"`, `"provider":"0"`, `"api":"v2"`, `"operation":"encrypt"`} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("%s: want %s in it", lines[0], want)
		}
	}
}

func TestSuccessIsLoggedAtDebugOnlyWithItsUID(t *testing.T) {
	t.Parallel()
	provider := &fakeProvider{encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) {
		return provider.Encrypted{Ciphertext: []byte("1")}, nil
	}}
	for level, want := range map[slog.Level]bool{slog.LevelInfo: false, slog.LevelDebug: true} {
		f := serve(t, provider, level)
		if _, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x"), Uid: strings.Repeat("u", 1000)}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(f.log.String(), `"uid":"uuuu`); got != want || len(f.log.String()) > 600 {
			t.Errorf("at %v: %s", level, f.log)
		}
	}
}

func TestCallsAreCountedUnderOurNamesAndThePredecessors(t *testing.T) {
	t.Parallel()
	answers := []error{nil, &cause.Error{Code: cause.Throttled}, &cause.Error{Code: cause.CiphertextInvalid}, &cause.Error{Code: cause.KeyDisabled}}
	next := 0
	f := serve(t, &fakeProvider{
		decrypt: func(context.Context, keyring.Stored) (secret.Bytes, error) { next++; return nil, answers[next-1] },
		status:  func() (provider.Status, error) { return provider.Status{}, answers[1] },
	}, slog.LevelError+4)
	for range answers {
		_, _ = f.v1.Decrypt(t.Context(), &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: []byte("x")})
	}
	deadline := time.Now().Add(10 * time.Second)
	want := `# HELP aws_encryption_provider_kms_operations_total total aws encryption provider kms operations
# TYPE aws_encryption_provider_kms_operations_total counter
aws_encryption_provider_kms_operations_total{key_arn="alias/k",operation="decrypt",status="failure",version="v1"} 1
aws_encryption_provider_kms_operations_total{key_arn="alias/k",operation="decrypt",status="failure-corruption",version="v1"} 1
aws_encryption_provider_kms_operations_total{key_arn="alias/k",operation="decrypt",status="failure-throttle",version="v1"} 1
aws_encryption_provider_kms_operations_total{key_arn="alias/k",operation="decrypt",status="success",version="v1"} 1
`
	for {
		err := testutil.GatherAndCompare(f.reg, strings.NewReader(want), "aws_encryption_provider_kms_operations_total")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if n, err := testutil.GatherAndCount(f.reg, "aws_encryption_provider_kms_operation_latency_ms"); err != nil || n != 4 {
		t.Errorf("%d series of the predecessor's histogram (%v), want 4", n, err)
	}
	_, _ = f.v2.Status(t.Context(), &v2.StatusRequest{}) // throttled, too
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "aws_encryption_provider_calls_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if v := m.GetCounter().GetValue(); v > 0 {
				counted[strings.Join(labels, " ")] = v
			}
		}
	}
	wantCounted := map[string]float64{"v1 success decrypt 0": 1, "v1 outage decrypt 0": 1, "v1 bad_data decrypt 0": 1, "v1 refused decrypt 0": 1, "v2 outage status 0": 1}
	if diff := cmp.Diff(wantCounted, counted); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// A caller chooses the uid, and whatever stands below chooses its words.
func TestForeignTextsAreCutAndQuoted(t *testing.T) {
	t.Parallel()
	foreign := "line\nsecond \x1b[31m\xff" + strings.Repeat("x", 100_000)
	for name, failure := range map[string]error{
		"unforeseen": errors.New(foreign),
		"wrapped":    fmt.Errorf("%s: %w", foreign, &cause.Error{Code: cause.KeyDisabled, Key: foreign, AWSCode: foreign, Said: foreign, RequestID: foreign}),
		"cause":      &cause.Error{Code: cause.KeyDisabled, Key: foreign, AlsoTried: slices.Repeat([]string{foreign}, 100), Said: foreign},
	} {
		f := serve(t, &fakeProvider{
			encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) { return provider.Encrypted{}, failure },
			status:  func() (provider.Status, error) { return provider.Status{}, failure },
		}, slog.LevelDebug)
		for range 2 {
			_, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x"), Uid: "u\nlevel=ERROR \x1b[31mü" + strings.Repeat("ü", 1000)})
			said := status.Convert(err).Message()
			if !strings.HasPrefix(said, "KMS") && name != "wrapped" || len(said) > 5_000 || strings.ContainsAny(said, "\n\x1b") || !utf8.ValidString(said) {
				t.Errorf("%s: the caller is told %d bytes: %.200q", name, len(said), said)
			}
		}
		for line := range strings.Lines(f.log.String()) {
			if len(line) > 12_000 || strings.Contains(line, `\u001b`) || strings.Contains(line, `\ufffd`) {
				t.Errorf("%s: a line of the log has %d bytes: %.300s", name, len(line), line)
			}
			var parts struct{ UID, Error string }
			if err := json.Unmarshal([]byte(line), &parts); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(parts.UID+parts.Error, "\n") || len(parts.UID) > 300 || parts.UID != `"u"` {
				t.Errorf("%s: the log has uid %q and error %.200q", name, parts.UID, parts.Error)
			}
		}
	}
}
