package provider_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

func TestVerifyOfAMovedAliasSaysNothingOfTheKeyThatReads(t *testing.T) {
	t.Parallel()
	f := rotating()
	a, c := newKey(f, alias), newKey(f, keyC)
	p := ringOf(ringOptions{}, c, a)
	if _, err := p.Decrypt(t.Context(), stored(keyA, "x", "")); err != nil {
		t.Fatal(err)
	}
	f.moveAlias()
	f.fail("Decrypt "+keyB, cause.AccessDenied)
	next := ringOf(ringOptions{before: p}, a, c)
	if err := next.Verify(t.Context()); err == nil {
		t.Fatal("verified")
	}
	if k := p.Health().ReadKeys[0]; k.State != evidence.Healthy {
		t.Errorf("the key that reads is %+v, which only another key is", k)
	}
}

func TestVerifiedKeyIsTheOneThatWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		a, c := newKey(f, alias), newKey(f, keyC)
		p := ringOf(ringOptions{}, a, c)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		synctest.Wait()
		f.moveAlias()
		wantTold(t, watched(t, p, 90*time.Second), aliasA, aliasB)
		cancel()
		wg.Wait()
		p = ringOf(ringOptions{before: p}, c, a)
		if err := p.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.fail("Encrypt "+keyB, cause.KeyDisabled)
		f.fail("Decrypt "+keyB, cause.KeyDisabled)
		f.moveAliasTo(keyA)
		var err error
		for range 3 {
			p = ringOf(ringOptions{before: p}, a, c)
			if err = p.Verify(t.Context()); err == nil {
				break
			}
			time.Sleep(10 * time.Second) // as a reload is tried again: a refusal is confirmed by time
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
			t.Errorf("what was verified cannot write: %v", err)
		}
	})
}

// Writer and reader change places at each reload, while the alias moves to and fro
// and keys are rotated: whatever was acknowledged reads.
func TestRolesThatChangeUnderCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		a, b := newKey(f, alias), newKey(f, keyC)
		p := ringOf(ringOptions{}, a, b)
		if err := p.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		cur := p
		get := func() *provider.Provider { mu.Lock(); defer mu.Unlock(); return cur }
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		start := func(p *provider.Provider) func() {
			c, cancel := context.WithCancel(ctx)
			wg.Go(func() { p.Run(c) })
			return cancel
		}
		stopRun := start(p)
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					q := get()
					e, err := q.Encrypt(ctx, secret.Bytes("seed"))
					if err == nil {
						if _, err := get().Decrypt(ctx, read(e)); err != nil && ctx.Err() == nil {
							t.Errorf("%s: %v", e.KeyID, err)
						}
						if _, err := get().Decrypt(ctx, keyring.Stored{Ciphertext: e.Ciphertext, Bare: true}); err != nil && ctx.Err() == nil {
							t.Errorf("%s: %v", e.KeyID, err)
						}
					} else if ctx.Err() == nil {
						t.Error(err)
					}
					_, _ = q.Status(ctx)
					q.Health()
					time.Sleep(3 * time.Second)
				}
			})
		}
		for i := range 200 {
			f.moveAliasTo([]string{keyA, keyB}[i/7%2])
			f.rotate(keyA, fmt.Sprint("m", i/10))
			keys := []*kmskey.Key{a, b}
			if i%2 == 0 {
				keys = []*kmskey.Key{b, a}
			}
			n := ringOf(ringOptions{before: p}, keys...)
			if err := n.Verify(ctx); err != nil {
				t.Fatal(err)
			}
			s := start(n)
			mu.Lock()
			cur = n
			mu.Unlock()
			old := stopRun
			wg.Go(func() { time.Sleep(time.Second); old() })
			stopRun, p = s, n
			time.Sleep(13 * time.Second)
		}
		cancel()
		wg.Wait()
	})
}

// A provider that is not in use yet says nothing of how the provider does.
func TestVerifyDoesNotEndARefusalInTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := rotating()
		a, c := newKey(f, alias), newKey(f, keyC)
		p := ringOf(ringOptions{}, a, c)
		if err := p.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		p = ringOf(ringOptions{before: p, log: &log}, c, a)
		running(t, p)
		f.fail("Encrypt "+keyC, cause.KeyDisabled)
		time.Sleep(time.Minute)
		wantState(t, p, evidence.Refused)
		log.Reset()
		f.moveAlias()
		next := ringOf(ringOptions{before: p, log: &log}, a, c)
		if err := next.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(log.String(), "key works") || strings.Contains(log.String(), "from now on") {
			t.Errorf("the log says of the provider, whose key is refused:\n%s", log.String())
		}
		wantTold(t, []string{keyIDOf(t, next)}, aliasB)
	})
}

// A reload that comes amid a watch does not put it off.
func TestReloadGoesOnWithAWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		k := newKey(f, keyA)
		p := ringOf(ringOptions{}, k)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		wantTold(t, []string{keyIDOf(t, p)}, m1)
		f.rotate(keyA, "m2")
		time.Sleep(46 * time.Second) // one look
		cancel()
		wg.Wait()
		after := ringOf(ringOptions{before: p}, k)
		running(t, after)
		wantTold(t, watched(t, after, 30*time.Second), m1, m2)
	})
}
