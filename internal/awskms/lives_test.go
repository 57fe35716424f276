package awskms

import (
	"cmp"
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// hoursOf is how long the sources are used with credentials of one life, in virtual
// time. LIVES=10 makes it ten times as long.
func hoursOf(t *testing.T, life time.Duration) time.Duration {
	t.Helper()
	times, err := strconv.Atoi(cmp.Or(os.Getenv("LIVES"), "1"))
	if err != nil {
		t.Fatal(err)
	}
	return min(100*time.Hour, 60*life) * time.Duration(times)
}

// A behaviour is what a source does.
type behaviour struct {
	name   string
	least  time.Duration // the shortest life for which the source is good enough
	source func(w *world) aws.CredentialsProvider
}

func behaviours() []behaviour {
	fresh := func(w *world) aws.Credentials { return w.issue(w.role, w.life) }
	plain := func(before func(w *world, ctx context.Context, n int) error) func(w *world) aws.CredentialsProvider {
		return func(w *world) aws.CredentialsProvider {
			var n atomic.Int64 // asks may lie beside each other
			return provider(func(ctx context.Context) (aws.Credentials, error) {
				w.asked()
				if err := before(w, ctx, int(n.Add(1))); err != nil {
					return aws.Credentials{}, err
				}
				value := fresh(w)
				w.handed(value)
				return value, nil
			})
		}
	}
	keeps := func(lead func(life time.Duration) time.Duration) func(w *world) aws.CredentialsProvider {
		return func(w *world) aws.CredentialsProvider {
			var mu sync.Mutex
			var kept aws.Credentials
			return provider(func(context.Context) (aws.Credentials, error) {
				w.asked()
				mu.Lock()
				defer mu.Unlock()
				if time.Until(kept.Expires) <= lead(w.life) {
					kept = fresh(w)
				}
				w.handed(kept)
				return kept, nil
			})
		}
	}
	const second = time.Second
	return []behaviour{
		{"gives others each time, as STS does", 0, plain(func(*world, context.Context, int) error { return nil })},
		{"gives the same until a fifth is left, as a container's does", 0, keeps(func(life time.Duration) time.Duration { return life / 5 })},
		{"gives the same until five minutes are left, as an instance's does", time.Hour, keeps(func(time.Duration) time.Duration { return 5 * time.Minute })},
		{"gives the same until a moment before its end", 0, keeps(func(time.Duration) time.Duration { return second / 2 })},
		{"gives the same until its end", 0, keeps(func(time.Duration) time.Duration { return 0 })},
		{"needs a second", 0, plain(func(_ *world, _ context.Context, _ int) error { time.Sleep(second); return nil })},
		{"needs nine seconds", 10 * second, plain(func(_ *world, _ context.Context, _ int) error { time.Sleep(9 * second); return nil })},
		{"fails every other time", 20 * second, plain(func(_ *world, _ context.Context, n int) error {
			if n%2 == 0 {
				return errDown
			}
			return nil
		})},
		{"fails for a while as renewal begins", 30 * second, func(w *world) aws.CredentialsProvider {
			var down time.Time
			return plain(func(w *world, _ context.Context, _ int) error {
				now := time.Now()
				if w.made() > 0 && down.IsZero() {
					down = now.Add(min(w.life/3, 5*time.Minute) / 2)
				}
				if now.Before(down) {
					return errDown
				}
				down = time.Time{}
				return nil
			})(w)
		}},
		{"hangs every other time", 20 * second, plain(func(_ *world, _ context.Context, n int) error {
			if n%2 == 0 { // the SDK's cache hands on no context that ends
				time.Sleep(45 * second)
				return errDown
			}
			return nil
		})},
		{"hangs every fourth time, for five minutes", 20 * second, plain(func(_ *world, _ context.Context, n int) error {
			if n%4 == 0 {
				time.Sleep(5 * time.Minute)
				return errDown
			}
			return nil
		})},
	}
}

// However long credentials live and whatever their source does: no call fails that
// credentials in hand, or in reach, could have served, and the source is asked as
// seldom as was promised.
func TestNoCallFailsThatCredentialsCouldServe(t *testing.T) {
	noFiles(t)
	for _, b := range behaviours() {
		t.Run(b.name, func(t *testing.T) {
			for _, life := range []time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour} {
				if life < b.least {
					continue
				}
				synctest.Test(t, func(t *testing.T) { live(t, b, life) })
			}
		})
	}
}

// live calls for many lives, at random times and just before and after the end of
// what there is.
func live(t *testing.T, b behaviour, life time.Duration) {
	t.Helper()
	w := newWorld(life)
	w.forgets = true
	conns := NewConnections()
	c := w.client(t, Options{Connections: conns}, b.source(w))
	defer time.Sleep(10 * time.Minute) // until what hangs has ended
	defer conns.Close()
	for range 20 { // the first contact
		if w.seal(t.Context(), c) == nil {
			break
		}
		time.Sleep(time.Second)
	}
	start := time.Now()
	hours, calls := hoursOf(t, life), 0
	for time.Since(start) < hours {
		if err := w.seal(t.Context(), c); err != nil {
			t.Fatalf("life %s, after %s: %v; in hand: %v", life, time.Since(start), err, w.holds())
		}
		calls++
		pause := upTo(life / 4)
		if calls%2 == 0 {
			pause = upTo(2 * time.Second)
		}
		time.Sleep(pause)
	}
	wantSchedule(t, w, life)
	t.Logf("life %s: %s, %d calls, %d asks", life, time.Since(start).Round(time.Minute), calls, len(w.begun()))
}

// upTo is a random time.
func upTo(most time.Duration) time.Duration {
	return rand.N(most) //nolint:gosec // no secret
}

// wantSchedule counts what a source was asked.
func wantSchedule(t *testing.T, w *world, life time.Duration) {
	t.Helper()
	window, pause := min(life/3, 5*time.Minute), min(max(life/10, 2*time.Second), 30*time.Second)
	most := 1 + 1 + int(window/pause)
	started := w.begun()
	lives := int(started[len(started)-1].Sub(started[0])/life) + 1
	if len(started) > most*lives {
		t.Errorf("life %s: %d asks in %d lives, want at most %d each", life, len(started), lives, most)
	}
	for n := 1; n < len(started); n++ {
		if gap := started[n].Sub(started[n-1]); gap < min(pause/2, 2*time.Second) {
			t.Fatalf("life %s: two asks %s apart", life, gap)
		}
	}
}
