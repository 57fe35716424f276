// Package identity finds what calls of KMS are signed with, beside the calls, and keeps
// what it has until something else has worked.
//
// When something is looked up is decided by one pure function of what is known and the
// time (schedule.plan). A look-up does it, an [Identity] keeps what was found, and a [Use]
// is what one call signs with. Calls wait only while there is nothing to sign with, and
// no credentials are dropped before others have worked.
//
// It does not know what a failure means: that is handed in; see [Options.Classify].
package identity

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// Options configure an Identity. Those without a word about nil are required.
type Options struct {
	// Source reads the SDK's settings again, and says where credentials come from; see
	// [settings.Reader.Find]. It may block.
	Source func(context.Context) (settings.Found, error)
	// NewAPI makes the SDK's client that signs with credentials.
	NewAPI func(aws.Config, aws.CredentialsProvider) *kms.Client
	// Classify says what an error means, of a call or of a look-up.
	Classify func(error) *cause.Error
	// Background runs look-ups, which outlive the calls that begin them; see
	// [transport.Connections.Background].
	Background func(limit time.Duration, work func(context.Context))
	// Connections say when everything is to be looked up, and when nothing more; and are
	// told which CA certificates count.
	Connections *transport.Connections

	Timing Timing
	Log    *slog.Logger      // is told when new settings or credentials do not work; nil: nobody is
	Waits  *bounded.Observer // is told of what is left behind; nil: nobody is
}

// An Identity is who a client calls as, and in which Region. It is safe for concurrent
// use.
type Identity struct {
	opts Options

	// calm is set while a call that works has nothing to tell.
	calm atomic.Bool

	mu      sync.Mutex
	current *session // what calls sign with; nil: nothing was found yet
	// other is what was found beside current and has not worked yet, or what has
	// worked before current was found; nil: there is none.
	other *session
	trial *Use      // the call that tries other; nil: none does
	rests time.Time // when other may be tried

	schedule  schedule
	refreshes uint64        // of conns, when last looked at
	again     bool          // files are to be read although they look the same
	seen      settings.Seen // when settings were last read
	number    int           // of the look-up that began last
	taken     int           // of the look-up that found something last
	last      *lookUp       // that began
	changed   chan struct{} // closed when a look-up ends
	failure   error         // of the last look-up, where there was none to sign with since; nil: it did not fail
	failedAt  time.Time     // when it was noted
	timer     *time.Timer   // for what is due next; nil: no call was made yet
	armed     time.Time     // when it fires
	closed    bool          // only calls look up what is due
	warned    bool          // that what there was goes on, since something else did not work
	callers   callers       // whom KMS named
}

// New returns an Identity that has looked nothing up. Whoever drops one that was used
// calls Close.
func New(o Options) *Identity {
	o.Timing = o.Timing.orUsual()
	i := &Identity{opts: o, changed: make(chan struct{})}
	i.schedule.timing = &i.opts.Timing
	return i
}

