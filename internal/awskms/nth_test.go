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

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
)

// The kinds of operations that can fail.
const (
	readSettings = "reading of settings"
	askSource    = "ask of the source"
	callKMS      = "call of KMS"
)

// A mishap makes one operation of a story fail. With forGood all after it of the same
// kind fail as well, for a minute.
type mishap struct {
	op      string
	n       int // of the operation; of the ask that a call of KMS comes after
	call    int // the number of that call since the ask
	forGood bool
	kind    string
}

func (m mishap) String() string {
	where := fmt.Sprintf("%s %d", m.op, m.n)
	if m.op == callKMS {
		where = fmt.Sprintf("%s %d after ask %d", m.op, m.call, m.n)
	}
	return fmt.Sprintf("%s, for a minute %v: %s", where, m.forGood, m.kind)
}

// mishaps are the ways in which each kind of operation fails.
func mishaps() map[string][]string {
	return map[string][]string{
		readSettings: {"fails", "hangs", "panics"},
		askSource:    {"fails", "hangs", "gives what has ended", "gives what KMS does not know", "gives what KMS denies"},
		callKMS:      {"fails", "hangs", "UnrecognizedClientException", "ExpiredTokenException", "AccessDeniedException", "ThrottlingException"},
	}
}

// An unlucky world has a mishap.
type unlucky struct {
	*world

	mu    sync.Mutex
	bad   mishap
	last  time.Time // nothing begins to fail after it
	ops   map[string]int
	calls int       // of KMS, since the last ask of the source
	until time.Time // what is for good ends
	hits  int
}

// hit reports whether an operation fails.
func (u *unlucky) hit(op string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ops[op]++
	switch op {
	case askSource:
		u.calls = 0
	case callKMS:
		u.calls++
	}
	switch {
	case op != u.bad.op:
		return false
	case !time.Now().After(u.last) && (u.ops[op] == u.bad.n && op != callKMS || u.ops[askSource] == u.bad.n && u.calls == u.bad.call):
		u.until = time.Now().Add(time.Minute)
	case !u.bad.forGood || !time.Now().Before(u.until):
		return false
	}
	u.hits++
	return true
}

// so says what has failed so far.
func (u *unlucky) so() (hits int, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hits, u.until
}

func (u *unlucky) settings() func(context.Context) (settings.Found, error) {
	return func(context.Context) (settings.Found, error) {
		if u.hit(readSettings) {
			switch u.bad.kind {
			case "hangs":
				time.Sleep(2 * time.Minute)
			case "panics":
				panic("settings")
			}
			return settings.Found{}, &settings.Error{Err: errDown}
		}
		return settings.Found{Provider: aws.NewCredentialsCache(provider(u.ask))}, nil
	}
}

func (u *unlucky) ask(context.Context) (aws.Credentials, error) {
	u.asked()
	u.world.mu.Lock()
	role := u.role
	u.world.mu.Unlock()
	if !u.hit(askSource) {
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
	if !u.hit(callKMS) {
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
// them, is denied because another role is attached, and is asked by SIGHUP. It
// reports whether the mishap came to pass.
func (m mishap) tell(t *testing.T) bool {
	t.Helper()
	conns := NewConnections()
	u := &unlucky{world: newWorld(2 * time.Minute), bad: m, last: time.Now().Add(450 * time.Second), ops: map[string]int{}}
	c := u.bare(t, Options{Connections: conns})
	u.from(c, u.settings())
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
		before, _ := u.so()
		held := u.holds()
		err := do(t.Context(), c, "Encrypt", "key", u.encryptOrNot)
		hits, until := u.so()
		mishit := hits > before || m.op == callKMS && m.forGood && time.Now().Before(until)
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
	hits, _ := u.so()
	return hits > 0
}

// Whichever operation of a look-up fails, or of the calls next to it, and in whichever
// way: no call fails that credentials in hand could have served, and all is well soon
// afterwards.
func TestNthFailureOfLookUps(t *testing.T) {
	t.Parallel()
	for op, kinds := range mishaps() {
		calls := []int{0}
		if op == callKMS {
			calls = []int{1, 2, 3, 40} // the first tries what was found
		}
		for _, kind := range kinds {
			for _, forGood := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", op, kind, forGood), func(t *testing.T) {
					t.Parallel()
					eachMoment(t, mishap{op: op, forGood: forGood, kind: kind}, calls)
				})
			}
		}
	}
}

// eachMoment tells a story for each moment at which the mishap can come to pass: the
// first contact, renewals, the role that changes, and SIGHUP.
func eachMoment(t *testing.T, m mishap, calls []int) {
	t.Helper()
	told := 0
	for m.n = 1; !t.Failed(); m.n++ {
		passed := 0
		for _, m.call = range calls {
			synctest.Test(t, func(t *testing.T) {
				if m.tell(t) {
					passed++
				}
			})
		}
		if told += passed; passed == 0 {
			break
		}
	}
	if least := 6 * len(calls); told < least { // what a story without a mishap has
		t.Errorf("came to pass at %d moments, want at least %d", told, least)
	}
	t.Logf("told %d times", told)
}
