package awskms

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// credentialHours is the environment variable for how many hours of virtual time each
// behaviour of a source is seen, and each source of the SDK.
const credentialHours = "AWSKMS_CREDENTIAL_HOURS"

// timeOf is how long a source is used with credentials of one life of several. Those
// up to an hour are lived as often as each other.
func timeOf(t *testing.T, life time.Duration, lives []time.Duration) time.Duration {
	t.Helper()
	least := life * 5 / 4 // so that they are renewed
	text := os.Getenv(credentialHours)
	if text == "" {
		return max(least, min(2*time.Hour, 60*life))
	}
	hours, err := strconv.Atoi(text)
	if err != nil || hours < 1 {
		t.Fatalf("%s=%s: want a number of hours", credentialHours, text)
	}
	all := time.Duration(0)
	for _, l := range lives {
		all += min(l, time.Hour)
	}
	share := min(life, time.Hour).Seconds() / all.Seconds()
	return max(least, time.Duration(float64(hours)*share*float64(time.Hour)))
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
	t.Parallel()
	for _, b := range behaviours() {
		lives := []time.Duration{10 * time.Second, 30 * time.Second, 2 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}
		lives = slices.DeleteFunc(lives, func(life time.Duration) bool { return life < b.least })
		for _, life := range lives {
			t.Run(b.name+"/"+life.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { live(t, b, life, timeOf(t, life, lives)) })
			})
		}
	}
}

// live calls for many lives, at random times and just before and after the end of
// what there is.
func live(t *testing.T, b behaviour, life, most time.Duration) {
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
	start, calls := time.Now(), 0
	for time.Since(start) < most {
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
