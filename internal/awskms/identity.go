package awskms

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

const (
	// lookUpTime bounds a look-up of settings and credentials: it goes on when
	// the call that began it has left, and must end for another to begin.
	lookUpTime = 10 * time.Second
	// failureRemembered is how long a failed look-up answers for the next ones:
	// a thousand callers must not become a thousand calls of STS or forks of a
	// credential_process.
	failureRemembered = 2 * time.Second
	// forgetPause is the least time between two fresh starts because AWS, or the
	// TLS handshake with it, refused what there was.
	forgetPause = 4 * time.Second
	// renewBefore is how long before their end credentials are looked up again,
	// while the old ones are still used.
	renewBefore = 5 * time.Minute
	renewPause  = 30 * time.Second
	// lookPause is the time between two looks at the files that settings and
	// credentials were read from, and between two tries to read them anew.
	lookPause = 15 * time.Second
	// answerTime bounds each request of the SDK's own to whoever gives credentials.
	answerTime = 15 * time.Second
	// slowPatience is how many look-ups in a row may end late before the settings
	// are read anew: a slow source is waited for, a silent one not for ever.
	slowPatience = 3
)

// identity is who a Client calls as, and in which Region. The SDK decides once,
// when its settings are loaded, where credentials come from; identity loads them
// again after a failure, when files have changed and on request, so that what
// comes late or is replaced is found without a restart. Look-ups run one at a
// time, beside the calls: those wait only while there is nothing valid. It is
// safe for concurrent use.
type identity struct {
	region, role, externalID string
	newAPI                   func(aws.Config, aws.CredentialsProvider) *kms.Client
	conns                    *Connections // owns the look-ups' goroutines
	sources                  *sources
	log                      *slog.Logger

	mu         sync.Mutex
	current    *session      // what calls use; nil: nothing found yet, or refused
	before     *session      // what calls used before current, until that has worked; or nil
	next       *session      // settings whose source of credentials is slow; or nil
	seen       files         // when settings were last read
	stale      bool          // settings are to be read anew
	refreshes  uint64        // of conns, when last looked at
	lookAt     time.Time     // when to look at the files again
	underWay   chan struct{} // closed when the look-up under way has ended; nil: none is
	failure    error         // of the last look-up
	failedAt   time.Time
	forgotten  time.Time // when something was last dropped because of a refusal
	slow       int       // look-ups in a row that did not end in time
	generation int       // grows when everything is forgotten
	warned     bool      // that what there was goes on, since something else did not work
}

func newIdentity(o Options, newAPI func(aws.Config, aws.CredentialsProvider) *kms.Client) *identity {
	return &identity{
		region: o.Region, role: o.AssumeRoleARN, externalID: o.ExternalID,
		newAPI: newAPI, conns: o.Connections, sources: newSources(o), log: o.Log,
	}
}

// ready returns the session to call with, and waits for a look-up only where
// there is nothing valid. Errors are a *credentialsError, a *settingsError or a
// *regionError.
func (i *identity) ready(ctx context.Context) (*session, error) {
	for {
		s, underWay, err := i.now() //nolint:contextcheck // a look-up outlives the call that begins it
		if underWay == nil {
			return s, err
		}
		select {
		case <-underWay:
		case <-ctx.Done():
			return nil, &credentialsError{ctx.Err()}
		}
	}
}

// now returns what is valid, or the look-up to wait for, or why there is neither.
func (i *identity) now() (*session, <-chan struct{}, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if n := i.conns.refreshes.Load(); n != i.refreshes {
		i.refreshes, i.stale, i.lookAt, i.failure = n, true, time.Time{}, nil
	}
	usable := i.current.valid()
	due := !usable || !now.Before(i.lookAt) || !now.Before(i.current.renewAt)
	recently := i.failure != nil && now.Sub(i.failedAt) < failureRemembered
	if due && !recently && i.underWay == nil {
		i.beginLocked(now)
	}
	switch {
	case usable:
		return i.current, nil, nil
	case i.underWay != nil:
		return nil, i.underWay, nil
	}
	return nil, nil, i.failure
}

