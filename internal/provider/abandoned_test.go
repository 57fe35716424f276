package provider_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// leftBehind counts what is left behind.
type leftBehind struct {
	bounded.Observer

	mu    sync.Mutex
	waits map[bounded.Wait]int
}

func newLeftBehind() *leftBehind {
	l := &leftBehind{waits: map[bounded.Wait]int{}}
	l.Left = func(w bounded.Wait) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waits[w]++
	}
	return l
}

func (l *leftBehind) count(w bounded.Wait) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waits[w]
}

// lines are a log that is read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(line)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// until waits for something to become true.
func until(t *testing.T, most time.Duration, is func() bool) {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > most {
			t.Fatalf("not within %s", most)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
}

func inState(p *provider.Provider, s evidence.State) func() bool {
	return func() bool { return p.Health().State == s }
}

// What stands at KMS's address swallows a call, and no context ends that.
func TestThreeChecksThatNeverEndPutTheKeyInDoubt(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"Encrypt", "Decrypt"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			var log lines
			left := newLeftBehind()
			o := ringOptions{grace: 3 * time.Minute, log: &log, waits: &left.Observer}
			bubble(t, o, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
				time.Sleep(29 * time.Second)
				release := f.stick(op)
				defer release()
				until(t, time.Minute, func() bool { return left.count(bounded.Check) == 2 })
				wantState(t, p, evidence.Healthy)
				if h := p.Health(); !h.Suspect || h.Err == nil || h.Err.Code != cause.InDoubt {
					t.Errorf("after two checks: suspect %t, %v; want the failure to show", h.Suspect, h.Err)
				}
				until(t, 10*time.Second, func() bool { return left.count(bounded.Check) == 3 })
				wantState(t, p, evidence.Outage)
				h := p.Health()
				if h.Err.Code != cause.InDoubt || h.CanEncrypt() || !h.GraceEnds.Equal(h.LastOK.Add(3*time.Minute)) {
					t.Errorf("in doubt: %+v", h)
				}
				wantStatus(t, p, "ok")
				if n := strings.Count(log.String(), "nobody knows whether the key works: its checks tell nothing"); n != 1 || !strings.Contains(log.String(), "code=KMS0211") {
					t.Errorf("said %d times, want once, with its code:\n%s", n, &log)
				}
				time.Sleep(time.Until(h.GraceEnds) - time.Millisecond)
				wantStatus(t, p, "ok")
				time.Sleep(2 * time.Millisecond)
				wantStatus(t, p, "text KMS0211")
				before := left.count(bounded.Check)
				until(t, 10*time.Second, func() bool { return left.count(bounded.Check) > before }) // between two checks
				release()
				synctest.Wait()
				wantState(t, p, evidence.Outage) // what was left behind ends nothing
				until(t, 10*time.Second, inState(p, evidence.Healthy))
				wantStatus(t, p, "ok")
			})
		})
	}
}

// Traffic shows that the key works, however checks end.
func TestSuccessBetweenChecksThatNeverEndIsNoDoubt(t *testing.T) {
	t.Parallel()
	left := newLeftBehind()
	bubble(t, ringOptions{waits: &left.Observer}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		for n := 1; n <= 12; n++ {
			release := f.stick("Decrypt")
			until(t, time.Minute, func() bool { return left.count(bounded.Check) == n })
			if n%3 == 2 {
				f.stick() // new calls work
				if _, err := p.Decrypt(t.Context(), stored(keyA, "seed", "")); err != nil {
					t.Fatal(err)
				}
			}
			wantState(t, p, evidence.Healthy)
			defer release()
		}
	})
}

func TestStartWithKMSThatNeverAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		release := f.stick("Encrypt")
		defer release()
		p := newRing(f, ringOptions{grace: time.Hour})
		running(t, p)
		time.Sleep(20 * time.Second)
		wantStatus(t, p, "error KMS0211")
		wantState(t, p, evidence.Outage)
		release()
		until(t, 10*time.Second, inState(p, evidence.Healthy))
		wantStatus(t, p, "ok")
	})
}

// What a look finds too late does not count as an observation, and the next one comes in time.
func TestLookThatNeverEndsIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log lines
		left := newLeftBehind()
		f := rotating()
		p := newRing(f, ringOptions{write: alias, log: &log, waits: &left.Observer})
		running(t, p)
		wantTold(t, watched(t, p, 10*time.Second), aliasA)
		release := f.stick("Encrypt " + alias)
		defer release()
		f.moveAlias()
		until(t, 5*time.Minute, func() bool { return left.count(bounded.Look) == 3 })
		wantState(t, p, evidence.Healthy)
		if trouble := p.Health().Trouble; trouble == nil || trouble.Err.Code != cause.InDoubt {
			t.Errorf("trouble %+v, want that looks do not end", trouble)
		}
		release()
		synctest.Wait()
		if strings.Contains(log.String(), "another key") || p.Health().Trouble == nil {
			t.Errorf("a look that was left behind counts:\n%s", &log)
		}
		wantTold(t, watched(t, p, 90*time.Second), aliasA, aliasB)
	})
}

