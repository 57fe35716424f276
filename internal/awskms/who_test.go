package awskms

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/identity"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// sts is a source that gives others of the world's role each time, unless it is down.
func (w *world) sts(down *atomic.Bool) aws.CredentialsProvider {
	return provider(func(context.Context) (aws.Credentials, error) {
		w.asked()
		if down != nil && down.Load() {
			return aws.Credentials{}, errDown
		}
		w.mu.Lock()
		role, life := w.role, w.life
		w.mu.Unlock()
		value := w.issue(role, life)
		w.handed(value)
		return value, nil
	})
}

func (w *world) become(role string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.role = role
}

func (w *world) signed(key string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[key]
}

// inWorld runs a test in virtual time with a client of one source.
func inWorld(t *testing.T, life time.Duration, test func(t *testing.T, w *world, c *Client, down *atomic.Bool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, down, conns := newWorld(life), &atomic.Bool{}, NewConnections()
		defer time.Sleep(10 * time.Minute)
		defer conns.Close()
		test(t, w, w.client(t, Options{Connections: conns}, w.sts(down)), down)
	})
}

func TestOneFalseRefusalLeavesWhatWorks(t *testing.T) {
	t.Parallel()
	inWorld(t, time.Hour, func(t *testing.T, w *world, c *Client, down *atomic.Bool) {
		if err := w.seal(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		w.deny("first", "UnrecognizedClientException")
		if err := w.seal(t.Context(), c); code(err) != cause.CredentialsRefused {
			t.Fatalf("got %v, want %s", err, cause.CredentialsRefused)
		}
		w.deny("first", "")
		for range 600 {
			if err := w.seal(t.Context(), c); err != nil {
				t.Fatalf("after one false refusal: %v", err)
			}
			time.Sleep(time.Second)
		}
	})
}

// The source gives something else that does not work, as KMS refuses once what does.
func TestOneFalseRefusalAmidWrongCredentialsLeavesWhatWorks(t *testing.T) {
	t.Parallel()
	for _, wrong := range []string{"AccessDeniedException", "UnrecognizedClientException"} {
		inWorld(t, time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
			if err := w.seal(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			w.become("wrong")
			w.deny("wrong", wrong)
			w.deny("first", "UnrecognizedClientException")
			if err := w.seal(t.Context(), c); err == nil {
				t.Fatal("no refusal")
			}
			w.deny("first", "")
			for range 1800 {
				if err := w.seal(t.Context(), c); err != nil {
					t.Fatalf("%s: after one false refusal: %v", wrong, err)
				}
				time.Sleep(time.Second)
			}
		})
	}
}

// Credentials that are really gone are replaced at once, and no call of many fails.
func TestRevokedCredentialsFailNoCallWhereTheSourceHasOthers(t *testing.T) {
	t.Parallel()
	inWorld(t, time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		if err := w.seal(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.deny("first", "UnrecognizedClientException")
		w.become("second")
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				if err := w.seal(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if len(w.begun()) != 2 {
			t.Errorf("%d asks, want two", len(w.begun()))
		}
	})
}

// A metadata proxy gave another role's credentials at first, or a role is attached
// after the start.
func TestRoleThatComesLateNeedsNoRestart(t *testing.T) {
	t.Parallel()
	for _, denial := range []string{"AccessDeniedException", "NotFoundException"} {
		inWorld(t, 6*time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
			w.deny("first", denial)
			start, changed := time.Now(), time.Time{}
			for {
				err := w.seal(t.Context(), c)
				if err == nil {
					break
				}
				if changed.IsZero() && time.Since(start) > 15*time.Second {
					w.become("second")
					changed = time.Now()
				}
				if !changed.IsZero() && time.Since(changed) > 35*time.Second {
					t.Fatalf("%s: 35 s after the role changed: %v", denial, err)
				}
				time.Sleep(5 * time.Second)
			}
		})
	}
}

// KMS denies for an hour: a policy, which asking STS does not change. A hundred
// processes ask it by the schedule, and a role that is attached then is used.
func TestDenialIsNoStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const processes = 100
		w, conns := newWorld(6*time.Hour), NewConnections()
		defer time.Sleep(10 * time.Minute)
		defer conns.Close()
		var clients []*Client
		for range processes {
			clients = append(clients, w.client(t, Options{Connections: conns}, w.sts(nil)))
		}
		all := func() (failed int) {
			for _, c := range clients {
				if w.seal(t.Context(), c) != nil {
					failed++
				}
			}
			return failed
		}
		if n := all(); n != 0 {
			t.Fatalf("%d of %d calls failed", n, processes)
		}
		before := len(w.begun())
		w.deny("first", "AccessDeniedException")
		for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(30 * time.Second) {
			if n := all(); n != processes {
				t.Fatalf("%d of %d calls failed", n, processes)
			}
		}
		// 30, 60, 120, 240, 480, 960 s, and every ten minutes; each up to a fifth sooner.
		if n := (len(w.begun()) - before); n < 9*processes || n > 13*processes {
			t.Errorf("%d asks of %d processes in an hour", n, processes)
		}
		seconds := map[int64]int{}
		for _, at := range w.begun()[before:] {
			seconds[at.Unix()]++
		}
		for at, n := range seconds {
			if n > processes*9/10 {
				t.Errorf("%d of %d processes ask in the same second %d", n, processes, at)
			}
		}
		w.become("second")
		for start := time.Now(); all() > 0; time.Sleep(30 * time.Second) {
			if time.Since(start) > 11*time.Minute { // the longest interval, and two calls: one tries it
				t.Fatal("the role that was attached is not used within the interval")
			}
		}
	})
}

