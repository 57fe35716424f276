package provider_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const notReadAgain = "nothing is encrypted that could not be read again"

// wantNotEncrypted expects that Encrypt refuses, and asks KMS for nothing.
func wantNotEncrypted(t *testing.T, f *fakeKMS, p *provider.Provider, code cause.Code) {
	t.Helper()
	f.taken()
	_, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
	if err == nil || cause.Of(err).Code != code || !strings.Contains(err.Error(), notReadAgain) {
		t.Errorf("got %v, want %s, and what that means", err, code)
	}
	if calls := f.taken(); len(calls) != 0 {
		t.Errorf("calls %q, want none", calls)
	}
}

func wantEncrypted(t *testing.T, p *provider.Provider) {
	t.Helper()
	if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
		t.Errorf("Encrypt: %v", err)
	}
}

func TestNothingIsEncryptedWhileDecryptIsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{read: []string{keyB}}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Decrypt "+keyA, cause.AccessDenied)
		until(t, time.Minute, inState(p, evidence.Refused))
		wantNotEncrypted(t, f, p, cause.AccessDenied)
		wantStatus(t, p, "error KMS0104")
		if _, err := p.Decrypt(t.Context(), stored(keyB, "old", "")); err != nil {
			t.Errorf("a lower key does not read: %v", err)
		}
		f.taken()
		time.Sleep(2 * time.Minute)
		if calls := strings.Join(f.taken(), "\n"); !strings.Contains(calls, "Encrypt "+keyA) {
			t.Error("checks do not encrypt any more, and nobody would notice the grant")
		}
		wantNotEncrypted(t, f, p, cause.AccessDenied)
		f.mend("Decrypt " + keyA)
		until(t, 10*time.Second, inState(p, evidence.Healthy))
		wantEncrypted(t, p)
	})
}

// The first Decrypt that works ends it, a caller's too.
func TestCallersDecryptEndsTheRefusalOfEncrypt(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Decrypt", cause.KeyDisabled)
		until(t, time.Minute, inState(p, evidence.Refused))
		f.mend("Decrypt")
		if _, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err != nil {
			t.Fatal(err)
		}
		wantEncrypted(t, p)
	})
}

// One refusal that no check has confirmed stops no writes, and neither does an
// outage of Decrypt.
func TestWritesGoOnWhereDecryptIsNotConfirmedAsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Decrypt", cause.AccessDenied)
		if _, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err == nil {
			t.Fatal("want a refusal")
		}
		time.Sleep(4 * time.Second)
		wantEncrypted(t, p)
		f.fail("Decrypt", cause.Unreachable)
		time.Sleep(10 * time.Minute)
		wantState(t, p, evidence.Outage)
		wantEncrypted(t, p)
	})
}

// What was just sealed does not open, while older data does: reads must not hide
// that, and nobody's write may be lost.
func TestNothingIsEncryptedThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	var log lines
	bubble(t, ringOptions{grace: time.Minute, log: &log}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		stop := make(chan struct{})
		var readers sync.WaitGroup
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(500 * time.Millisecond):
				}
				if _, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err != nil {
					t.Errorf("older data does not read: %v", err)
				}
			}
		})
		defer readers.Wait()
		defer close(stop)
		f.garble(true)
		suspect := func() bool { return p.Health().Suspect }
		until(t, time.Minute, suspect)
		first := time.Now()
		wantEncrypted(t, p)
		time.Sleep(5*time.Second - 200*time.Millisecond)
		wantEncrypted(t, p)
		until(t, 2*time.Second, inState(p, evidence.Outage))
		if took := time.Since(first); took > 7*time.Second {
			t.Errorf("confirmed after %s", took)
		}
		if err := p.Health().Err; err.Code != cause.RoundTripBroken {
			t.Errorf("told %v, want KMS0902", err)
		}
		time.Sleep(time.Minute)
		_, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
		if err == nil || cause.Of(err).Code != cause.RoundTripBroken || !strings.Contains(err.Error(), notReadAgain) {
			t.Errorf("Encrypt: %v", err)
		}
		wantState(t, p, evidence.Outage)
		wantStatus(t, p, "text KMS0902")
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "code=KMS0902") {
			t.Errorf("%d errors in the log, want the one of KMS0902:\n%s", n, &log)
		}
		f.garble(false)
		until(t, 10*time.Second, inState(p, evidence.Healthy))
		wantEncrypted(t, p)
		wantStatus(t, p, "ok")
	})
}

