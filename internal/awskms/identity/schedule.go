package identity

import (
	"math/rand/v2"
	"time"
)

// When settings and credentials are looked up is decided here and nowhere else: by
// plan, which reads the schedule and the time and does nothing. identity does what
// it says and notes what came of it.

// forever is later than this process lives.
const forever = 100 * 365 * 24 * time.Hour

const (
	// Look-ups that were left behind must not pile up while what they wait for is
	// blocked: with fewRunning there is [Timing.MostPause] between two, with manyRunning
	// [Timing.CrowdedPause], and with mostRunning none begins.
	fewRunning  = 16
	manyRunning = 64
	mostRunning = 128

	// mostDoubted bounds what is remembered of refused calls.
	mostDoubted = 64
)

// A task is what is due.
type task int

const (
	nothing task = iota
	look         // at the files; where they have changed, an ask follows
	ask          // read settings and files, and ask the source of credentials
)

// A schedule is all that decides when something is looked up next.
type schedule struct {
	timing *Timing

	// Of the credentials that last the longest; have is false where none can be used.
	have    bool
	found   time.Time     // when they came
	ends    time.Time     // zero: never
	took    time.Duration // to find them
	overdue bool          // they have ended by this node's clock, and KMS decides
	refused bool          // KMS did not know them, and there are no others

	asked    time.Time // when the last ask began
	asking   int       // asks under way
	looked   time.Time // when the last look began
	looking  bool      // a look is under way
	failures int       // asks in a row that found nothing of use
	running  int       // look-ups that run, those included that were left behind

	requested bool      // an ask, by the operator
	soon      time.Time // when a look is wanted although none is due; zero: it is not
	doubt     doubt
}

// plan returns what is due now, or when something will be.
func (s *schedule) plan(now time.Time) (task, time.Time) {
	askAt, lookAt := s.askAt(now), s.lookAt()
	switch {
	case !now.Before(askAt):
		return ask, now
	case !now.Before(lookAt):
		return look, now
	}
	return nothing, earlier(askAt, lookAt)
}

func (s *schedule) askAt(now time.Time) time.Time {
	at := s.renewAt(now)
	if s.asking > 0 {
		at = later(at, s.asked.Add(s.patience()))
	}
	if !s.doubt.at.IsZero() {
		at = earlier(at, s.doubt.at)
	}
	if s.requested {
		at = now
	}
	return s.uncrowded(at, s.asked)
}

// renewAt is when the credentials are due.
func (s *schedule) renewAt(now time.Time) time.Time {
	switch {
	case !s.have, s.overdue, !s.ends.IsZero() && !now.Before(s.ends), s.refused && s.failures > 0:
		least := s.timing.LeastPause
		return s.asked.Add(min(least+time.Duration(s.failures)*least/8, s.timing.FailurePause))
	case s.ends.IsZero():
		return now.Add(forever)
	}
	return s.timing.renewal(s.found, s.ends, s.asked, s.took)
}

// patience is less than usual where credentials live so short that another ask may
// still come in time.
func (s *schedule) patience() time.Duration {
	if s.have && !s.overdue && !s.ends.IsZero() {
		return min(s.timing.Patience, s.timing.renewPause(s.ends.Sub(s.found)))
	}
	return s.timing.Patience
}

func (s *schedule) lookAt() time.Time {
	at := s.looked.Add(s.timing.Look)
	if !s.soon.IsZero() {
		at = earlier(at, s.soon)
	}
	if s.looking {
		at = s.looked.Add(s.timing.Look)
	}
	return s.uncrowded(at, s.looked)
}

// uncrowded is when something may begin that is due at some time, and began last at
// another.
func (s *schedule) uncrowded(at, last time.Time) time.Time {
	switch {
	case s.running >= mostRunning:
		return last.Add(forever)
	case s.requested:
		return at
	case s.running >= manyRunning:
		return later(at, last.Add(s.timing.CrowdedPause))
	case s.running >= fewRunning:
		return later(at, last.Add(s.timing.MostPause))
	}
	return at
}