// Signer returns what calls can be signed with now. It waits for a look-up only where
// there is nothing. Errors are a *[CredentialsError], a *[settings.Error] or a
// *[settings.RegionError].
func (i *Identity) Signer(ctx context.Context) (aws.CredentialsProvider, error) {
	s, err := i.ready(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// ready returns a session that calls can be signed with, and waits for a look-up
// only where there is none. Errors are as those of Signer.
func (i *Identity) ready(ctx context.Context) (*session, error) {
	return i.wait(ctx, func(time.Time) *session { return i.current })
}

// wait returns what choose does. It is called under the lock, when current is of use.
func (i *Identity) wait(ctx context.Context, choose func(now time.Time) *session) (*session, error) {
	since := time.Now()
	for {
		s, changed, err := i.pick(since, choose)
		if changed == nil {
			return s, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &CredentialsError{Err: ctx.Err()}
		}
	}
}

// pick returns a session, or what to wait for, or why there is neither. Who has waited
// since before a look-up failed is told why: the next one may be under way already.
func (i *Identity) pick(since time.Time, choose func(now time.Time) *session) (*session, <-chan struct{}, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	i.tendLocked(now)
	switch {
	case i.current.usable(), i.current.mayGoOn() && i.schedule.failures > 0:
		return choose(now), nil, nil
	case i.failure == nil, i.schedule.asking > 0 && now.Before(i.schedule.asked.Add(i.opts.Timing.Patience)) && !i.failedAt.After(since):
		return nil, i.changed, nil
	}
	return nil, nil, i.failure
}

// tendLocked begins what is due, and sees to it that what is due next is begun in
// time although no call comes.
func (i *Identity) tendLocked(now time.Time) {
	if n := i.opts.Connections.Refreshes(); n != i.refreshes {
		i.refreshes = n
		i.schedule.requested, i.schedule.doubt = true, doubt{}
	}
	if !i.current.usable() && i.other.usable() {
		i.current, i.other, i.trial = i.other, nil, nil
		i.noteLocked()
	}
	for {
		what, next := i.schedule.plan(now)
		if what == nothing {
			i.armLocked(now, next)
			return
		}
		i.beginLocked(what, now)
	}
}

func (i *Identity) armLocked(now, next time.Time) {
	if i.closed || i.opts.Connections.Ended() || next.Equal(i.armed) {
		return
	}
	i.armed = next
	if i.timer == nil {
		i.timer = time.AfterFunc(next.Sub(now), i.tick)
		return
	}
	i.timer.Reset(next.Sub(now))
}

func (i *Identity) tick() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.armed = time.Time{}
	if !i.closed && !i.opts.Connections.Ended() {
		i.tendLocked(time.Now())
	}
}

// Close ends what is done without calls.
func (i *Identity) Close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	if i.timer != nil {
		i.timer.Stop()
	}
}

// beginLocked starts a look-up, which ends with the connections at the latest.
func (i *Identity) beginLocked(what task, now time.Time) {
	i.number++
	l := &lookUp{
		identity: i, number: i.number, began: now, done: make(chan struct{}),
		current: i.current, seen: i.seen, again: i.again, asks: what == ask,
	}
	s := &i.schedule
	l.onlyBetter = !s.requested && !i.again && (s.doubt.at.IsZero() || now.Before(s.doubt.at))
	if s.requested {
		l.again = true
	}
	i.again = false // a request from now on is for the next one
	i.last = l
	s.begins(what, now)
	i.opts.Background(i.opts.Timing.LookUp, func(ctx context.Context) {
		l.run(ctx)
		i.end(l)
	})
}

// looksFurther notes that a look becomes an ask.
func (i *Identity) looksFurther(l *lookUp) {
	i.mu.Lock()
	defer i.mu.Unlock()
	l.asks, l.onlyBetter, l.began = true, false, time.Now()
	i.schedule.looking = false
	i.schedule.asking++
	i.schedule.asked = l.began
}

// runs counts the steps of look-ups that run, those included that were left behind.
func (i *Identity) runs(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	crowded := i.schedule.running >= fewRunning
	i.schedule.running += n
	if n < 0 && crowded {
		i.tendLocked(time.Now())
	}
}

// end takes over what a look-up found, unless a later one was faster.
func (i *Identity) end(l *lookUp) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if l.asks {
		i.schedule.asking--
	} else {
		i.schedule.looking = false
	}
	if l.number > i.taken {
		i.noteLookUpLocked(l, now)
	}
	i.noteLocked()
	i.tendLocked(now)
	close(l.done)
	close(i.changed)
	i.changed = make(chan struct{})
}

func (i *Identity) noteLookUpLocked(l *lookUp, now time.Time) {
	i.seen = l.seen
	better := l.found != nil && i.takeLocked(l, now)
	switch {
	case better:
		i.failure, i.schedule.failures = nil, 0
	case l.asks:
		i.schedule.failures++
	}
	switch {
	case l.err != nil:
		i.failedLocked(l)
	case l.asks && i.other == nil:
		i.warned = false
	}
}

