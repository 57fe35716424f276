package identity

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// trialCall stands among the calls that are in doubt for credentials that were found
// and did not work.
const trialCall = "trial"

// A Use is what one call signs with, and what it tells about that. Credentials that
// were found beside those that work are tried by one call, which is made again with
// the old ones where they are refused; all others wait for nothing. Where the old
// ones are refused, a call is made again with what else there is.
type Use struct {
	identity *Identity
	call     string // operation and key
	s        *session
	tries    bool          // s is on trial, by this call
	done     chan struct{} // closed when that is over

	tried   *session // what the first attempt was made with; nil: this is the first
	refusal error    // of that
	unknown bool     // KMS did not know its credentials
}

// Use begins a call. Errors are as those of [Identity.Signer].
func (i *Identity) Use(ctx context.Context, call string) (*Use, error) {
	u := &Use{identity: i, call: call}
	s, err := i.wait(ctx, func(now time.Time) *session {
		if i.mayTryLocked(now) {
			u.tryLocked(i.other)
			return i.other
		}
		return i.current
	})
	u.s = s
	return u, err
}

func (i *Identity) mayTryLocked(now time.Time) bool {
	return i.other.usable() && i.trial == nil && !now.Before(i.rests)
}

func (u *Use) tryLocked(s *session) {
	u.s, u.tries, u.done = s, true, make(chan struct{})
	u.identity.trial = u
}

// Release ends the trial without a verdict, if this call makes one.
func (u *Use) Release() {
	if u.tries {
		u.identity.mu.Lock()
		defer u.identity.mu.Unlock()
		u.overLocked()
	}
}

func (u *Use) overLocked() {
	if !u.tries {
		return
	}
	u.tries = false
	close(u.done)
	if u.identity.trial == u {
		u.identity.trial = nil
	}
}

