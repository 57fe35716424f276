package provider_test

import (
	"log/slog"
	"testing"
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