// The rule holds for every class: also what says nothing about a key must not go on
// for ever.
func TestChecksThatTellNothingPutTheKeyInDoubt(t *testing.T) {
	t.Parallel()
	for _, code := range []cause.Code{cause.CiphertextInvalid, cause.NoKeyMadeIt, cause.CallerLeft, cause.TooLittleTime, cause.TooManyCalls} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			bubble(t, ringOptions{grace: time.Minute}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
				time.Sleep(29 * time.Second)
				f.fail("Encrypt", code)
				f.taken()
				until(t, time.Minute, inState(p, evidence.Outage))
				if calls := f.taken(); len(calls) != 3 {
					t.Errorf("calls %q until it is in doubt, want three checks", calls)
				}
				if err := p.Health().Err; err.Code != code || !strings.Contains(err.Error(), "nobody knows whether it works") {
					t.Errorf("told %v, want its own cause, and what that means", err)
				}
				wantStatus(t, p, "ok")
				time.Sleep(time.Minute)
				wantStatus(t, p, "text "+code.String())
				f.mend("Encrypt")
				until(t, 10*time.Second, inState(p, evidence.Healthy))
			})
		})
	}
}

func TestRefusedKeyStaysRefusedWhileChecksDoNotEnd(t *testing.T) {
	t.Parallel()
	bubble(t, ringOptions{grace: time.Hour}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Encrypt", cause.KeyDisabled)
		time.Sleep(40 * time.Second)
		release := f.stick("Encrypt")
		defer release()
		time.Sleep(time.Minute)
		wantStatus(t, p, "error KMS0101")
		if err := p.Health().Err; err.Later == nil || err.Later.Code != cause.InDoubt {
			t.Errorf("told %v, want also that checks do not end", err)
		}
	})
}

func TestRunEndsAlthoughACheckNeverDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		release := f.stick("Encrypt")
		defer release()
		p := newRing(f, ringOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		time.Sleep(time.Second)
		cancel()
		ended := time.Now()
		<-done
		if took := time.Since(ended); took > time.Second {
			t.Errorf("Run took %s to end", took)
		}
		if h := p.Health(); h.Suspect {
			t.Errorf("the end of the process counts as a failure: %v", h.Err)
		}
	})
}

func TestVerifyIsNotHeldUpByKMSThatNeverAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		release := f.stick("Decrypt")
		defer release()
		p := newRing(f, ringOptions{})
		began := time.Now()
		err := p.Verify(t.Context())
		if took := time.Since(began); err == nil || cause.Of(err).Code != cause.InDoubt || took > 4*time.Second {
			t.Errorf("Verify took %s: %v; want KMS0211 within the time of a call", took, err)
		}
		release()
		synctest.Wait()
		if h := p.Health(); h.KeyID != "" {
			t.Errorf("key_id %s of a Verify that was given up", h.KeyID)
		}
	})
}

// Two checks did not end, the process was stopped, and one more did not end: no
// three of them ran one after the other.
func TestPauseStartsToCountAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bad    func(f *fakeKMS) (release func())
		checks int // that amount to a state
	}{
		"checks that do not end":       {func(f *fakeKMS) func() { return f.stick("Encrypt") }, 3},
		"checks that tell nothing":     {func(f *fakeKMS) func() { f.fail("Encrypt", cause.CiphertextInvalid); return func() {} }, 3},
		"checks that fail":             {func(f *fakeKMS) func() { f.fail("Encrypt", cause.Unreachable); return func() {} }, 5},
		"a refusal that has to be met": {func(f *fakeKMS) func() { f.fail("Encrypt", cause.AccessDenied); return func() {} }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, ringOptions{}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
				time.Sleep(46 * time.Second) // past the first look, which does not count as a check
				release := c.bad(f)
				defer release()
				f.taken()
				checks := func(n int) {
					t.Helper()
					for n > 0 {
						time.Sleep(100 * time.Millisecond)
						n -= strings.Count(strings.Join(f.taken(), "\n"), "Encrypt")
					}
					time.Sleep(3 * time.Second) // until the last is left behind
				}
				checks(c.checks - 1)
				wantState(t, p, evidence.Healthy)
				p.Pause(10 * time.Minute)
				f.taken()
				wantState(t, p, evidence.Healthy)
				checks(1)
				wantState(t, p, evidence.Healthy)
				wantStatus(t, p, "ok")
				if !p.Health().Suspect {
					t.Error("no check failed after the pause: the test is wrong")
				}
				until(t, time.Minute, func() bool { return !inState(p, evidence.Healthy)() })
			})
		})
	}
}

