package provider_test

import (
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
)

func TestRefusalOfAReadKeyIsConfirmedLater(t *testing.T) {
	t.Parallel()
	f := newTelling(false, false)
	telling(t, f, func(t *testing.T, p *provider.Provider, said func() string) {
		f.failOnce("Decrypt", cause.AccessDenied)
		for readB(t, p) == nil { // a check may have met it
			f.failOnce("Decrypt", cause.AccessDenied)
		}
		f.taken()
		time.Sleep(4900 * time.Millisecond)
		if n := f.count("Decrypt " + keyB); n != 0 || reader(t, p).State == evidence.Refused {
			t.Errorf("%d calls within five seconds, state %s", n, reader(t, p).State)
		}
		time.Sleep(1200 * time.Millisecond)
		if k := reader(t, p); k.Err != nil || strings.Contains(said(), "is refused") {
			t.Errorf("%+v: one refusal that does not last is no trouble", k)
		}
		f.fail("Decrypt "+keyB, cause.AccessDenied)
		if readB(t, p) == nil {
			t.Fatal("reads")
		}
		time.Sleep(4900 * time.Millisecond)
		if k := reader(t, p); k.State == evidence.Refused || k.Err == nil {
			t.Errorf("%+v within five seconds", k)
		}
		time.Sleep(1200 * time.Millisecond)
		if k := reader(t, p); k.State != evidence.Refused {
			t.Errorf("%+v after the confirmation", k)
		}
	})
}

// Nothing but the refused blob itself tells that a key works again, where dry runs
// say yes to a disabled key and nobody may describe it.
func TestRefusedReadKeyRecoversWithoutTrafficAndWithoutAnOpenedBlob(t *testing.T) {
	t.Parallel()
	f := newTelling(true, true)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		f.set(keyB, "Disabled")
		if readB(t, p) == nil {
			t.Fatal("reads")
		}
		within(t, 10*time.Second, "the refusal is confirmed", func() bool { return reader(t, p).State == evidence.Refused })
		time.Sleep(24 * time.Hour)
		if k := reader(t, p); k.State != evidence.Refused {
			t.Fatalf("%+v after a day", k)
		}
		f.set(keyB, "Enabled")
		within(t, 5*time.Minute, "it works again", func() bool { return reader(t, p).State == evidence.Healthy })
	})
}

// A blob that a caller chose must not stand in the way of an answer.
func TestForeignBlobThatWasRefusedIsNoProof(t *testing.T) {
	t.Parallel()
	f := newTelling(false, true)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		f.set(keyB, "Disabled")
		if _, err := p.Decrypt(t.Context(), stored(alien, "seed", keyB)); cause.ClassOf(err) != cause.Refused {
			t.Fatalf("got %s", code(err))
		}
		within(t, 10*time.Second, "the refusal is confirmed", func() bool { return reader(t, p).State == evidence.Refused })
		f.set(keyB, "Enabled")
		within(t, 5*time.Minute, "a dry run tells that it works", func() bool { return reader(t, p).State == evidence.Authorised })
	})
}

// What a caller was refused must not take the place of what the key has opened.
func TestOpenedBlobStaysTheProofAfterARefusal(t *testing.T) {
	t.Parallel()
	f := newTelling(true, true)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		if err := readB(t, p); err != nil {
			t.Fatal(err)
		}
		f.set(keyB, "Disabled")
		if _, err := p.Decrypt(t.Context(), stored(alien, "seed", keyB)); cause.ClassOf(err) != cause.Refused {
			t.Fatalf("got %s", code(err))
		}
		within(t, 10*time.Second, "the refusal is confirmed", func() bool { return reader(t, p).State == evidence.Refused })
		f.set(keyB, "Enabled")
		within(t, 5*time.Minute, "it works again", func() bool { return reader(t, p).State != evidence.Refused })
		if k := reader(t, p); k.State != evidence.Healthy {
			t.Errorf("%+v, want it proven by what it opened before", k)
		}
	})
}

// A dry run that sees no state says yes to a disabled key.
func TestDryRunAloneEndsNoRefusalOfAState(t *testing.T) {
	t.Parallel()
	f := newTelling(true, false)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		f.set(keyB, "Disabled")
		within(t, 6*time.Minute, "the key is refused", func() bool { return reader(t, p).State == evidence.Refused })
		f.tellMu.Lock()
		f.shut = true
		f.tellMu.Unlock()
		time.Sleep(24 * time.Hour)
		if k := reader(t, p); k.State != evidence.Refused {
			t.Errorf("%+v, although nothing says that the key is enabled", k)
		}
		f.tellMu.Lock()
		f.shut = false
		f.tellMu.Unlock()
		f.set(keyB, "Enabled")
		within(t, 7*time.Hour, "it is described as enabled", func() bool { return reader(t, p).State == evidence.Authorised })
	})
}

// A disabled key must not cost a call every few seconds for months.
func TestQuestionsAboutARefusedKeyBackOff(t *testing.T) {
	t.Parallel()
	f := newTelling(false, true)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		if err := readB(t, p); err != nil {
			t.Fatal(err)
		}
		f.set(keyB, "Disabled")
		within(t, 6*time.Minute, "the key is refused", func() bool { return reader(t, p).State == evidence.Refused })
		f.taken()
		time.Sleep(24 * time.Hour)
		if n := f.count("Decrypt " + keyB); n > 24*12+10 || n < 24*11 {
			t.Errorf("%d calls a day, want one every five minutes", n)
		}
	})
}

func TestOutageOfAReadKeyIsTold(t *testing.T) {
	t.Parallel()
	for code, want := range map[cause.Code]evidence.State{cause.Unreachable: evidence.Outage, cause.CredentialsExpired: evidence.Credentials} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			f := newTelling(true, true)
			telling(t, f, func(t *testing.T, p *provider.Provider, said func() string) {
				f.fail("Decrypt "+keyB, code)
				within(t, 6*time.Minute, "it cannot be used", func() bool { return reader(t, p).State == want })
				wantStatus(t, p, "ok")
				f.mend("Decrypt " + keyB)
				within(t, 5*time.Minute, "it can", func() bool { return reader(t, p).State == evidence.Authorised })
				if s := said(); strings.Count(s, "a key that only reads cannot be used") != 1 || strings.Count(s, "may decrypt again") != 1 {
					t.Errorf("the log says:\n%s", s)
				}
			})
		})
	}
}

// The provider's own line tells an outage of KMS already.
func TestOutageOfAllKeysIsToldOnce(t *testing.T) {
	t.Parallel()
	f := newTelling(true, true)
	telling(t, f, func(t *testing.T, p *provider.Provider, said func() string) {
		f.fail("Decrypt", cause.Unreachable)
		f.fail("Encrypt", cause.Unreachable)
		within(t, 6*time.Minute, "nothing can be used", func() bool { return reader(t, p).State == evidence.Outage && p.Health().State == evidence.Outage })
		time.Sleep(time.Hour)
		if s := said(); strings.Contains(s, "a key that only reads") {
			t.Errorf("the log says:\n%s", s)
		}
	})
}
