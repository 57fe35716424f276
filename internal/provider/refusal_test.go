package provider_test

import (
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// encryptRefused makes a caller meet a refusal.
func encryptRefused(t *testing.T, p *provider.Provider) {
	t.Helper()
	if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err == nil {
		t.Fatal("want a refusal")
	}
}

// IAM is eventually consistent: a refusal and another one milliseconds later are
// one moment.
func TestRefusalIsConfirmedByTime(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		time.Sleep(10 * time.Second)
		f.fail("Encrypt", cause.KeyDisabled)
		f.taken()
		met := time.Now()
		encryptRefused(t, p)
		synctest.Wait()
		if calls := f.taken(); len(calls) != 3 {
			t.Errorf("calls %q, want the caller's and those of a check that it wakes", calls)
		}
		for time.Since(met) < 5*time.Second-time.Millisecond {
			wantStatus(t, p, "ok")
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second + 2*time.Millisecond)
		wantState(t, p, evidence.Refused)
		wantStatus(t, p, "error KMS0101")
		f.mend("Encrypt")
		time.Sleep(7 * time.Second) // it recovers by itself
		wantState(t, p, evidence.Healthy)
		wantStatus(t, p, "ok")
	})
}

func TestRefusalThatNoCheckMeetsIsNothing(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		time.Sleep(10 * time.Second)
		f.failOnce("Encrypt", cause.AccessDenied)
		encryptRefused(t, p)
		synctest.Wait()
		wantState(t, p, evidence.Healthy)
		if p.Health().Suspect {
			t.Error("suspect after a check that worked")
		}
	})
}

// Old and new answers of IAM come in turn for a while.
func TestRefusalsWithASuccessBetweenConfirmNothing(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		for range 20 {
			f.fail("Encrypt", cause.AccessDenied)
			encryptRefused(t, p)
			time.Sleep(3 * time.Second)
			encryptRefused(t, p)
			f.mend("Encrypt")
			if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			wantStatus(t, p, "ok")
		}
	})
}

// Many callers who are refused wake one check, and confirm nothing themselves.
func TestTrafficNeitherConfirmsARefusalNorMakesChecksStorm(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		time.Sleep(10 * time.Second)
		f.fail("Encrypt", cause.KeyDisabled)
		f.taken()
		const callers = 49 // over 4.9 s
		for range callers {
			encryptRefused(t, p)
			time.Sleep(100 * time.Millisecond)
		}
		wantStatus(t, p, "ok")
		if calls := f.taken(); len(calls) != callers+2 {
			t.Errorf("%d calls, want one check beside %d", len(calls), callers)
		}
		time.Sleep(2 * time.Second)
		wantStatus(t, p, "error KMS0101")
	})
}

// Calls that are refused again and again do not count as checks.
func TestTrafficAloneConfirmsNoRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		p := newRing(f, ringOptions{})
		if err := p.Verify(t.Context()); err != nil { // and no check runs
			t.Fatal(err)
		}
		f.fail("Encrypt", cause.AccessDenied)
		for range 20 {
			encryptRefused(t, p)
			time.Sleep(time.Second)
		}
		wantState(t, p, evidence.Healthy)
	})
}

// The first check concludes before it waits to confirm a refusal: a Status that
// waits for it is answered at once.
func TestFirstCheckConcludesBeforeItConfirms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.fail("Encrypt", cause.AccessDenied)
		p := newRing(f, ringOptions{})
		running(t, p)
		began := time.Now()
		wantStatus(t, p, "error KMS0104")
		if took := time.Since(began); took != 0 {
			t.Errorf("Status took %s, want no wait for the second check", took)
		}
		wantState(t, p, evidence.Unknown)
		time.Sleep(7 * time.Second)
		wantState(t, p, evidence.Refused)
	})
}

// Encrypt fails otherwise while Decrypt is refused: what was sealed before is asked
// for, and confirms by time as well.
func TestRefusedDecryptIsConfirmedByTimeWhileEncryptFails(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{grace: time.Hour}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		time.Sleep(10 * time.Second)
		f.fail("Encrypt", cause.Throttled)
		f.fail("Decrypt", cause.AccessDenied)
		if _, err := p.Decrypt(t.Context(), stored(keyA, "seed", "")); err == nil {
			t.Fatal("want a refusal")
		}
		time.Sleep(4900 * time.Millisecond)
		wantStatus(t, p, "ok")
		time.Sleep(2 * time.Second)
		wantStatus(t, p, "error KMS0104")
	})
}
