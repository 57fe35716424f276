package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// missing is why an endpoint's socket cannot be had, and since when.
type missing struct {
	err   error
	since time.Time
}

// socketError is a socket that cannot be had while others are served.
type socketError struct{ err error }

func (e *socketError) Error() string {
	info := cause.SocketNotHad.Info()
	return fmt.Sprintf("%s: the socket cannot be had: %v; it is tried again by itself; more: %s", info.ID, e.err, cause.Explain(info.ID))
}

func (e *socketError) Unwrap() error { return e.err }

// claimLater tries again to have a socket that could not be had, until it can or ctx
// ends. It reports whether the socket is claimed.
func (e *endpoint) claimLater(ctx context.Context, err error, settled func()) bool {
	since, pause, t := time.Now(), time.Duration(0), e.time
	for first := true; ctx.Err() == nil; first = false {
		e.miss(err, since)
		if first {
			settled()
		}
		pause = min(max(t.retry, 2*pause), t.retryMost)
		select {
		case <-ctx.Done():
			return false
		case <-e.again:
			pause = 0
		case <-time.After(pause):
		}
		if err = e.socket.Claim(ctx, 0); err == nil {
			e.missing.Store(nil)
			e.log.Info("the socket could be had at last", "missing_since", stamp(since))
			return true
		}
	}
	return false
}

// miss notes why the socket cannot be had, and logs it where it is another reason than
// before.
func (e *endpoint) miss(err error, since time.Time) {
	now := &missing{err: &socketError{err}, since: since}
	before := e.missing.Swap(now)
	if before != nil && before.err.Error() == now.err.Error() {
		return
	}
	e.log.Error("the socket cannot be had: trying again in the background, the others are served meanwhile",
		"provider", e.server.Target().Name(), "code", cause.SocketNotHad.String(), "error", err.Error())
}

// tryAgain has a socket that is missing tried at once: something has changed.
func (e *endpoint) tryAgain() {
	if e.missing.Load() == nil {
		return
	}
	select {
	case e.again <- struct{}{}:
	default: // it will
	}
}

// settled reports whether each socket is served or known to be missing.
func (g *generation) settled() bool {
	for _, s := range g.providers {
		if !s.at.answers.Load() && s.at.missing.Load() == nil {
			return false
		}
	}
	return true
}

// allMissing returns why no socket can be had, nil where one is served or may still be.
func (g *generation) allMissing() error {
	errs := make([]error, 0, len(g.providers))
	for _, s := range g.providers {
		m := s.at.missing.Load()
		if m == nil {
			return nil
		}
		errs = append(errs, errors.Unwrap(m.err))
	}
	return errors.Join(errs...)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
