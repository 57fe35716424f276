package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// propagatingKMS is a KMS whose changes reach each connection after another
// time, up to this. The test's log says how to have the same times again.
func propagatingKMS(t *testing.T, longest time.Duration) kmsemulator.Options {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed of the propagation delays: %d", seed)
	return kmsemulator.Options{PropagationDelay: longest, Seed: seed}
}

const (
	statusEvery   = 200 * time.Millisecond
	statusCallers = 4 // Encrypts at once, so that the plugin has several connections to KMS
)

// A statusWatch asks a plugin's Status over its socket, and encrypts beside,
// until it is stopped. It keeps the order of what was answered.
type statusWatch struct {
	s      *stage
	client v2.KeyManagementServiceClient
	cancel context.CancelFunc
	done   sync.WaitGroup

	longest time.Duration // that Status took; read it after stop

	mu       sync.Mutex
	answered []string       // key_ids of Status, repetitions left out
	used     map[string]int // key_ids of Encrypt
}

func watchStatus(ctx context.Context, s *stage, socket string) *statusWatch {
	s.t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.must(err)
	s.t.Cleanup(func() { _ = conn.Close() })
	watching, cancel := context.WithCancel(ctx)
	w := &statusWatch{s: s, client: v2.NewKeyManagementServiceClient(conn), cancel: cancel, used: map[string]int{}}
	w.done.Go(func() {
		for every(watching, statusEvery) {
			w.ask(ctx)
		}
	})
	for range statusCallers {
		w.done.Go(func() {
			for every(watching, statusEvery) {
				w.roundTrip(ctx)
			}
		})
	}
	s.t.Cleanup(w.stop)
	return w
}

// every waits, and reports whether to go on.
func every(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

func (w *statusWatch) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	status, err := w.client.Status(ctx, &v2.StatusRequest{})
	w.longest = max(w.longest, time.Since(start)) // only ask writes it, and stop waits for that
	if err != nil || status.Healthz != "ok" || status.Version != "v2beta1" {
		w.s.t.Errorf("Status at %s is %v, %v; want ok", start.Format(time.StampMilli), status, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.answered); n == 0 || w.answered[n-1] != status.KeyId {
		w.answered = append(w.answered, status.KeyId)
	}
}

// roundTrip encrypts, and decrypts what it got.
func (w *statusWatch) roundTrip(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	seed := fmt.Appendf(nil, "%032d", time.Now().UnixNano())
	sealed, err := w.client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed, Uid: "watch"})
	if err != nil {
		w.s.t.Errorf("Encrypt: %v", err)
		return
	}
	w.mu.Lock()
	w.used[sealed.KeyId]++
	w.mu.Unlock()
	opened, err := w.client.Decrypt(ctx, &v2.DecryptRequest{
		Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "watch",
	})
	if err != nil || !bytes.Equal(opened.Plaintext, seed) {
		w.s.t.Errorf("Decrypt of what was just encrypted under key_id %s: %v", sealed.KeyId, err)
	}
}

func (w *statusWatch) stop() {
	w.cancel()
	w.done.Wait()
}

// keyIDs are those that Status answered, in this order.
func (w *statusWatch) keyIDs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.answered...)
}

// last is nil when Status has last answered this key_id.
func (w *statusWatch) last(want string) error {
	all := w.keyIDs()
	if len(all) == 0 || all[len(all)-1] != want {
		return fmt.Errorf("Status answered key_ids %q, want %s at last", all, want)
	}
	return nil
}

// sealed returns how often Encrypt answered which key_id.
func (w *statusWatch) sealed() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.used)
}
