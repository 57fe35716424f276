package kmsserver_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const statusMethod, encryptMethod = "/v2.KeyManagementService/Status", "/v2.KeyManagementService/Encrypt"

// anotherConnection is a connection of its own to a fixture's socket.
func (f fixture) anotherConnection(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(f.raw.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// opens opens streams that send their head and never their message.
func opens(ctx context.Context, t *testing.T, conn *grpc.ClientConn, method string, n int) []grpc.ClientStream {
	t.Helper()
	var streams []grpc.ClientStream
	for range n {
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	return streams
}

// soon polls until something holds.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// handlers counts the goroutines in which the server handles a stream. Each costs
// eight kilobytes or more.
func handlers(t *testing.T) (n int) {
	t.Helper()
	var text bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
		t.Fatal(err)
	}
	for group := range strings.SplitSeq(text.String(), "\n\n") {
		count, stack, _ := strings.Cut(group, " @ ")
		if !strings.Contains(stack, "grpc.(*Server).handleStream") {
			continue
		}
		if i := strings.LastIndexByte(count, '\n'); i >= 0 { // the head of the text
			count = count[i+1:]
		}
		some, err := strconv.Atoi(count)
		if err != nil {
			t.Fatalf("a group of goroutines begins %q", group)
		}
		n += some
	}
	return n
}

// answersStatus fails the test unless Status is answered.
func answersStatus(t *testing.T, conn *grpc.ClientConn, where string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := v2.NewKeyManagementServiceClient(conn).Status(ctx, &v2.StatusRequest{}); err != nil {
		t.Errorf("Status over %s: %v", where, err)
	}
}

func healthy() *fakeProvider {
	return &fakeProvider{
		status: func() (provider.Status, error) { return provider.Status{Healthz: "ok", KeyID: "k"}, nil },
		encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) {
			return provider.Encrypted{Ciphertext: []byte("1")}, nil
		},
	}
}

// A caller that opens streams and sends no message meets no admission. Their
// number is bounded all the same, and Status is answered beside them.
func TestStreamsWithoutAMessageAreBounded(t *testing.T) {
	for _, method := range []string{statusMethod, encryptMethod} {
		t.Run(method, func(t *testing.T) {
			f := serve(t, healthy(), slog.LevelWarn)
			other := f.anotherConnection(t)
			answersStatus(t, other, "another connection, before")
			answersStatus(t, f.raw, "that connection, before")
			streams := opens(t.Context(), t, f.raw, method, 4*kmsserver.MaxSilent)
			soon(t, "the oldest have ended", func() bool { return f.server.Silent() <= kmsserver.MaxSilent && handlers(t) <= 2*kmsserver.MaxSilent })
			answersStatus(t, f.raw, "that connection")
			answersStatus(t, other, "another connection")
			if n := f.server.Silent(); n > kmsserver.MaxSilent {
				t.Errorf("%d streams without a message, want at most %d", n, kmsserver.MaxSilent)
			}
			if !strings.Contains(f.log.String(), "streams that sent no message are ended") {
				t.Errorf("the log does not say so:\n%s", f.log)
			}
			if err := streams[0].RecvMsg(&v2.StatusResponse{}); status.Code(err) != codes.Canceled {
				t.Errorf("the oldest stream: %v, want it ended", err)
			}
		})
	}
}

// Many connections do not multiply what one may have, and the one that has the
// most pays.
func TestStreamsWithoutAMessageAreBoundedOverAllConnections(t *testing.T) {
	f := serve(t, healthy(), slog.LevelWarn)
	modest := f.anotherConnection(t)
	kept := opens(t.Context(), t, modest, encryptMethod, 10)
	soon(t, "they are there", func() bool { return f.server.Silent() == len(kept) })
	for range 4 {
		opens(t.Context(), t, f.anotherConnection(t), statusMethod, kmsserver.MaxSilent)
	}
	soon(t, "all have come", func() bool { return f.server.Silent() == kmsserver.MaxSilentOfAll })
	answersStatus(t, modest, "a connection with few")
	answersStatus(t, f.raw, "a connection with none")
	for i, s := range kept {
		if err := s.SendMsg(&v2.EncryptRequest{Plaintext: []byte("x")}); err != nil {
			t.Fatalf("stream %d of a modest connection: %v", i, err)
		}
		_ = s.CloseSend()
		if err := s.RecvMsg(&v2.EncryptResponse{}); err != nil {
			t.Errorf("stream %d of a modest connection: %v, want it left alone", i, err)
		}
	}
}

// A few streams that stay silent end too, when their time is up.
func TestStreamWithoutAMessageEndsInTime(t *testing.T) {
	t.Parallel()
	f := serve(t, healthy(), slog.LevelWarn)
	began := time.Now()
	streams := opens(t.Context(), t, f.raw, statusMethod, 3)
	for _, s := range streams {
		if err := s.RecvMsg(&v2.StatusResponse{}); status.Code(err) != codes.Canceled {
			t.Errorf("RecvMsg: %v, want it ended", err)
		}
	}
	if took := time.Since(began); took < kmsserver.SilentTime/2 || took > 10*kmsserver.SilentTime {
		t.Errorf("ended after %s, want about %s", took, kmsserver.SilentTime)
	}
	if n := f.server.Silent(); n != 0 {
		t.Errorf("%d are still counted", n)
	}
}

func TestServedCallsAreNotCountedAsSilent(t *testing.T) {
	t.Parallel()
	f := serve(t, healthy(), slog.LevelWarn)
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for range 500 {
				if _, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	opens(ctx, t, f.raw, encryptMethod, 20)
	soon(t, "silent ones are counted", func() bool { return f.server.Silent() == 20 })
	cancel()
	soon(t, "ended ones are not", func() bool { return f.server.Silent() == 0 })
	// Neither a method that is none nor a message that is none leaves anything behind.
	_ = f.raw.Invoke(t.Context(), "/v2.KeyManagementService/Nothing", &v2.StatusRequest{}, &v2.StatusResponse{})
	_ = f.raw.Invoke(t.Context(), encryptMethod, []byte{0xff}, new([]byte), grpc.ForceCodec(rawCodec{}))
	soon(t, "failed ones are not", func() bool { return f.server.Silent() == 0 })
}

// Status that waits is bounded like every other call; what comes on top waits for
// nothing.
func TestTooManyWaitingStatusesDoNotWait(t *testing.T) {
	t.Parallel()
	p := &waitingStatus{release: make(chan struct{})}
	p.waiting.Add(kmsserver.MaxUnderWay)
	f := serve(t, p, slog.LevelWarn)
	var calls sync.WaitGroup
	for range kmsserver.MaxUnderWay {
		calls.Go(func() {
			if st, err := f.v2.Status(t.Context(), &v2.StatusRequest{}); err != nil || st.GetHealthz() != "ok" {
				t.Errorf("Status: %v, %v", st, err)
			}
		})
	}
	p.waiting.Wait()
	st, err := f.v2.Status(t.Context(), &v2.StatusRequest{})
	if err != nil || st.GetHealthz() != "not known" {
		t.Errorf("one more: %v, %v; want it answered without a wait", st, err)
	}
	close(p.release)
	calls.Wait()
}

// waitingStatus waits like a Status before the first contact.
type waitingStatus struct {
	fakeProvider

	waiting sync.WaitGroup
	release chan struct{}
}

func (w *waitingStatus) Status(ctx context.Context) (provider.Status, error) {
	select {
	case <-ctx.Done():
		return provider.Status{Healthz: "not known", KeyID: "k"}, nil
	default:
	}
	w.waiting.Done()
	select {
	case <-w.release:
	case <-ctx.Done():
	}
	return provider.Status{Healthz: "ok", KeyID: "k"}, nil
}

func TestLongHeadsAreRefused(t *testing.T) {
	t.Parallel()
	f := serve(t, healthy(), slog.LevelWarn)
	for size, ok := range map[int]bool{kmsserver.MaxHead / 2: true, 2 * kmsserver.MaxHead: false} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("y", size))
		_, err := f.v2.Status(ctx, &v2.StatusRequest{})
		if (err == nil) != ok {
			t.Errorf("a head of %d bytes: %v, want it served: %t", size, err, ok)
		}
	}
	answersStatus(t, f.raw, "that connection")
}

func TestCallsBehindAFullConnectionAreNotQueued(t *testing.T) {
	t.Parallel()
	if kmsserver.MaxStreams < kmsserver.MaxSilent+2*kmsserver.MaxUnderWay {
		t.Errorf("a connection has %d streams, which silent ones, calls and Statuses can use up: Status would wait for one of them", kmsserver.MaxStreams)
	}
}
