package awskms

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
)

// A mishap makes the n-th operation of a story fail: of reading settings, of asking
// the source, of calling KMS. With forGood all after it of the same kind fail as
// well, for a minute.
type mishap struct {
	n       int
	forGood bool
	kind    string
}

func (m mishap) String() string {
	return fmt.Sprintf("operation %d, for a minute %v: %s", m.n, m.forGood, m.kind)
}

func mishaps() []string {
	return []string{
		"fails", "hangs", "panics", "gives what has ended", "gives what KMS does not know", "gives what KMS denies",
		"UnrecognizedClientException", "ExpiredTokenException", "AccessDeniedException", "ThrottlingException",
	}
}

// An unlucky world has a mishap.
type unlucky struct {
	*world

	mu    sync.Mutex
	bad   mishap
	ops   int
	kind  string    // of the operation that failed
	until time.Time // what is for good ends
	hits  int
}

// hit reports whether an operation fails.
func (u *unlucky) hit(kind string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ops++
	switch {
	case u.ops == u.bad.n:
		u.kind, u.until = kind, time.Now().Add(time.Minute)
	case !u.bad.forGood || kind != u.kind || !time.Now().Before(u.until):
		return false
	}
	u.hits++
	return true
}

// so says what has failed so far.
func (u *unlucky) so() (hits int, kind string, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hits, u.kind, u.until
}

func (u *unlucky) settings(c *Client) func(context.Context) (*session, error) {
	return func(context.Context) (*session, error) {
		if u.hit("settings") {
			switch u.bad.kind {
			case "hangs":
				time.Sleep(2 * time.Minute)
			case "panics":
				panic("settings")
			}
			return nil, &settingsError{errDown}
		}
		return c.identity.session(aws.Config{}, aws.NewCredentialsCache(provider(u.ask))), nil
	}
}

func (u *unlucky) ask(context.Context) (aws.Credentials, error) {
	u.asked()
	u.world.mu.Lock()
	role := u.role
	u.world.mu.Unlock()
	if !u.hit("source") {
		value := u.issue(role, u.life)
		u.handed(value)
		return value, nil
	}
	switch u.bad.kind {
	case "hangs":
		time.Sleep(2 * time.Minute)
	case "gives what has ended":
		return u.issue(role, -time.Minute), nil
	case "gives what KMS does not know":
		value := u.issue(role, u.life)
		u.deny(value.AccessKeyID, "UnrecognizedClientException")
		return value, nil
	case "gives what KMS denies":
		value := u.issue(role, u.life)
		u.deny(value.AccessKeyID, "AccessDeniedException")
		return value, nil
	}
	return aws.Credentials{}, errDown
}

func (u *unlucky) encryptOrNot(ctx context.Context, api *kms.Client) error {
	if !u.hit("kms") {
		return u.encrypt(ctx, api)
	}
	switch u.bad.kind {
	case "hangs":
		<-ctx.Done()
		return ctx.Err()
	case "UnrecognizedClientException", "ExpiredTokenException", "AccessDeniedException", "ThrottlingException":
		return &smithy.GenericAPIError{Code: u.bad.kind}
	}
	return errDown
}

// tell is ten minutes of a process whose credentials live for two: it starts, renews
// them, is denied because another role is attached, and is asked by SIGHUP.
func (m mishap) tell(t *testing.T) {
	t.Helper()
	conns := NewConnections()
	u := &unlucky{world: newWorld(2 * time.Minute), bad: m}
	c := u.bare(t, Options{Connections: conns})
	c.identity.source = u.settings(c)
	defer time.Sleep(10 * time.Minute)
	defer conns.Close()
	denied := false
	for second := range 600 {
		switch second {
		case 250:
			u.become("second")
			u.deny("first", "AccessDeniedException")
			denied = true
		case 350:
			denied = false
		case 400:
			conns.Refresh()
		}
		before, _, _ := u.so()
		held := u.holds()
		err := do(t.Context(), c, "Encrypt", "key", u.encryptOrNot)
		hits, kind, until := u.so()
		mishit := hits > before || kind == "kms" && m.forGood && time.Now().Before(until)
		recovers := !until.IsZero() && time.Now().Before(until.Add(75*time.Second)) && m.forGood
		if err != nil && held && !denied && !mishit && !recovers {
			t.Fatalf("%v: a call at %d s fails that credentials in hand could have served: %v", m, second, err)
		}
		if !until.IsZero() && time.Now().After(until.Add(75*time.Second)) && err != nil && !denied {
			t.Fatalf("%v: at %d s, long after all is well: %v", m, second, err)
		}
		time.Sleep(time.Second)
	}
	time.Sleep(2 * time.Minute)
	if err := do(t.Context(), c, "Encrypt", "key", u.encrypt); err != nil {
		t.Fatalf("%v: at the end: %v", m, err)
	}
	if n := running(c); n != 0 {
		t.Fatalf("%v: at the end %d steps of look-ups run", m, n)
	}
}

// Whichever operation of a look-up fails, and in whichever way: no call fails that
// credentials in hand could have served, and all is well soon afterwards.
func TestNthFailureOfLookUps(t *testing.T) {
	noFiles(t)
	told := 0
	for _, kind := range mishaps() {
		for _, forGood := range []bool{false, true} {
			// The first contact, a renewal, and the role that changes.
			for n := 1; n < 300 && !t.Failed(); n++ {
				if n > 12 && n < 80 || n > 100 && n < 250 {
					continue
				}
				synctest.Test(t, func(t *testing.T) { mishap{n, forGood, kind}.tell(t) })
				told++
			}
		}
	}
	t.Logf("told %d times", told)
}