// A lookUp is what one of them began with, and what it found.
type lookUp struct {
	identity   *identity
	generation int
	current    *session
	seen       files
	stale      bool     // read the settings, whatever the files look like
	due        bool     // the credentials of current end
	next       *session // of settings that were read already

	reading bool             // for next
	found   *aws.Credentials // of next
	renewed *aws.Credentials // of current
	err     error
}

// beginLocked starts a look-up, which ends with the connections at the latest.
func (i *identity) beginLocked(now time.Time) {
	l := &lookUp{
		identity: i, generation: i.generation, current: i.current, next: i.next, seen: i.seen, stale: i.stale,
		due: i.current != nil && !now.Before(i.current.renewAt),
	}
	i.stale = false // a request from now on is for the next one
	done := make(chan struct{})
	i.underWay = done
	i.conns.background(lookUpTime, func(ctx context.Context) {
		defer close(done)
		l.run(ctx)
		i.end(l, ctx.Err() != nil)
	})
}

func (l *lookUp) run(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil { // in the SDK: an error of some calls, not the end of the process
			l.err, l.next, l.found = &credentialsError{fmt.Errorf("panic: %v", p)}, nil, nil
		}
	}()
	bundle := ""
	if l.current != nil {
		bundle = l.current.bundle
	}
	seen := lookAtFiles(bundle)
	if l.current == nil || l.next != nil || l.stale || !seen.equal(l.seen) {
		if l.err = l.read(ctx, seen); l.err == nil {
			return
		}
	}
	if l.due { // also where the settings cannot be read: what there was goes on
		value, err := renew(ctx, l.current)
		switch {
		case err == nil:
			l.renewed = &value
		case l.err == nil:
			l.err = err
		}
	}
}

// read reads the settings, and finds credentials by them.
func (l *lookUp) read(ctx context.Context, seen files) error {
	l.reading = true
	if l.next == nil {
		l.seen = seen
		next, err := l.identity.load(ctx)
		if err != nil {
			return err
		}
		l.next = next
	}
	value, err := retrieve(ctx, l.next.provider)
	if err == nil {
		l.found = &value
	}
	return err
}

// renew asks the source: the SDK's cache answers with what it has until that has
// ended, unless a look-up that was late has found something meanwhile. The
// source of an instance's role renews early by itself, and needs its cache to
// live through an outage of the metadata service.
func renew(ctx context.Context, s *session) (aws.Credentials, error) {
	old := s.value.Load()
	value, err := retrieve(ctx, s.provider)
	cache, cached := s.provider.(*aws.CredentialsCache)
	if cached && err == nil && value == *old && value.Source != ec2rolecreds.ProviderName {
		cache.Invalidate()
		value, err = retrieve(ctx, s.provider)
	}
	return value, err
}

// retrieve refuses credentials that are of no use: to look again at once would
// find the same.
func retrieve(ctx context.Context, provider aws.CredentialsProvider) (aws.Credentials, error) {
	value, err := provider.Retrieve(ctx)
	if err == nil && value.Expired() {
		if value.Source == ec2rolecreds.ProviderName { // the service may lag behind; KMS decides
			value.Expires = time.Now().Add(renewBefore)
			return value, nil
		}
		err = errExpiredAlready
	}
	if err != nil {
		return aws.Credentials{}, &credentialsError{err}
	}
	return value, nil
}

// end takes over what a look-up found, unless all was forgotten meanwhile.
func (i *identity) end(l *lookUp, late bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.underWay = nil
	if l.generation != i.generation {
		return
	}
	now := time.Now()
	i.seen = l.seen
	if !i.stale { // not asked for again meanwhile
		i.lookAt = now.Add(lookPause)
	}
	if l.renewed != nil {
		l.current.take(*l.renewed, now)
	}
	i.failure, i.failedAt = l.err, now
	if l.err != nil {
		i.failedLocked(l, late, now)
		return
	}
	i.slow, i.next = 0, nil
	if l.found != nil {
		l.next.take(*l.found, now)
		i.installLocked(l.next)
	}
	if i.before == nil {
		i.warned = false
	}
}

