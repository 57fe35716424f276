package provider_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// status is the shape of a Status: "ok", "text CODE" or "error CODE".
func status(t *testing.T, p *provider.Provider) string {
	t.Helper()
	return statusFor(t.Context(), t, p)
}

func statusFor(ctx context.Context, t *testing.T, p *provider.Provider) string {
	t.Helper()
	s, err := p.Status(ctx)
	switch {
	case err != nil:
		return "error " + cause.Of(err).Code.String()
	case s.KeyID != keyA:
		t.Errorf("key_id %q, want it unchanged", s.KeyID)
		return "wrong key_id"
	case s.Healthz == provider.OK:
		return "ok"
	}
	_, after, _ := strings.Cut(s.Healthz, "KMS")
	return "text KMS" + after[:4]
}

func wantStatus(t *testing.T, p *provider.Provider, want string) {
	t.Helper()
	if got := status(t, p); got != want {
		t.Errorf("Status is %q, want %q", got, want)
	}
}

func wantState(t *testing.T, p *provider.Provider, want evidence.State) {
	t.Helper()
	if h := p.Health(); h.State != want {
		t.Errorf("state %s (%v), want %s", h.State, h.Err, want)
	}
}

// bubble runs a test with a ring that is running over a fake KMS.
func bubble(t *testing.T, o ringOptions, test func(t *testing.T, f *fakeKMS, p *provider.Provider)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		p := newRing(f, o)
		running(t, p)
		synctest.Wait()
		test(t, f, p)
	})
}

func TestChecksRunOnlyWithoutEvidenceFromTraffic(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		if calls := f.taken(); len(calls) != 2 {
			t.Errorf("first contact made %q, want one Encrypt and one Decrypt", calls)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if calls := f.taken(); len(calls) != 40 {
			t.Errorf("%d calls in 10 idle minutes, want 2 every 30 s", len(calls))
		}
		for range 600 {
			e, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Decrypt(t.Context(), keyring.Stored{Ciphertext: e.Ciphertext}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		const looks = 10 * 2 // at the key material, once a minute
		if calls := f.taken(); len(calls) != 1200+looks {
			t.Errorf("%d calls for 1,200 of traffic, want no checks beside them", len(calls)-looks)
		}
	})
}

// Writes alone show nothing about reading.
func TestEncryptsAloneDoNotReplaceTheCheck(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Decrypt", cause.AccessDenied)
		for range 60 {
			if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil && cause.Of(err).Code != cause.AccessDenied {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		wantState(t, p, evidence.Refused)
		wantStatus(t, p, "error KMS0104")
	})
}

// A refused key must not be taken for an outage, which has a grace, only because
// KMS can no longer be asked.
func TestRefusedKeyStaysRefusedAmidAnOutage(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{grace: time.Hour}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Encrypt", cause.KeyDisabled)
		time.Sleep(37 * time.Second) // a check within 30 s, and the one that confirms it
		f.fail("Encrypt", cause.Unreachable)
		time.Sleep(5 * time.Minute)
		wantStatus(t, p, "error KMS0101")
		_, err := p.Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), "since then: KMS0204") {
			t.Errorf("got %v, want also what fails now", err)
		}
		f.mend("Encrypt")
		time.Sleep(7 * time.Second)
		wantStatus(t, p, "ok")
	})
}

// Encrypt is throttled while Decrypt is refused: the refusal must come out, and
// the checks must not storm an account that is throttled.
func TestRefusedDecryptIsConfirmedWhileEncryptFails(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{grace: time.Hour}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Encrypt", cause.Throttled)
		f.fail("Decrypt", cause.AccessDenied)
		if _, err := p.Decrypt(t.Context(), stored(keyA, "seed", "")); err == nil {
			t.Fatal("want a refusal")
		}
		time.Sleep(10 * time.Second)
		wantStatus(t, p, "error KMS0104")
		f.taken()
		time.Sleep(10 * time.Minute)
		if calls := f.taken(); len(calls) > 400 {
			t.Errorf("%d calls in 10 minutes, want a check every 5 s", len(calls))
		}
	})
}

func TestRefusalIsFoundWithoutTraffic(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Encrypt", cause.KeyDisabled)
		time.Sleep(37 * time.Second) // a check within 30 s, and the one that confirms it
		wantStatus(t, p, "error KMS0101")
	})
}