// A key does not fail while the process does not run.
func TestGraceCountsOnlyTimeInWhichTheProcessRan(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Minute
	t.Run("nothing was failing before", func(t *testing.T) {
		t.Parallel()
		bubble(t, ringOptions{grace: grace}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
			time.Sleep(20 * time.Second)
			p.Pause(10 * time.Minute)
			resumed := time.Now()
			f.fail("Encrypt", cause.Unreachable)
			until(t, time.Minute, inState(p, evidence.Outage))
			wantStatus(t, p, "ok")
			if ends := p.Health().GraceEnds; !ends.Equal(resumed.Add(grace)) {
				t.Errorf("the grace ends %s after the pause, want %s", ends.Sub(resumed), grace)
			}
			time.Sleep(time.Until(resumed.Add(grace)))
			wantStatus(t, p, "text KMS0204")
		})
	})
	t.Run("amid an outage", func(t *testing.T) {
		t.Parallel()
		bubble(t, ringOptions{grace: grace}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
			f.fail("Encrypt", cause.Unreachable)
			until(t, time.Minute, inState(p, evidence.Outage))
			was := p.Health().GraceEnds
			p.Pause(10 * time.Minute)
			wantState(t, p, evidence.Outage)
			wantStatus(t, p, "ok")
			if ends := p.Health().GraceEnds; ends.Before(was) || ends.After(was.Add(10*time.Second)) {
				t.Errorf("the grace ends %s later than before the pause, want at most the time since the last check", ends.Sub(was))
			}
			time.Sleep(grace)
			wantStatus(t, p, "text KMS0204")
		})
	})
}

// Each pause counts once, and never the time before it: another one follows before
// the next check, and what fails may hide what failed before.
func TestPausesAmidAnOutageDoNotProlongTheGrace(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Minute
	bubble(t, ringOptions{grace: grace}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.garble(true)
		until(t, 2*time.Minute, inState(p, evidence.Outage))
		was := p.Health().GraceEnds
		f.fail("Encrypt "+keyA, cause.Unreachable) // nothing is sealed, so nothing is opened
		time.Sleep(10 * time.Minute)
		for range 3 {
			p.Pause(20 * time.Minute)
		}
		f.mend("Encrypt " + keyA)
		time.Sleep(10 * time.Second)
		wantStatus(t, p, "text KMS0902")
		if ends := p.Health().GraceEnds; ends.After(was.Add(30 * time.Second)) {
			t.Errorf("the grace ends %s later than before the pauses, in which none of it passed", ends.Sub(was))
		}
	})
}

// The process asks the one detector, whoever comes first after a pause.
func TestPausesOfTheProcessAreSeen(t *testing.T) {
	t.Parallel()
	pausing := func(t *testing.T, test func(fail func(times int), p *provider.Provider)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			pauses := bounded.NewPauses()
			p := newRing(f, ringOptions{grace: time.Minute, pauses: pauses})
			if err := p.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.fail("Encrypt", cause.Unreachable)
			test(func(times int) {
				for range times {
					time.Sleep(8 * time.Second)
					pauses.Turn()
					_, _ = p.Encrypt(t.Context(), secret.Bytes("seed"))
				}
			}, p)
		})
	}
	const away = 10 * time.Minute // without a turn
	t.Run("by a call that fails", func(t *testing.T) {
		t.Parallel()
		pausing(t, func(fail func(times int), p *provider.Provider) {
			fail(3)
			wantState(t, p, evidence.Healthy)
			time.Sleep(away)
			fail(1)
			wantState(t, p, evidence.Healthy)
			wantStatus(t, p, "ok")
		})
	})
	t.Run("by Status", func(t *testing.T) {
		t.Parallel()
		pausing(t, func(fail func(times int), p *provider.Provider) {
			fail(4)
			wantState(t, p, evidence.Outage)
			time.Sleep(away)
			wantStatus(t, p, "ok") // within the grace, which leaves out the pause
		})
	})
}

// An outage is told first, and that nobody knows any more as well.
func TestDoubtIsSaidAlsoAmidAnOutage(t *testing.T) {
	t.Parallel()
	var log lines
	bubble(t, ringOptions{log: &log}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
		f.fail("Encrypt", cause.Unreachable)
		until(t, time.Minute, inState(p, evidence.Outage))
		release := f.stick("Encrypt")
		defer release()
		until(t, time.Minute, func() bool { return p.Health().Err.Code == cause.InDoubt })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := strings.Count(log.String(), "nobody knows whether the key works"); n != 1 {
			t.Errorf("said %d times, want once:\n%s", n, &log)
		}
	})
}