// failedLocked notes why a look-up found nothing. Where that is not because the
// source does not answer when its credentials are to be renewed, the files are read
// again with the next look.
func (i *Identity) failedLocked(l *lookUp) {
	i.again = i.again || l.again || l.changed || !l.asks || l.found != nil
	if !i.current.usable() {
		i.failure, i.failedAt = l.err, time.Now()
		if !i.current.mayGoOn() {
			return
		}
	}
	i.warnLocked("AWS settings or credentials cannot be read anew: those before go on", l.err)
}

// takeLocked decides what to do with credentials that were found. It reports whether
// there is something to sign with because of them.
func (i *Identity) takeLocked(l *lookUp, now time.Time) bool {
	s := l.found
	s.number, s.found, s.took = l.number, now, now.Sub(l.began)
	i.taken = l.number
	fallback := i.other.usable() && i.other.worked
	switch {
	case !i.current.usable(), i.current.overdue.Load():
		again := s.signsLike(i.current)
		i.current = s.instead(i.current)
		if !fallback || s.signsLike(i.other) {
			i.dropOtherLocked()
		}
		return !again || !s.overdue.Load()
	case s.overdue.Load():
		return false
	case s.signsLike(i.current):
		i.current = s.instead(i.current)
		i.schedule.doubt.settled(trialCall)
		if !fallback {
			i.dropOtherLocked()
		}
	case s.signsLike(i.other):
		i.other, i.rests = s.instead(i.other), time.Time{}
	case l.onlyBetter && !l.changed && !s.lasts(i.current):
	case fallback:
		i.current = s
	default:
		i.dropOtherLocked()
		i.other = s
	}
	return true
}

func (i *Identity) dropOtherLocked() { i.other, i.trial, i.rests = nil, nil, time.Time{} }

// instead makes a session stand for one with the same credentials, whose client and
// history it takes over. Of other credentials it takes over nothing.
func (s *session) instead(old *session) *session {
	if !s.signsLike(old) {
		return s
	}
	s.api, s.worked = old.api, old.worked
	if s.ends().Equal(old.ends()) {
		s.found, s.took = old.found, old.took
	}
	return s
}

// noteLocked tells the schedule what there is.
func (i *Identity) noteLocked() {
	s := &i.schedule
	longest := i.current
	if i.other.usable() && (longest == nil || i.other.lasts(longest)) {
		longest = i.other
	}
	s.have = longest != nil
	if s.have {
		s.found, s.ends, s.took, s.overdue = longest.found, longest.ends(), longest.took, longest.overdue.Load()
	}
	s.refused = s.doubt.sure && i.other == nil && !i.current.isStatic()
	i.calm.Store(i.current != nil && i.current.worked && i.other == nil && len(s.doubt.calls) == 0 && !s.doubt.sure)
}

func (s *session) isStatic() bool { return s != nil && s.static }

// Look looks at the files now, and waits for that, unless a refused call has just had
// them looked at.
func (i *Identity) Look(ctx context.Context) {
	i.mu.Lock()
	now := time.Now()
	i.schedule.lookSoon(now)
	i.tendLocked(now)
	i.mu.Unlock()
	i.Await(ctx)
}

// Running counts the steps of look-ups that run, those included that were left behind.
func (i *Identity) Running() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.schedule.running
}

// Await waits until the look-up has ended that began last.
func (i *Identity) Await(ctx context.Context) {
	i.mu.Lock()
	last := i.last
	i.mu.Unlock()
	if last == nil {
		return
	}
	select {
	case <-last.done:
	case <-ctx.Done():
	}
}

// warnLocked says once that what there was goes on. Errors are shown as those of
// calls are: what a credential_process printed is not.
func (i *Identity) warnLocked(text string, err error) {
	if i.opts.Log != nil && !i.warned {
		e := i.opts.Classify(err)
		i.opts.Log.Warn(text, "code", e.Code.String(), "class", e.Class(), "error", e.Error())
	}
	i.warned = true
}
