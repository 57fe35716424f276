package identity

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// A lookUp reads settings and asks for credentials, or finds that no file has
// changed. Each reads the settings itself, so that no cache of the SDK answers for a
// source: aws.CredentialsCache gives the same until that has ended, and one of an
// instance's role goes on with what has ended where the metadata service is silent
// (ec2rolecreds.Provider.HandleFailToRefresh).
//
// Every step of it can be left behind: a read of a hung file system does not end
// with its context.
type lookUp struct {
	identity *Identity
	number   int
	began    time.Time
	done     chan struct{} // closed when it has ended

	current    *session      // when it began
	seen       settings.Seen // when settings were last read; then, what it saw itself
	again      bool          // the files are to be read although they look the same
	onlyBetter bool          // only credentials that last longer count

	asks    bool     // the source is asked
	changed bool     // the files have
	renews  bool     // the source of before may be asked, although settings cannot be read
	found   *session // with credentials
	err     error    // why nothing was found, or why not by the settings as they are now
}

func (l *lookUp) timing() *Timing { return &l.identity.opts.Timing }

func (l *lookUp) run(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil { // in the SDK: an error of some calls, not the end of the process
			l.err, l.found = &CredentialsError{Err: fmt.Errorf("panic: %v", p)}, nil
		}
	}()
	err := l.look(ctx)
	switch {
	case !l.asks && err != nil:
		l.err = err
		return
	case !l.asks && !l.changed && !l.again:
		return
	case !l.asks:
		l.identity.looksFurther(l)
	}
	if err == nil {
		l.found, err = l.ask(ctx)
	}
	if l.err = err; err != nil && l.renews {
		l.found, _ = l.renew(ctx) // that the settings cannot be read says more
	}
}

// look looks at the files, and refuses those that nobody can read to an end.
func (l *lookUp) look(ctx context.Context) error {
	var at atomic.Pointer[string]
	note := func(path string) { at.Store(&path) }
	seen, further := l.seen, l.asks || l.again
	found, err := bound(ctx, l.identity, l.timing().Files, bounded.File, func(ctx context.Context) (settings.Look, error) {
		return seen.Look(ctx, further, note)
	})
	l.renews = l.current != nil && !l.current.static && found.Tokens == nil
	switch {
	case transport.IsA[*bounded.AbandonedError](err):
		return &settings.Error{Err: fmt.Errorf("%s does not answer: its file system hangs", path(&at))}
	case err != nil:
		return &settings.Error{Err: err}
	case found.Tokens != nil:
		return &CredentialsError{Err: found.Tokens}
	}
	l.changed = !found.Seen.Equal(l.seen)
	l.renews = l.renews && l.changed
	l.seen = found.Seen
	return nil
}

func path(at *atomic.Pointer[string]) string {
	if p := at.Load(); p != nil {
		return *p
	}
	return "a file of AWS settings"
}

// ask reads the settings, and asks for credentials by them.
func (l *lookUp) ask(ctx context.Context) (*session, error) {
	limit := l.timing().LookUp
	if l.current != nil && !l.current.static {
		limit = l.timing().Reload
	}
	asOf := time.Now()
	found, err := bound(ctx, l.identity, limit, bounded.Settings, l.identity.opts.Source)
	if transport.IsA[*bounded.AbandonedError](err) {
		err = &settings.Error{Err: errors.New("no answer while files were read, or the Region was asked for")}
	}
	if err != nil {
		l.renews = l.current != nil && !l.current.static
		return nil, err
	}
	l.identity.opts.Connections.Offer(found.Config, asOf) // the CA bundle counts from now on, whether or not the credentials can be used
	return l.sign(ctx, l.identity.session(found))
}

// renew asks the source of the credentials that there are, past the SDK's cache.
func (l *lookUp) renew(ctx context.Context) (*session, error) {
	if cache, ok := l.current.provider.(*aws.CredentialsCache); ok {
		cache.Invalidate()
	}
	return l.sign(ctx, l.identity.session(settings.Found{Config: l.current.cfg, Provider: l.current.provider}))
}

// sign gives a session its credentials.
func (l *lookUp) sign(ctx context.Context, s *session) (*session, error) {
	value, err := bound(ctx, l.identity, l.timing().LookUp, bounded.Settings, func(ctx context.Context) (aws.Credentials, error) {
		if _, ok := s.provider.(*aws.CredentialsCache); ok {
			// It returns with its context and leaves behind what it began, uncounted.
			ctx = context.WithoutCancel(ctx)
		}
		return s.provider.Retrieve(ctx)
	})
	if err == nil && value.Expired() {
		if !mayBeOverdue(value.Source) {
			err = ErrExpiredAlready
		}
		s.overdue.Store(true)
	}
	if err != nil {
		return nil, &CredentialsError{Err: err}
	}
	s.value.Store(&value)
	return s, nil
}

// mayBeOverdue reports whether a source that hands out credentials which have ended
// may be right: the metadata service does so while AWS cannot give it others and
// takes the old ones longer, and STS never does unless this node's clock is wrong.
//
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-static-stability.html
func mayBeOverdue(source string) bool {
	return source == ec2rolecreds.ProviderName || source == stscreds.ProviderName || source == stscreds.WebIdentityProviderName
}

// bound runs one step of a look-up, for at most limit.
func bound[T any](ctx context.Context, i *Identity, limit time.Duration, wait bounded.Wait, step func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	i.runs(1)
	return bounded.Do(ctx, i.opts.Waits, wait, func(ctx context.Context) (T, error) {
		defer i.runs(-1)
		return step(ctx)
	})
}
