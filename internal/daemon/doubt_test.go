package daemon

import (
	"context"
	"log/slog"
	"regexp"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// swallower is a KMS that never answers, whatever its callers' limits, until it is
// closed.
type swallower chan struct{}

func (s swallower) Encrypt(context.Context, awskms.Call, string, secret.Bytes) (awskms.Sealed, error) {
	<-s
	return awskms.Sealed{}, context.Canceled
}

func (s swallower) Decrypt(context.Context, awskms.Call, string, []byte) (awskms.Opened, error) {
	<-s
	return awskms.Opened{}, context.Canceled
}

func TestReadinessTellsThatNobodyKnows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const arn = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
		kms := make(swallower)
		defer close(kms)
		pauses := bounded.NewPauses()
		p := provider.New(provider.Options{
			Name: "0", Keys: []*kmskey.Key{kmskey.New(kmskey.Config{Name: arn, KMS: kms})},
			Timeout: 2500 * time.Millisecond, Log: slog.New(slog.DiscardHandler), Pauses: pauses,
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { p.Run(ctx) })
		running.Go(func() { pauses.Run(ctx) })
		defer running.Wait()
		defer cancel()
		s := &served{instance: &instance{cfg: config.Provider{Name: "0"}, provider: p}, at: &endpoint{socket: unixsocket.New(unixsocket.Options{})}}
		s.at.answers.Store(true)
		time.Sleep(20 * time.Second)
		line, ready := s.snapshot().Line()
		want := regexp.MustCompile(`^provider 0: outage since [0-9TZ:-]{20}: KMS0211: Encrypt with ` + arn + `: checks of the key do not end, so nobody knows whether it works; `)
		if ready || !want.MatchString(line) {
			t.Errorf("ready %t: %s\nwant not ready, and a match of %s", ready, line, want)
		}
	})
}