// begins notes that a task begins.
func (s *schedule) begins(t task, now time.Time) {
	s.looked, s.soon = now, time.Time{}
	if t != ask {
		s.looking = true
		return
	}
	s.asked, s.requested = now, false
	s.asking++
	s.doubt.asked(now)
}

// lookSoon makes a look due because a call was refused: at once, but not again and
// again.
func (s *schedule) lookSoon(now time.Time) {
	if !now.Before(s.doubt.looked.Add(s.timing.RefusedLook)) {
		s.soon, s.doubt.looked = now, now
	}
}

// renewal returns when to ask the source again for credentials that came at found
// and end at ends, where the last ask began at asked and one takes took. This is
// the one place that knows the schedule of renewals: one ask every
// [Timing.renewPause] in the last third of their life or the last five minutes, whichever
// is shorter, until there are better ones. Before that there is at most one, for a
// source that is so slow that an ask in the window would end too late. The asks are
// laid so that one of them ends just before the credentials do, since some sources
// have others only then.
func (t *Timing) renewal(found, ends, asked time.Time, took time.Duration) time.Time {
	life := ends.Sub(found)
	window, pause := min(life/3, t.RenewWindow), t.renewPause(life)
	opens := ends.Add(-window)
	spare := min(t.LeastPause, window/3)
	lead := min(took, window-spare) // as far as the window allows
	after := found
	if asked.After(found.Add(-took)) { // since the ask that found them
		after = asked.Add(pause / 2) // a call, or a timer, may have been late
	} else if took > lead {
		return later(found, opens.Add(-took))
	}
	after = later(after, opens)
	last := ends.Add(-spare - lead)
	at := last.Add(after.Sub(last).Truncate(pause))
	if at.Before(after) {
		at = at.Add(pause)
	}
	return earlier(at, ends)
}

// renewPause is the time between two asks in the window of renewal.
func (t *Timing) renewPause(life time.Duration) time.Duration {
	return min(max(life/10, t.LeastPause), t.MostPause)
}

// A doubt is about who is calling: KMS refuses calls, and the reason may be that
// the source of credentials meanwhile gives those of another role. It is looked up
// twice at [Timing.FirstDoubt] and then at intervals that double up to mostDoubt, since a
// policy that denies must not become a thousand calls of STS.
type doubt struct {
	calls  map[string]bool // operations and keys that were refused and have not worked since
	asks   int             // that were made because of it
	at     time.Time       // of the next; zero: none is wanted
	last   time.Time       // when the last of them began
	sure   bool            // KMS did not know the credentials
	looked time.Time       // at the files because of it
}

// refused notes a refused call. unknown means that KMS did not know the credentials:
// then the first ask does not wait.
func (d *doubt) refused(t *Timing, call string, unknown bool, now time.Time) {
	if d.calls == nil {
		d.calls = map[string]bool{}
	}
	if len(d.calls) < mostDoubted {
		d.calls[call] = true
	}
	first := unknown && !d.sure
	d.sure = d.sure || unknown
	switch {
	case first && (d.last.IsZero() || now.Sub(d.last) > t.FirstDoubt):
		d.at = now
	case !d.at.IsZero():
	case d.asks == 0:
		d.at = now.Add(d.interval(t))
	default:
		d.at = later(now, d.last.Add(d.interval(t)))
	}
}

// interval is up to a fifth shorter than its name says, so that a fleet that is
// refused at once does not ask at once.
func (d *doubt) interval(t *Timing) time.Duration {
	full := min(t.FirstDoubt<<min(max(d.asks-1, 0), 8), t.MostDoubt)
	return full - rand.N(full/5) //nolint:gosec // jitter is no secret
}

// asked notes an ask.
func (d *doubt) asked(now time.Time) {
	if d.at.IsZero() || now.Before(d.at) {
		return
	}
	d.at, d.last = time.Time{}, now
	d.asks++
}

// worked notes a call that KMS took.
func (d *doubt) worked(call string) {
	d.sure = false
	d.settled(call)
}

// settled ends the doubt about a call. When none is left, the next doubt begins with
// the shortest interval.
func (d *doubt) settled(call string) {
	delete(d.calls, call)
	if len(d.calls) == 0 {
		d.asks, d.at = 0, time.Time{}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
