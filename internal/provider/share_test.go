package provider_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Each of five keys answers in time, and all of them together do.
func TestDistantKMSReadsDataOfTheLastOfFiveKeys(t *testing.T) {
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	pool := awskms.NewConnections()
	t.Cleanup(pool.Close)
	const timeout = 2500 * time.Millisecond
	client := awskms.New(awskms.Options{Connections: pool, Timeout: timeout, Region: kmstest.Region, Endpoint: kms.URL})
	var keys []*kmskey.Key
	var blob []byte
	for range 5 {
		arn, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, kmskey.New(kmskey.Config{Name: arn, KMS: client}))
		sealed, err := client.Encrypt(t.Context(), awskms.Call{}, arn, secret.Bytes("a DEK"))
		if err != nil {
			t.Fatal(err)
		}
		blob = append([]byte("1"), sealed.Blob...)
	}
	kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 300 * time.Millisecond})
	p := provider.New(provider.Options{Name: "0", Keys: keys, Timeout: timeout, Log: slog.New(slog.DiscardHandler)})
	if _, err := p.Decrypt(t.Context(), keyring.Stored{Ciphertext: blob, Bare: true}); err != nil {
		t.Error(err)
	}
	if p.Health().Suspect {
		t.Error("the write key is suspect, which had only not enough time")
	}
}

// Whoever asks is answered within the time of one call, however many keys hang, and
// whether or not it has a deadline of its own.
func TestKeysThatHangTakeTheTimeOfOneCallTogether(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(ctx context.Context, p *provider.Provider) error{
		"Decrypt": func(ctx context.Context, p *provider.Provider) error {
			_, err := p.Decrypt(ctx, stored(keyC, "seed", ""))
			return err
		},
		"Encrypt": func(ctx context.Context, p *provider.Provider) error {
			_, err := p.Encrypt(ctx, secret.Bytes("seed"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.delay = time.Hour
				p := newRing(f, ringOptions{read: []string{keyB, keyC}})
				began := time.Now()
				err := ask(t.Context(), p)
				if took := time.Since(began); err == nil || took > 10*time.Second {
					t.Errorf("%v after %s, want an error within seconds", err, took)
				}
			})
		})
	}
}
