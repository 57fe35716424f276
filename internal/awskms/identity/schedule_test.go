package identity

import (
	"math/rand/v2"
	"testing"
	"time"
)

func usual() *Timing {
	t := Timing{}.orUsual()
	return &t
}

// The formula as the operator was told it, for every life: at most one ask before
// the window, and in it one every pause.
func TestRenewalsKeepTheirSchedule(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, life := range []time.Duration{time.Second, 10 * time.Second, time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour} {
		for _, took := range []time.Duration{0, time.Second, 9 * time.Second, 40 * time.Second} {
			ends := start.Add(life)
			opens := ends.Add(-min(life/3, 5*time.Minute))
			pause := min(max(life/10, 2*time.Second), 30*time.Second)
			early, asked := 0, start.Add(-took)
			for n := 0; ; n++ {
				at := usual().renewal(start, ends, asked, took)
				if at.Before(start) || at.After(ends) || n > 20 {
					t.Fatalf("life %s, took %s: ask %d is due %s after they came", life, took, n, at.Sub(start))
				}
				if at.Equal(ends) {
					break
				}
				if at.Before(opens) {
					early++
				}
				if gap := at.Sub(asked); n > 0 && !asked.Before(opens) && gap < pause/2 {
					t.Errorf("life %s, took %s: asks %s apart, want %s", life, took, gap, pause)
				}
				asked = at
			}
			if early > 1 {
				t.Errorf("life %s, took %s: %d asks before the window, want one", life, took, early)
			}
			if took == 0 && life >= 10*time.Second && ends.Sub(asked) > 2*time.Second {
				t.Errorf("life %s: the last ask is %s before the end, want one just before it", life, ends.Sub(asked))
			}
		}
	}
}

func TestDoubtsAreAskedAtIntervalsThatDouble(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var d doubt
	for n, seconds := range []int{30, 30, 60, 120, 240, 480, 600, 600} {
		want := time.Duration(seconds) * time.Second
		d.refused(usual(), "Encrypt key", false, now)
		d.refused(usual(), "Decrypt key", false, now)
		if got := d.at.Sub(now); got > want || got < want*4/5 {
			t.Errorf("ask %d is due after %s, want %s or up to a fifth less", n+1, got, want)
		}
		now = d.at
		d.asked(now)
	}
	d.worked("Encrypt key")
	d.refused(usual(), "Decrypt key", false, now)
	if got := d.at.Sub(now); got < 8*time.Minute {
		t.Errorf("while one operation is still refused, the next ask is due after %s", got)
	}
	d.worked("Decrypt key")
	d.refused(usual(), "Decrypt key", false, now)
	if got := d.at.Sub(now); got > 30*time.Second {
		t.Errorf("after all has worked, the next ask is due after %s", got)
	}
}

// Credentials that KMS does not know are asked for again at once, but not each time.
func TestUnknownCredentialsAreAskedForAtOnce(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var d doubt
	asks := 0
	for range 600 { // ten minutes, in which every other call works
		d.refused(usual(), "Encrypt key", true, now)
		if !now.Before(d.at) {
			d.asked(now)
			asks++
		}
		d.worked("Encrypt key")
		if now = now.Add(time.Second); asks == 0 {
			t.Fatal("the first refusal led to no ask")
		}
	}
	if asks > 21 {
		t.Errorf("%d asks in ten minutes, want one every thirty seconds", asks)
	}
}

// Whatever the state, nothing is begun twice without a pause.
func TestPlanNeverSpins(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(rand.Uint64(), 0)) //nolint:gosec // no secret
	for range 20000 {
		upTo := func(most time.Duration) time.Duration { return time.Duration(r.Int64N(int64(most))) }
		some := func(most time.Duration) time.Time { return start.Add(upTo(2*most) - most) }
		s := schedule{
			timing: usual(),
			have:   r.IntN(4) > 0, found: some(time.Hour), overdue: r.IntN(8) == 0, refused: r.IntN(4) == 0,
			asked: some(time.Minute), asking: r.IntN(2), looked: some(time.Minute), looking: r.IntN(4) == 0,
			failures: r.IntN(20), running: r.IntN(2 * mostRunning), requested: r.IntN(4) == 0,
		}
		s.ends = s.found.Add(upTo(2 * time.Hour))
		s.took = upTo(20 * time.Second)
		if r.IntN(4) == 0 {
			s.doubt.at = some(time.Minute)
		}
		begun := 0
		for {
			what, next := s.plan(start)
			if what == nothing {
				if !next.After(start) {
					t.Fatalf("nothing is due, and the next is %s ago: %+v", start.Sub(next), s)
				}
				break
			}
			if begun++; begun > 3 {
				t.Fatalf("more and more is due: %+v", s)
			}
			s.begins(what, start)
		}
	}
}