// failedLocked decides what the next look-up does. A source that is late is
// still at work behind it, and the next look-up joins that, for a while.
func (i *identity) failedLocked(l *lookUp, late bool, now time.Time) {
	i.slow++
	joins := late && i.slow < slowPatience
	if !joins {
		l.next, i.slow = nil, 0
	}
	i.next = l.next
	i.stale = i.stale || !joins || l.reading && l.next == nil
	if l.due && l.renewed == nil {
		i.current.renewAt = now.Add(renewPause)
	}
	if i.current.valid() {
		i.warnLocked("AWS settings or credentials cannot be read anew: those before go on", l.err)
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

// installLocked makes a session the one that calls use. Where it signs with
// something else it is on trial: a file may be half-written, and IAM may not
// know a new key yet, while the old one still works.
func (i *identity) installLocked(s *session) {
	if i.current.valid() && !s.signsLike(i.current) && !i.before.valid() {
		i.before = i.current
	}
	s.onTrial.Store(i.before != nil)
	i.current = s
}

// worked tells that KMS took a call under s. What was before is done with.
func (i *identity) worked(s *session) {
	if !s.onTrial.Load() {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == s {
		i.before, i.warned = nil, false
		s.onTrial.Store(false)
	}
}

// back puts the session before s in its place again: a call that was refused
// under s was not refused under that. What s was read from is tried anew with
// the next look.
func (i *identity) back(s, before *session, refusal error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == s && i.before == before && before != nil {
		i.current, i.before, i.stale = before, nil, true
		i.warnLocked("KMS refuses the credentials that were found anew: those before go on", refusal)
	}
}

// lost drops a session that is before another one, because its credentials are
// refused as well.
func (i *identity) lost(before *session) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.before == before {
		i.before = nil
	}
}

// instead returns another session for a call that was refused under s; nil: there
// is none. That is the one that came, or went, while the call was under way;
// the one before s; or what is found where the credentials themselves were
// refused, and so forgotten.
func (i *identity) instead(ctx context.Context, s *session, credentials bool) *session {
	i.mu.Lock()
	current, before := i.current, i.before
	forgotten := current != s || !before.valid() && credentials && i.forgetLocked()
	i.mu.Unlock()
	switch {
	case current != s && current.valid():
		return current
	case current == s && before.valid():
		return before
	case !credentials || !forgotten:
		return nil
	}
	found, err := i.ready(ctx)
	if err != nil || found.signsLike(s) {
		return nil
	}
	return found
}

// forgetLocked makes the next look-up begin anew, because AWS refused what there
// was. It says whether it did: not again within seconds.
func (i *identity) forgetLocked() bool {
	if !i.mayForgetLocked() {
		return false
	}
	i.generation++
	i.current, i.before, i.next, i.failure = nil, nil, nil, nil
	return true
}

// look looks at the files now, and waits for that.
func (i *identity) look(ctx context.Context) {
	i.mu.Lock()
	if i.underWay == nil && i.mayForgetLocked() {
		i.beginLocked(time.Now()) //nolint:contextcheck // a look-up outlives the call that begins it
	}
	underWay := i.underWay
	i.mu.Unlock()
	if underWay == nil {
		return
	}
	select {
	case <-underWay:
	case <-ctx.Done():
	}
}

// mayForgetLocked says whether it is long enough since the last time, and notes
// this one.
func (i *identity) mayForgetLocked() bool {
	now := time.Now()
	if now.Sub(i.forgotten) < forgetPause {
		return false
	}
	i.forgotten = now
	return true
}