// Worked tells that KMS took the call.
func (u *Use) Worked() {
	i := u.identity
	if i.calm.Load() && !u.tries {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	u.s.worked = true
	switch {
	case u.s.signsLike(i.other):
		i.other.worked = true
		i.current = i.other
		i.dropOtherLocked()
		i.warned = false
		i.schedule.doubt.settled(trialCall)
	case u.s.signsLike(i.current):
		i.current.worked = true
		if i.other != nil && i.other.worked {
			i.dropOtherLocked()
		}
	}
	i.callers = callers{}
	i.schedule.doubt.worked(u.call)
	u.overLocked()
	i.noteLocked()
}

// Otherwise decides whether a call that KMS refused is made again, with another [Use.API]. It waits
// for what is being looked up because KMS does not know the credentials.
func (u *Use) Otherwise(ctx context.Context, err error, e *cause.Error) bool {
	i := u.identity
	i.mu.Lock()
	defer i.mu.Unlock()
	u.tried, u.refusal, u.unknown = u.s, err, e.Class() == cause.Credentials
	i.callers.named(u.s.number, e.Principal)
	if u.tries {
		u.rejectLocked(u.unknown)
		u.s = i.current
		return i.current.usable() && !i.current.signsLike(u.tried)
	}
	i.doubtLocked(u.call, u.s, u.unknown)
	last := i.last
	for {
		var wait <-chan struct{}
		switch now := time.Now(); {
		case i.current.usable() && !i.current.signsLike(u.tried):
			u.s = i.current
			return true
		case i.mayTryLocked(now) && !i.other.signsLike(u.tried):
			u.tryLocked(i.other)
			return true
		case !u.unknown:
			return false
		case i.trial != nil:
			wait = i.trial.done
		case last != nil && !ended(last.done):
			wait = last.done
		default:
			return false
		}
		i.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
		}
		i.mu.Lock()
		if ctx.Err() != nil {
			return false
		}
	}
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// rejectLocked ends the trial of credentials that were refused. What KMS does not
// know is dropped; what may not use the key is kept for when there is nothing else.
// Either is looked up again.
func (u *Use) rejectLocked(unknown bool) {
	i := u.identity
	rejected := u.s.signsLike(i.other)
	u.overLocked()
	if !rejected {
		return
	}
	now := time.Now()
	switch {
	case i.other.worked: // before: no look-up finds it again
		i.rests = now.Add(i.opts.Timing.Look)
	case unknown:
		i.dropOtherLocked()
	default:
		i.rests = now.Add(forever)
	}
	if u.s.static {
		i.again = true
	} else {
		i.schedule.doubt.refused(&i.opts.Timing, trialCall, false, now)
	}
	i.noteLocked()
	i.tendLocked(now)
}

// doubtLocked notes that a call was refused under the session that calls use.
// Credentials that are static are never asked for again: they change with their file.
// A Decrypt for which KMS was to choose the key says nothing: stored data chose it.
func (i *Identity) doubtLocked(call string, s *session, unknown bool) {
	if !s.signsLike(i.current) || strings.HasSuffix(call, " ") {
		return
	}
	now := time.Now()
	i.schedule.lookSoon(now)
	if !i.current.static {
		i.schedule.doubt.refused(&i.opts.Timing, call, unknown, now)
	}
	i.calm.Store(false)
	i.noteLocked()
	i.tendLocked(now)
}

// Settle says what a call ends with that was made again.
func (u *Use) Settle(err error) error {
	i := u.identity
	if err == nil {
		u.Worked()
		i.mu.Lock()
		defer i.mu.Unlock()
		if u.tried.number > u.s.number && !u.tried.signsLike(i.current) {
			i.warnLocked("KMS refuses the credentials that were found anew: those before go on", u.refusal)
		}
		return nil
	}
	e := i.opts.Classify(err)
	if !Refused(e) {
		u.Release()
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	unknown := e.Class() == cause.Credentials
	i.callers.named(u.s.number, e.Principal)
	if u.tries {
		if u.unknown && u.s.number > u.tried.number {
			u.overLocked()
			i.leadLocked(u.s, u.tried)
			return u.told(err)
		}
		u.rejectLocked(unknown)
		return u.told(u.refusal)
	}
	i.doubtLocked(u.call, u.s, unknown)
	if unknown && u.tried.number > u.s.number {
		i.leadLocked(u.tried, u.s)
		return u.told(u.refusal)
	}
	return u.told(err)
}

// leadLocked makes calls use what was found last although it is refused, since KMS
// does not know what there was before. That is kept where it has worked, and the
// next call tries it: the refusal may have been wrong.
func (i *Identity) leadLocked(s, before *session) {
	if !before.signsLike(i.current) || !s.usable() {
		return
	}
	i.dropOtherLocked()
	i.current = s
	if before.worked {
		i.other = before
	}
	i.noteLocked()
}

// told adds to a refusal that the caller is another one now.
func (u *Use) told(err error) error {
	if c := u.identity.callers; c.before.name != "" {
		return &CallerChangedError{error: err, now: c.now.name, before: c.before.name}
	}
	return err
}

// Tell says what a call ends with that KMS refused and that is not made again. That
// credentials have ended says less than why there are no others.
func (u *Use) Tell(err error) error {
	i := u.identity
	i.mu.Lock()
	defer i.mu.Unlock()
	if u.unknown && !u.s.usable() && i.failure != nil {
		return i.failure
	}
	return u.told(err)
}

// API is the client of the SDK that signs with what the call uses now.
func (u *Use) API() *kms.Client { return u.s.api }

// Refused reports whether other credentials may help. Under those of another account an
// alias or key id is not found.
func Refused(e *cause.Error) bool {
	return e.Code == cause.AccessDenied || e.Code == cause.KeyNotFound || e.Class() == cause.Credentials
}

// callers are whom KMS named in its refusals since it last took a call.
type callers struct{ now, before caller }

type caller struct {
	number int // of the look-up that found the credentials
	name   string
}

// named notes the principal that KMS named.
func (c *callers) named(number int, name string) {
	switch name = roleOf(name); {
	case name == "":
	case c.now.name == "" || number >= c.now.number && name == c.now.name:
		c.now = caller{number, name}
	case name == c.now.name:
	case number >= c.now.number:
		c.before, c.now = c.now, caller{number, name}
	default:
		c.before = caller{number, name}
	}
}

// roleOf is a principal without the name of its session: another session of the same
// role is the same caller.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
func roleOf(principal string) string {
	if role, session, ok := strings.Cut(principal, ":assumed-role/"); ok {
		name, _, _ := strings.Cut(session, "/")
		return role + ":assumed-role/" + name
	}
	return principal
}

// A CallerChangedError is a refusal of another caller than before.
type CallerChangedError struct {
	error

	now, before string
}

// Unwrap returns the refusal.
func (e *CallerChangedError) Unwrap() error { return e.error }

// Note is the sentence for a person.
func (e *CallerChangedError) Note() string {
	return "AWS now takes this process for " + cause.Quote(e.now) + "; before it was " + cause.Quote(e.before)
}