func TestOutageIsToldAfterTheGraceAndSeenAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code  cause.Code
		state evidence.State
		want  string
	}{
		"outage":      {cause.Unreachable, evidence.Outage, "text KMS0204"},
		"credentials": {cause.CredentialsExpired, evidence.Credentials, "text KMS0302"},
		"bug":         {cause.Unforeseen, evidence.Outage, "text KMS0999"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			bubble(t, ringOptions{grace: 3 * time.Minute, log: &log}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
				f.fail("Encrypt", c.code)
				f.fail("Decrypt", c.code)
				time.Sleep(45 * time.Second) // a check within 30 s, one failure
				wantState(t, p, evidence.Healthy)
				if !p.Health().Suspect {
					t.Error("want the failures to show before they amount to a state")
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				wantState(t, p, c.state)
				wantStatus(t, p, "ok")
				h := p.Health()
				if want := h.LastOK.Add(3 * time.Minute); !h.GraceEnds.Equal(want) {
					t.Errorf("grace ends %v, want %v", h.GraceEnds, want)
				}
				if !strings.Contains(log.String(), "status_ok_until") || !strings.Contains(log.String(), c.code.String()) {
					t.Errorf("the log does not say it at once:\n%s", log.String())
				}
				time.Sleep(time.Until(h.GraceEnds) + time.Second)
				wantStatus(t, p, c.want)
				f.mend("Encrypt")
				f.mend("Decrypt")
				time.Sleep(7 * time.Second)
				wantState(t, p, evidence.Healthy)
				wantStatus(t, p, "ok")
			})
		})
	}
}

func TestGraceOfZeroReportsAnOutageWhenItIsDeclared(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.hang(time.Hour)
		time.Sleep(62 * time.Second)
		wantStatus(t, p, "text KMS0203")
		f.hang(0)
		time.Sleep(15 * time.Second)
		wantStatus(t, p, "ok")
	})
}

func TestOneThrottledCallIsNoOutage(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		for range 20 {
			f.fail("Encrypt", cause.Throttled)
			for range 50 { // many at once are still one moment
				_, _ = p.Encrypt(t.Context(), secret.Bytes("seed"))
			}
			wantStatus(t, p, "ok")
			f.mend("Encrypt")
			time.Sleep(10 * time.Second)
			wantStatus(t, p, "ok")
		}
	})
}

func TestBadDataAndCallersWhoLeaveTellHealthNothing(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		for _, c := range []cause.Code{cause.CallerLeft, cause.TooLittleTime, cause.CiphertextInvalid, cause.NoKeyMadeIt} {
			for i := range 100 {
				f.fail("Decrypt "+keyA, c)
				_, _ = p.Decrypt(t.Context(), stored(keyA, string(rune('a'+i)), ""))
				f.mend("Decrypt " + keyA)
				time.Sleep(time.Second)
			}
			if h := p.Health(); h.State != evidence.Healthy || h.Suspect {
				t.Errorf("after 100 times %s: state %s, suspect %v", c, h.State, h.Suspect)
			}
		}
	})
}

func TestReadKeysNeverDecideStatus(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{read: []string{keyB}}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Decrypt "+keyB, cause.KeyDisabled)
		for range 60 {
			if _, err := p.Decrypt(t.Context(), stored(keyB, "seed", keyB)); cause.ClassOf(err) != cause.Refused {
				t.Fatalf("got %s", code(err))
			}
			time.Sleep(time.Second)
		}
		wantStatus(t, p, "ok")
		wantState(t, p, evidence.Healthy)
		if k := p.Health().ReadKeys; len(k) != 1 || k[0].State != evidence.Refused || k[0].Err == nil {
			t.Errorf("read keys %+v, want the refused one", k)
		}
		for _, call := range f.taken() {
			if call == "Encrypt "+keyB {
				t.Error("a read key was encrypted with")
			}
		}
	})
}

