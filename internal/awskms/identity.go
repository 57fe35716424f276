package awskms

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// identity is who a Client calls as, and in which Region. It finds credentials
// beside the calls, and keeps those it has until others have worked: calls wait only
// while there is nothing to sign with. When something is looked up is for the
// schedule to say; what a look-up does is in lookUp; which credentials one call uses
// is in use. It is safe for concurrent use.
type identity struct {
	region, role, externalID string
	newAPI                   func(aws.Config, aws.CredentialsProvider) *kms.Client
	source                   func(context.Context) (*session, error) // load, except in tests
	conns                    *Connections
	sources                  *sources
	background               func(limit time.Duration, work func(context.Context)) // of conns, which owns the look-ups' goroutines: they outlive the calls that begin them
	waits                    *bounded.Observer
	log                      *slog.Logger

	// calm is set while a call that works has nothing to tell.
	calm atomic.Bool

	mu      sync.Mutex
	current *session // what calls sign with; nil: nothing was found yet
	// other is what was found beside current and has not worked yet, or what has
	// worked before current was found; nil: there is none.
	other *session
	trial *use      // the call that tries other; nil: none does
	rests time.Time // when other may be tried

	schedule  schedule
	refreshes uint64              // of conns, when last looked at
	again     bool                // files are to be read although they look the same
	seen      files               // when settings were last read
	profile   config.SharedConfig // by which files are known
	number    int                 // of the look-up that began last
	taken     int                 // of the look-up that found something last
	last      *lookUp             // that began
	changed   chan struct{}       // closed when a look-up ends
	failure   error               // of the last look-up, where there was none to sign with since; nil: it did not fail
	failedAt  time.Time           // when it was noted
	timer     *time.Timer         // for what is due next; nil: no call was made yet
	armed     time.Time           // when it fires
	closed    bool                // only calls look up what is due
	warned    bool                // that what there was goes on, since something else did not work
	callers   callers             // whom KMS named
}

func newIdentity(o Options, newAPI func(aws.Config, aws.CredentialsProvider) *kms.Client) *identity {
	i := &identity{
		region: o.Region, role: o.AssumeRoleARN, externalID: o.ExternalID,
		newAPI: newAPI, conns: o.Connections, sources: newSources(o), background: o.Connections.Background, waits: o.Waits, log: o.Log, changed: make(chan struct{}),
	}
	i.source = i.load
	return i
}

// ready returns a session that calls can be signed with, and waits for a look-up
// only where there is none. Errors are a *credentialsError, a *settingsError or a
// *regionError.
func (i *identity) ready(ctx context.Context) (*session, error) {
	return i.wait(ctx, func(time.Time) *session { return i.current })
}

// wait returns what choose does. It is called under the lock, when current is of use.
func (i *identity) wait(ctx context.Context, choose func(now time.Time) *session) (*session, error) {
	since := time.Now()
	for {
		s, changed, err := i.pick(since, choose)
		if changed == nil {
			return s, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &credentialsError{ctx.Err()}
		}
	}
}

// pick returns a session, or what to wait for, or why there is neither. Who has waited
// since before a look-up failed is told why: the next one may be under way already.
func (i *identity) pick(since time.Time, choose func(now time.Time) *session) (*session, <-chan struct{}, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	i.tendLocked(now)
	switch {
	case i.current.usable(), i.current.mayGoOn() && i.schedule.failures > 0:
		return choose(now), nil, nil
	case i.failure == nil, i.schedule.asking > 0 && now.Before(i.schedule.asked.Add(patience)) && !i.failedAt.After(since):
		return nil, i.changed, nil
	}
	return nil, nil, i.failure
}

// tendLocked begins what is due, and sees to it that what is due next is begun in
// time although no call comes.
func (i *identity) tendLocked(now time.Time) {
	if n := i.conns.Refreshes(); n != i.refreshes {
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

func (i *identity) armLocked(now, next time.Time) {
	if i.closed || i.conns.Ended() || next.Equal(i.armed) {
		return
	}
	i.armed = next
	if i.timer == nil {
		i.timer = time.AfterFunc(next.Sub(now), i.tick)
		return
	}
	i.timer.Reset(next.Sub(now))
}

func (i *identity) tick() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.armed = time.Time{}
	if !i.closed && !i.conns.Ended() {
		i.tendLocked(time.Now())
	}
}

// close ends what is done without calls.
func (i *identity) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	if i.timer != nil {
		i.timer.Stop()
	}
}

// beginLocked starts a look-up, which ends with the connections at the latest.
func (i *identity) beginLocked(what task, now time.Time) {
	i.number++
	l := &lookUp{
		identity: i, number: i.number, began: now, done: make(chan struct{}),
		current: i.current, seen: i.seen, profile: i.profile, again: i.again, asks: what == ask,
	}
	s := &i.schedule
	l.onlyBetter = !s.requested && !i.again && (s.doubt.at.IsZero() || now.Before(s.doubt.at))
	if s.requested {
		l.again = true
	}
	i.again = false // a request from now on is for the next one
	i.last = l
	s.begins(what, now)
	i.background(lookUpTime, func(ctx context.Context) {
		l.run(ctx)
		i.end(l)
	})
}

// looksFurther notes that a look becomes an ask.
func (i *identity) looksFurther(l *lookUp) {
	i.mu.Lock()
	defer i.mu.Unlock()
	l.asks, l.onlyBetter, l.began = true, false, time.Now()
	i.schedule.looking = false
	i.schedule.asking++
	i.schedule.asked = l.began
}

// runs counts the steps of look-ups that run, those included that were left behind.
func (i *identity) runs(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	crowded := i.schedule.running >= fewRunning
	i.schedule.running += n
	if n < 0 && crowded {
		i.tendLocked(time.Now())
	}
}

// end takes over what a look-up found, unless a later one was faster.
func (i *identity) end(l *lookUp) {
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

func (i *identity) noteLookUpLocked(l *lookUp, now time.Time) {
	i.seen, i.profile = l.seen, l.profile
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
func (i *identity) failedLocked(l *lookUp) {
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
func (i *identity) takeLocked(l *lookUp, now time.Time) bool {
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

func (i *identity) dropOtherLocked() { i.other, i.trial, i.rests = nil, nil, time.Time{} }

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
func (i *identity) noteLocked() {
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

// look looks at the files now, and waits for that.
func (i *identity) look(ctx context.Context) {
	i.mu.Lock()
	now := time.Now()
	i.schedule.lookSoon(now)
	i.tendLocked(now)
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
func (i *identity) warnLocked(text string, err error) {
	if i.log != nil && !i.warned {
		e := classify(err, situation{from: i.sources.read.Load()})
		i.log.Warn(text, "code", e.Code.String(), "class", e.Class(), "error", e.Error())
	}
	i.warned = true
}