// Looks open what was just sealed, but not that of the key that writes where its
// alias names another one that cannot be followed. Traffic must not hide that.
func TestWhatDoesNotOpenIsFoundUnderTrafficWhereTheAliasCannotBeFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		p := newRing(f, ringOptions{write: alias})
		running(t, p)
		time.Sleep(time.Second)
		old, err := p.Encrypt(t.Context(), secret.Bytes("old"))
		if err != nil {
			t.Fatal(err)
		}
		f.fail("Decrypt "+keyB, cause.KeyDisabled)
		f.moveAlias()
		time.Sleep(time.Minute)
		f.garble(true)
		until(t, 90*time.Second, func() bool {
			if _, err := p.Decrypt(t.Context(), read(old)); err != nil {
				t.Fatalf("older data does not read: %v", err)
			}
			_, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
			return err != nil && cause.Of(err).Code == cause.RoundTripBroken
		})
	})
}

// Whatever was acknowledged opens, and writes go on soon after the grant.
func TestDecryptDeniedAndGrantedUnderWriters(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		var mu sync.Mutex
		var written []provider.Encrypted
		var last time.Time
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for range 8 {
			writers.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(300 * time.Millisecond):
					}
					if e, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err == nil {
						mu.Lock()
						written, last = append(written, e), time.Now()
						mu.Unlock()
					}
				}
			})
		}
		for range 10 {
			time.Sleep(40 * time.Second)
			f.fail("Decrypt", cause.AccessDenied)
			until(t, time.Minute, inState(p, evidence.Refused))
			time.Sleep(time.Second) // of what was under way
			mu.Lock()
			count := len(written)
			mu.Unlock()
			time.Sleep(20 * time.Second)
			mu.Lock()
			if len(written) != count {
				t.Errorf("%d writes were acknowledged while nothing could be decrypted", len(written)-count)
			}
			mu.Unlock()
			f.mend("Decrypt")
			granted := time.Now()
			until(t, 10*time.Second, func() bool { mu.Lock(); defer mu.Unlock(); return last.After(granted) })
		}
		close(stop)
		writers.Wait()
		for _, e := range written {
			for _, in := range []keyring.Stored{read(e), {Ciphertext: e.Ciphertext, Bare: true}} {
				if plaintext, err := p.Decrypt(t.Context(), in); err != nil || string(plaintext) != "seed" {
					t.Fatalf("acknowledged, and does not open: %v", err)
				}
			}
		}
	})
}

// An alias that is moved to a key which works ends it: what was known is of
// another key.
func TestMovedAliasEndsTheRefusalOfEncrypt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log lines
		f := rotating()
		p := newRing(f, ringOptions{write: alias, log: &log})
		running(t, p)
		synctest.Wait()
		f.fail("Decrypt "+keyA, cause.AccessDenied)
		until(t, time.Minute, inState(p, evidence.Refused))
		wantNotEncrypted(t, f, p, cause.AccessDenied)
		f.moveAlias()
		until(t, 2*time.Minute, func() bool { return strings.Contains(log.String(), "alias was moved") })
		wantState(t, p, evidence.Healthy)
		wantEncrypted(t, p)
	})
}

func keyWorksLines(log *lines) int { return strings.Count(log.String(), `msg="key works"`) }

// The line is written when that becomes true.
func TestKeyWorksIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("by the first check", func(t *testing.T) {
		t.Parallel()
		var log lines
		bubble(t, ringOptions{log: &log}, func(t *testing.T, _ *fakeKMS, _ *provider.Provider) {
			if keyWorksLines(&log) != 1 {
				t.Errorf("the log of a key that works:\n%s", &log)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if keyWorksLines(&log) != 1 {
				t.Errorf("said again although nothing changed:\n%s", &log)
			}
		})
	})
	t.Run("by the first write", func(t *testing.T) {
		t.Parallel()
		var log lines
		p := newRing(newFake(), ringOptions{log: &log})
		wantEncrypted(t, p)
		if keyWorksLines(&log) != 1 {
			t.Errorf("the log of a key that works:\n%s", &log)
		}
	})
	t.Run("by Verify, once it is in use", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var log lines
			p := newRing(newFake(), ringOptions{log: &log})
			if err := p.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			if keyWorksLines(&log) != 0 {
				t.Errorf("said of a provider that is not in use:\n%s", &log)
			}
			running(t, p)
			synctest.Wait()
			if keyWorksLines(&log) != 1 {
				t.Errorf("the log of a key that works:\n%s", &log)
			}
		})
	})
	t.Run("after a start without KMS", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var log lines
			f := newFake()
			f.fail("Decrypt", cause.Unreachable)
			p := newRing(f, ringOptions{log: &log})
			running(t, p)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if keyWorksLines(&log) != 0 {
				t.Errorf("said of a key that does not:\n%s", &log)
			}
			f.mend("Decrypt")
			until(t, 10*time.Second, inState(p, evidence.Healthy))
			if keyWorksLines(&log) != 1 {
				t.Errorf("the log of a key that works:\n%s", &log)
			}
		})
	})
}
