package kmsserver_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// hanging is a provider whose calls wait, and tell how many there are.
type hanging struct {
	waiting sync.WaitGroup
	release chan struct{}
}

func newHanging(calls int) *hanging {
	h := &hanging{release: make(chan struct{})}
	h.waiting.Add(calls)
	return h
}

func (h *hanging) provider(keyID string) *fakeProvider {
	return &fakeProvider{encrypt: func(ctx context.Context, _ secret.Bytes) (provider.Encrypted, error) {
		h.waiting.Done()
		select {
		case <-h.release:
		case <-ctx.Done():
		}
		return provider.Encrypted{Ciphertext: []byte("1"), KeyID: keyID}, nil
	}}
}

// answering is a provider that answers at once.
func answering(keyID string) *fakeProvider {
	return &fakeProvider{encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) {
		return provider.Encrypted{Ciphertext: []byte("1"), KeyID: keyID}, nil
	}}
}

// retire retires a target in the background.
func retire(target *kmsserver.Target) (drained <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		target.Retire()
	}()
	return done
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestCallsEndWhereTheyBeganAndNewOnesGoToTheNewTarget(t *testing.T) {
	t.Parallel()
	old := newHanging(1)
	f := serve(t, old.provider("old"), slog.LevelInfo)
	before := f.server.Target()
	began := make(chan *v2.EncryptResponse, 1)
	go func() {
		resp, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")})
		if err != nil {
			t.Error(err)
		}
		began <- resp
	}()
	old.waiting.Wait()
	f.server.Set(f.target("1", answering("new")))
	drained := retire(before)
	resp, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")})
	if err != nil || resp.KeyId != "new" {
		t.Errorf("a call after the change: %v, %v; want the new target's answer", resp, err)
	}
	time.Sleep(50 * time.Millisecond)
	if isClosed(drained) {
		t.Error("drained while a call that began before is under way")
	}
	close(old.release)
	if resp := <-began; resp.GetKeyId() != "old" {
		t.Errorf("the call that began before: %v, want the old target's answer", resp)
	}
	<-drained
}

func TestTargetThatServesNothingIsDrainedAtOnce(t *testing.T) {
	t.Parallel()
	f := serve(t, answering("k"), slog.LevelInfo)
	old := f.server.Target()
	if _, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	f.server.Set(f.target("1", answering("k")))
	old.Retire()
	old.Retire() // a second time changes nothing
}

func TestLimitOfCallsIsTheSocketsOverAllTargets(t *testing.T) {
	t.Parallel()
	old := newHanging(1024)
	f := serve(t, old.provider("old"), slog.LevelError+4)
	before := f.server.Target()
	var calls sync.WaitGroup
	for range 1024 {
		calls.Go(func() {
			if _, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")}); err != nil {
				t.Error(err)
			}
		})
	}
	old.waiting.Wait()
	f.server.Set(f.target("1", answering("new")))
	_, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "KMS0601") {
		t.Errorf("one call more, to the new target: %v, want it refused", err)
	}
	close(old.release)
	calls.Wait()
	before.Retire()
	if _, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Whoever has seen a target drained may take its provider apart.
func TestNoCallReachesADrainedTarget(t *testing.T) {
	t.Parallel()
	var gone atomic.Int64
	provider := func() (p *fakeProvider, drained *atomic.Bool) {
		drained = new(atomic.Bool)
		return &fakeProvider{encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) {
			if drained.Load() {
				gone.Add(1)
			}
			return provider.Encrypted{Ciphertext: []byte("1")}, nil
		}}, drained
	}
	first, firstDrained := provider()
	f := serve(t, first, slog.LevelInfo)
	done := make(chan struct{})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for !isClosed(done) {
				if _, err := f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	oldDrained := firstDrained
	for deadline := time.Now().Add(500 * time.Millisecond); time.Now().Before(deadline); {
		next, nextDrained := provider()
		old := f.server.Target()
		f.server.Set(f.target("0", next))
		old.Retire()
		oldDrained.Store(true)
		oldDrained = nextDrained
	}
	close(done)
	callers.Wait()
	if n := gone.Load(); n > 0 {
		t.Errorf("%d calls reached a provider after its target had been drained", n)
	}
}

func TestFailuresAreNamedByTheTargetThatTheyBelongTo(t *testing.T) {
	t.Parallel()
	failing := &fakeProvider{encrypt: func(context.Context, secret.Bytes) (provider.Encrypted, error) {
		return provider.Encrypted{}, &cause.Error{Code: cause.KeyDisabled, Key: "arn:k"}
	}}
	f := serve(t, failing, slog.LevelInfo)
	old := f.server.Target()
	for range 3 {
		_, _ = f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")})
	}
	f.server.Set(f.target("other", failing))
	_, _ = f.v2.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("x")})
	old.Retire()
	for line, want := range map[string]int{
		`"msg":"call failed","provider":"0"`:     1,
		`"msg":"call failed","provider":"other"`: 1,
		`"msg":"calls failed in the last minute","provider":"0","code":"KMS0101","class":"refused","count":2`: 1,
	} {
		if got := strings.Count(f.log.String(), line); got != want {
			t.Errorf("%s stands %d times, want %d:\n%s", line, got, want, f.log)
		}
	}
}