func TestRequestStartsTheScheduleOver(t *testing.T) {
	t.Parallel()
	inWorld(t, 6*time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		w.deny("first", "AccessDeniedException")
		for range 360 {
			_ = w.seal(t.Context(), c)
			time.Sleep(10 * time.Second)
		}
		w.become("second")
		c.opts.Connections.Refresh()
		_ = w.seal(t.Context(), c)
		synctest.Wait()
		if err := w.seal(t.Context(), c); err != nil {
			t.Errorf("after SIGHUP: %v", err)
		}
	})
}

// Where SIGHUP finds nothing else, the intervals begin with the shortest again.
func TestRequestStartsTheIntervalsOver(t *testing.T) {
	inWorld(t, 6*time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		w.deny("first", "AccessDeniedException")
		for range 360 {
			_ = w.seal(t.Context(), c)
			time.Sleep(10 * time.Second)
		}
		c.opts.Connections.Refresh()
		_ = w.seal(t.Context(), c)
		synctest.Wait()
		w.become("second")
		for start := time.Now(); w.seal(t.Context(), c) != nil; time.Sleep(5 * time.Second) {
			if time.Since(start) > 40*time.Second {
				t.Fatal("40 s after SIGHUP the role that was attached since is not used")
			}
		}
	})
}

// Other credentials that are found are tried once by one call, while all others go
// on with those that work.
func TestOtherCredentialsAreTriedByOneCall(t *testing.T) {
	t.Parallel()
	inWorld(t, time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		for range 2 {
			if err := w.seal(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		w.become("wrong")
		w.deny("wrong", "AccessDeniedException")
		c.opts.Connections.Refresh()
		for range 10 {
			if err := w.seal(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := w.signed("AKIAwrong2"); n != 1 {
			t.Errorf("%d calls were signed with what does not work, want one", n)
		}
		if n := w.signed("AKIAfirst1"); n != 12 {
			t.Errorf("%d calls were signed with what works, want all of 12", n)
		}
		w.deny("wrong", "")
		time.Sleep(31 * time.Second)
		_ = w.seal(t.Context(), c)
		synctest.Wait()
		_ = w.seal(t.Context(), c)
		if err := w.seal(t.Context(), c); err != nil || w.signed("AKIAfirst1") > 14 {
			t.Errorf("%v; %d calls with the first, want the others used half a minute after they are allowed", err, w.signed("AKIAfirst1"))
		}
	})
}

// What is found and not known to KMS takes nothing away, even where the source gives
// nothing else any more.
func TestUnknownCredentialsThatAreTriedLeaveWhatWorks(t *testing.T) {
	inWorld(t, time.Hour, func(t *testing.T, w *world, c *Client, down *atomic.Bool) {
		if err := w.seal(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.become("wrong")
		w.deny("wrong", "UnrecognizedClientException")
		c.opts.Connections.Refresh()
		_ = w.seal(t.Context(), c)
		synctest.Wait()
		down.Store(true)
		for range 1000 {
			if err := w.seal(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if w.signed("AKIAwrong2") != 1 {
			t.Errorf("%d calls were signed with what KMS does not know, want one", w.signed("AKIAwrong2"))
		}
	})
}

// SIGHUP asks the source although nothing is due, once, and takes what it gives.
func TestRequestAsksTheSourceOnce(t *testing.T) {
	inWorld(t, 6*time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		_ = w.seal(t.Context(), c)
		w.become("second")
		c.opts.Connections.Refresh()
		for range 60 {
			if err := w.seal(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := len(w.begun()); n != 2 || w.signed("AKIAsecond2") < 58 {
			t.Errorf("%d asks, %d calls with what SIGHUP found; want two, and nearly all", n, w.signed("AKIAsecond2"))
		}
	})
}

// Static credentials change with their file and are asked for by nothing else.
func TestStaticCredentialsAreNotAskedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, conns, loads := newWorld(0), NewConnections(), 0
		defer conns.Close()
		c := w.client(t, Options{Connections: conns}, nil)
		value := w.issue("first", 0)
		w.from(c, func(context.Context) (settings.Found, error) {
			loads++
			return settings.Found{Provider: aws.NewCredentialsCache(credentials.StaticCredentialsProvider{Value: value})}, nil
		})
		if err := w.seal(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, refusal := range []string{"AccessDeniedException", "UnrecognizedClientException"} {
			w.deny("first", refusal)
			for range 360 {
				if w.seal(t.Context(), c) == nil {
					t.Fatal("no refusal")
				}
				time.Sleep(10 * time.Second)
			}
		}
		if loads != 1 {
			t.Errorf("settings were read %d times, want once", loads)
		}
	})
}

func TestRefusalNamesTheRoleOfBefore(t *testing.T) {
	t.Parallel()
	inWorld(t, 15*time.Minute, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		for _, role := range []string{"first", "second"} {
			w.deny(role, "AccessDeniedException")
		}
		err := w.seal(t.Context(), c)
		if strings.Contains(err.Error(), "before it was") {
			t.Errorf("one caller alone: %v", err)
		}
		w.become("second")
		const want = `AWS now takes this process for "arn:aws:sts::111122223333:assumed-role/second"; before it was "arn:aws:sts::111122223333:assumed-role/first"`
		for start := time.Now(); !strings.Contains(err.Error(), want); err = w.seal(t.Context(), c) {
			if time.Since(start) > 35*time.Second {
				t.Fatalf("got %v\nwant the words %s", err, want)
			}
			time.Sleep(5 * time.Second)
		}
		time.Sleep(time.Hour) // long after the first have ended
		if err = w.seal(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant the words %s", err, want)
		}
		w.deny("second", "")
		if err = w.seal(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.deny("second", "AccessDeniedException")
		if err = w.seal(t.Context(), c); err == nil || strings.Contains(err.Error(), "before it was") {
			t.Errorf("after a success: %v", err)
		}
	})
}

// What stored data chose says nothing about who is calling.
func TestUnpinnedDecryptLeadsToNoLookUp(t *testing.T) {
	t.Parallel()
	inWorld(t, 6*time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		w.deny("first", "AccessDeniedException")
		for range 720 {
			_ = do(t.Context(), c, "Decrypt", "", w.encrypt)
			time.Sleep(5 * time.Second)
		}
		if len(w.begun()) != 1 {
			t.Errorf("%d asks, want one", len(w.begun()))
		}
	})
}

func TestWhatGoesOnIsSaidOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w, down, conns := newWorld(time.Hour), &atomic.Bool{}, NewConnections()
		defer conns.Close()
		c := w.client(t, Options{Connections: conns, Log: slog.New(slog.NewTextHandler(&log, nil))}, w.sts(down))
		_ = w.seal(t.Context(), c)
		down.Store(true)
		time.Sleep(58 * time.Minute)
		_ = w.seal(t.Context(), c)
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, &log)
		}
	})
}

func TestCredentialsThatHaveExpiredAlreadyAreNamedSo(t *testing.T) {
	noFiles(t)
	file := filepath.Join(t.TempDir(), "config")
	said := `{"Version":1,"AccessKeyId":"old","SecretAccessKey":"s","SessionToken":"t","Expiration":"` + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + `"}`
	if err := os.WriteFile(file, []byte("[default]\ncredential_process = echo '"+said+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	conns := NewConnections()
	t.Cleanup(conns.Close)
	_, err := New(Options{Connections: conns}).identity.Signer(t.Context())
	e := classify(err, situation{op: "Encrypt", limit: time.Second, fair: time.Second})
	if !errors.Is(err, identity.ErrExpiredAlready) || e.Code != cause.CredentialsExpired {
		t.Errorf("got %v: %v, want %s", err, e, cause.CredentialsExpired)
	}
}