func TestStatusBeforeFirstContactWaitsForTheFirstCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		delay    time.Duration // of each call of KMS
		idle     bool          // no check begins
		deadline time.Duration // of the caller; 0: none
		want     string
		took     time.Duration
	}{
		"as long as the check takes":             {500 * time.Millisecond, false, 0, "ok", time.Second},
		"also where KMS is slow":                 {1500 * time.Millisecond, false, 35 * time.Second, "ok", 3 * time.Second},
		"no longer than a check that fails":      {5 * time.Second, false, 35 * time.Second, "error KMS0203", 2800 * time.Millisecond},
		"the caller's time less that of a reply": {1500 * time.Millisecond, false, 3 * time.Second, "error KMS0210", 2700 * time.Millisecond},
		"six seconds at most":                    {0, true, 35 * time.Second, "error KMS0210", 6 * time.Second},
		"six seconds for who has no deadline":    {0, true, 0, "error KMS0210", 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.delay = c.delay
				p := newRing(f, ringOptions{})
				if !c.idle {
					running(t, p)
				}
				ctx, cancel := context.WithCancel(t.Context())
				if c.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), c.deadline)
				}
				defer cancel()
				began := time.Now()
				got := statusFor(ctx, t, p)
				if took := time.Since(began); took != c.took {
					t.Errorf("waited %v, want %v", took, c.took)
				}
				if got != c.want {
					t.Errorf("Status is %q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestStartWithoutKMSIsUnreadyAndRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.fail("Encrypt", cause.NameResolution)
		p := newRing(f, ringOptions{grace: time.Hour})
		running(t, p)
		synctest.Wait()
		wantStatus(t, p, "error KMS0205")
		wantState(t, p, evidence.Unknown)
		time.Sleep(time.Minute)
		wantStatus(t, p, "error KMS0205") // no grace for what never worked
		f.mend("Encrypt")
		time.Sleep(7 * time.Second)
		wantStatus(t, p, "ok")
	})
}

func TestStatusNeverWaitsForKMSAfterFirstContact(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.hang(time.Hour)
		for range 300 {
			began := time.Now()
			_, _ = p.Status(t.Context())
			_ = p.Health()
			if took := time.Since(began); took != 0 {
				t.Fatalf("Status and Health took %v", took)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestRoundTripThatBreaksIsNeverHealth(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Decrypt", cause.CiphertextInvalid) // of what the check itself has just encrypted
		time.Sleep(2 * time.Minute)
		wantStatus(t, p, "text KMS0902")
	})
}

func TestAdviceNamesSettingsAsTheOperatorDoes(t *testing.T) {
	t.Parallel()
	inFile := func(setting string) string { return setting + ` in "/etc/p.yaml"` }
	bubble(t, ringOptions{called: inFile, read: []string{keyB}}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		if _, err := p.Decrypt(t.Context(), stored(keyB, "seed", keyB)); err != nil { // so that the key that only reads is asked
			t.Fatal(err)
		}
		f.fail("Encrypt", cause.NameResolution)
		f.fail("Decrypt", cause.NameResolution)
		_, called := p.Encrypt(t.Context(), secret.Bytes("seed"))
		time.Sleep(time.Hour)
		synctest.Wait()
		s, err := p.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h := p.Health()
		texts := map[string]string{"Encrypt": called.Error(), "Status": s.Healthz, "Health": h.Err.Error()}
		for _, k := range h.ReadKeys {
			texts["Health of "+k.Key] = k.Err.Error()
		}
		for who, text := range texts {
			if want := `region in "/etc/p.yaml" and endpoint in "/etc/p.yaml"`; !strings.Contains(text, want) {
				t.Errorf("%s says %s, want it to name %s", who, text, want)
			}
		}
		if len(texts) != 4 {
			t.Errorf("%d texts, want one of the read key too", len(texts))
		}
	})
}

// A key that is carried over a reload may meet its first failure in a call that the
// provider before still answers.
func TestFailureThatTheProviderBeforeMetIsCheckedSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := newKey(f, keyA)
		before := ringOf(ringOptions{}, k)
		stop := stoppable(t, before)
		synctest.Wait()
		next := ringOf(ringOptions{before: before}, k)
		running(t, next)
		time.Sleep(time.Second)
		f.failOnce("Encrypt", cause.Unreachable)
		if _, err := before.Encrypt(t.Context(), secret.Bytes("seed")); err == nil {
			t.Fatal("the call works, want it to fail")
		}
		stop()
		f.taken()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if calls := f.taken(); len(calls) < 2 {
			t.Errorf("calls %q within 10 s of a failure, want a check", calls)
		}
	})
}

// A Decrypt shows the key that an alias named once. When the alias turns out to name
// another key, that other one's health counts.
func TestRefusalOfTheKeyThatADecryptShowedEndsWithTheFirstLook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		p := newRing(f, ringOptions{write: alias})
		if _, err := p.Decrypt(t.Context(), stored(keyA, "seed", alias)); err != nil {
			t.Fatal(err)
		}
		f.fail("Decrypt "+keyA, cause.AccessDenied)
		f.moveAlias()
		running(t, p)
		looked := func() bool { return slices.Contains(f.taken(), "Encrypt "+alias) }
		until(t, time.Minute, looked)
		if h := p.Health(); h.State != evidence.Healthy {
			t.Errorf("state %s (%v) after the alias's own key has worked, want %s", h.State, h.Err, evidence.Healthy)
		}
	})
}
