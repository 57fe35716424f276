package rewrite_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
)

// TestEachAnswer: what an API server can answer about one of two objects, what is
// counted, and what is said of it.
func TestEachAnswer(t *testing.T) {
	t.Parallel()
	type counts struct{ rewritten, byOthers, fresh, gone, left int64 }
	for _, c := range []struct {
		name   string
		answer func(ctx context.Context, c *cluster, name string, nth int) (int64, error)
		want   counts
		result rewrite.Result
		asked  int // requests about the object
		left   string
	}{
		{name: "written", want: counts{rewritten: 2}, result: rewrite.Clean, asked: 1},
		{
			name: "the answer says success and nothing was written", // another etcd, or a lie
			answer: func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
				return c.objects[name].revision + 1, nil
			},
			want: counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 3, left: "is stale again",
		},
		{
			name: "the API server takes it for fresh",
			answer: func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
				return c.objects[name].revision, nil
			},
			want: counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 3, left: "takes it for fresh",
		},
		{
			name: "an API server that lags is slow to follow",
			answer: func(_ context.Context, c *cluster, name string, nth int) (int64, error) {
				if nth == 1 {
					return c.objects[name].revision, nil
				}
				return 0, errAsUsual
			},
			want: counts{rewritten: 2}, result: rewrite.Clean, asked: 2,
		},
		{
			name: "somebody else writes it first",
			answer: func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
				c.write(name, false)
				return 0, errAsUsual
			},
			want: counts{rewritten: 1, byOthers: 1}, result: rewrite.Clean, asked: 1,
		},
		{
			name: "somebody else writes it under the old key",
			answer: func(_ context.Context, c *cluster, name string, nth int) (int64, error) {
				if nth == 1 {
					c.write(name, true)
				}
				return 0, errAsUsual
			},
			want: counts{rewritten: 2}, result: rewrite.Clean, asked: 2,
		},
		{
			name: "deleted and made anew under the old key",
			answer: func(_ context.Context, c *cluster, name string, nth int) (int64, error) {
				if nth == 1 {
					c.remove(name)
					c.write(name, true)
				}
				return 0, errAsUsual
			},
			want: counts{rewritten: 2}, result: rewrite.Clean, asked: 2,
		},
		{
			name: "somebody else writes it again and again under the old key",
			answer: func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
				c.write(name, true)
				return 0, errAsUsual
			},
			want: counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 30, left: "again and again",
		},
		{
			name:   "a conflict that etcd knows nothing of",
			answer: func(context.Context, *cluster, string, int) (int64, error) { return 0, refusal(409) },
			want:   counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 3, left: "another revision of it than etcd",
		},
		{
			name: "gone",
			answer: func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
				c.remove(name)
				return 0, errAsUsual
			},
			want: counts{rewritten: 1, gone: 1}, result: rewrite.Clean, asked: 1,
		},
		{
			name: "gone after a conflict",
			answer: func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
				c.remove(name)
				return 0, refusal(409)
			},
			want: counts{rewritten: 1, gone: 1}, result: rewrite.Clean, asked: 1,
		},
		{
			name:   "not found, and etcd has it",
			answer: func(context.Context, *cluster, string, int) (int64, error) { return 0, refusal(404) },
			want:   counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 3, left: "does not find it, and etcd has it",
		},
		{
			name:   "refused", // once is enough: it would be refused again
			answer: func(context.Context, *cluster, string, int) (int64, error) { return 0, refusal(422) },
			want:   counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 1, left: "refused by a test",
		},
		{
			name: "a webhook that refuses with any code",
			answer: func(_ context.Context, _ *cluster, _ string, _ int) (int64, error) {
				return 0, &rewrite.RefusalError{Code: 409, Cause: "webhook w refuses it", Denied: true}
			},
			want: counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 1, left: "webhook w refuses it",
		},
		{
			name: "a webhook behind the API server hangs", // once in a round
			answer: func(_ context.Context, _ *cluster, _ string, _ int) (int64, error) {
				return 0, &rewrite.RefusalError{Code: 500, Cause: "webhook w does not answer", Hangs: true}
			},
			want: counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 3, left: "webhook w does not answer",
		},
		{
			name: "too many requests, then not",
			answer: func(_ context.Context, _ *cluster, _ string, nth int) (int64, error) {
				if nth < 5 {
					return 0, refusal(429)
				}
				return 0, errAsUsual
			},
			want: counts{rewritten: 2}, result: rewrite.Clean, asked: 5,
		},
		{
			name:   "an error of the API server's own, always",
			answer: func(context.Context, *cluster, string, int) (int64, error) { return 0, refusal(500) },
			want:   counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 15, left: "refused by a test",
		},
		{
			name: "no connection for a while",
			answer: func(_ context.Context, _ *cluster, _ string, nth int) (int64, error) {
				if nth < 7 {
					return 0, errors.New("connection refused")
				}
				return 0, errAsUsual
			},
			want: counts{rewritten: 2}, result: rewrite.Clean, asked: 7,
		},
		{
			name: "a webhook hangs", // once in a round
			answer: func(ctx context.Context, _ *cluster, _ string, _ int) (int64, error) {
				<-ctx.Done()
				return 0, fmt.Errorf("Patch: %w", ctx.Err())
			},
			want: counts{rewritten: 1, left: 1}, result: rewrite.LeftOver, asked: 3, left: "no answer within 35s",
		},
		{
			name: "a request is carried out, and its answer is lost",
			answer: func(ctx context.Context, c *cluster, name string, _ int) (int64, error) {
				c.write(name, false)
				<-ctx.Done()
				return 0, ctx.Err()
			},
			want: counts{rewritten: 1, byOthers: 1}, result: rewrite.Clean, asked: 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cluster := newCluster("good", "odd")
				cluster.answer = only("odd", c.answer)
				r := cluster.run(t, rewrite.Options{})
				got := counts{r.Rewritten, r.ByOthers, r.Fresh, r.Gone, r.LeftCount}
				if got != c.want || r.Result != c.result {
					t.Errorf("%+v %q, want %+v %q: %s", got, r.Result, c.want, c.result, r.Text)
				}
				if got := cluster.asked["odd"]; got != c.asked {
					t.Errorf("%d requests, want %d", got, c.asked)
				}
				if c.left != "" && (len(r.Left) != 1 || !strings.Contains(r.Left[0].Cause, c.left) || r.Left[0].Path != "/registry/secrets/default/odd") {
					t.Errorf("left: %+v, want one because %q", r.Left, c.left)
				}
				if (r.LeftCount > 0) != strings.Contains(r.Text, "1 of 2 rewritten; 1 needs you") {
					t.Errorf("the sentence is %q", r.Text)
				}
			})
		})
	}
}

// only has an answer be one about a single object.
func only(name string, answer func(context.Context, *cluster, string, int) (int64, error)) func(context.Context, *cluster, string, int) (int64, error) {
	return func(ctx context.Context, c *cluster, asked string, nth int) (int64, error) {
		if asked != name || answer == nil {
			return 0, errAsUsual
		}
		return answer(ctx, c, asked, nth)
	}
}

// TestNothingIsSentBeforeAllAPIServersConverged, and none of its results counts where
// they did not stay so.
func TestNothingIsSentBeforeAllAPIServersConverged(t *testing.T) {
	t.Parallel()
	good := newCluster().judged[0]
	other := good
	other.Keys = map[string]string{"aws": "sha256:newer"}
	restarted := good
	restarted.Members = "b, c"
	bad := rewrite.Judgement{Reasons: []string{"cp-2 writes under the old key"}}
	for _, c := range []struct {
		name   string
		judged []rewrite.Judgement
		sent   int
		result rewrite.Result
		reason string
	}{
		{"they have", []rewrite.Judgement{good}, 2, rewrite.Clean, ""},
		{"they have not", []rewrite.Judgement{bad}, 0, rewrite.Refused, "cp-2 writes under the old key"},
		{"one falls back", []rewrite.Judgement{good, bad}, 2, rewrite.NotKnown, "cp-2 writes under the old key"},
		{"one falls back at the end", []rewrite.Judgement{good, good, bad}, 2, rewrite.NotKnown, "cp-2 writes under the old key"},
		{"one restarts", []rewrite.Judgement{good, restarted}, 2, rewrite.NotKnown, "an API server has started, restarted or ended meanwhile"},
		{"the key changes", []rewrite.Judgement{good, other}, 2, rewrite.NotKnown, "another key than when this began"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cluster := newCluster("a", "b")
				cluster.judged = c.judged
				r, err := rewrite.Run(t.Context(), rewrite.Options{}, cluster, cluster, cluster, nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(cluster.sent) != c.sent || r.Result != c.result {
					t.Errorf("%d requests, %q; want %d, %q", len(cluster.sent), r.Result, c.sent, c.result)
				}
				if !strings.Contains(r.Text, c.reason) {
					t.Errorf("%q does not say %q", r.Text, c.reason)
				}
			})
		})
	}
}

// TestAnAPIServerThatLagsWritesBack: what is stale again after it was written is found
// by the next list, and never called rewritten.
func TestAnAPIServerThatLagsWritesBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		back   int // lists before which it writes back
		result rewrite.Result
	}{
		{"once", 1, rewrite.Clean},
		{"always", 9, rewrite.LeftOver},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cluster := newCluster("a", "b")
				cluster.onList = func(of *fake) {
					if of.lists > 1 && of.lists <= 1+c.back {
						of.writeLocked("a", true)
					}
				}
				r := cluster.run(t, rewrite.Options{})
				if r.Result != c.result || len(r.Rounds) != min(c.back+1, 3) {
					t.Errorf("%q after %d rounds: %s", r.Result, len(r.Rounds), r.Text)
				}
			})
		})
	}
}

type fake = cluster

// TestWhatWasNotReadKeepsItFromBeingClean, and so does an etcd that cannot be read in
// the end.
func TestWhatWasNotReadKeepsItFromBeingClean(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		notRead []string
		listed  []error
		lost    []rewrite.Left
		result  rewrite.Result
		text    string
	}{
		{"a prefix", []string{"not read: /openshift.io in etcd"}, nil, nil, rewrite.NotKnown, "not known whether anything stale is left: 2 of 2 rewritten; not read: /openshift.io in etcd"},
		{"etcd compacts", nil, []error{nil, errors.New("etcd has compacted it")}, nil, rewrite.NotKnown, "could not be listed again: etcd has compacted it"},
		{
			"what no provider reads", nil, nil,
			[]rewrite.Left{{Path: "/registry/secrets/a/b", Outcome: rewrite.OutcomeUnreadable, Cause: "no provider reads it"}},
			rewrite.LeftOver, "2 of 3 rewritten; 1 needs you",
		},
		{
			"both",
			[]string{"not read: events"},
			nil,
			[]rewrite.Left{{Path: "/registry/secrets/a/b", Outcome: rewrite.OutcomeUnreadable, Cause: "no provider reads it"}},
			rewrite.LeftOver, "not read: events",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cluster := newCluster("a", "b")
				cluster.notRead, cluster.listed, cluster.lost = c.notRead, c.listed, c.lost
				r := cluster.run(t, rewrite.Options{})
				if r.Result != c.result || !strings.Contains(r.Text, c.text) {
					t.Errorf("%q: %q, want %q: %q", r.Result, r.Text, c.result, c.text)
				}
			})
		})
	}
}

// TestOnlyTheAPIServerKnows: what is in doubt is sent, and is fresh where the API server
// says so.
func TestOnlyTheAPIServerKnows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("cbc", "gcm")
		c.objects["gcm"].stale, c.objects["gcm"].doubt = false, true
		c.objects["cbc"].doubt = true
		c.answer = func(_ context.Context, c *cluster, _ string, _ int) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.objects["cbc"].doubt = false // what is written now is not
			return 0, errAsUsual
		}
		r := c.run(t, rewrite.Options{})
		if r.Result != rewrite.Clean || r.Fresh != 1 || r.Rewritten != 1 || c.asked["gcm"] != 1 {
			t.Errorf("%+v, %d requests", r, c.asked["gcm"])
		}
	})
}

// TestWhatWasWrittenIsNotInDoubt, though its bytes do not tell.
func TestWhatWasWrittenIsNotInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("a")
		c.objects["a"].doubt = true
		r := c.run(t, rewrite.Options{})
		if r.Result != rewrite.Clean || r.Rewritten != 1 || c.asked["a"] != 1 {
			t.Errorf("%+v, %d requests", r, c.asked["a"])
		}
	})
}

// TestAChangeByAdmissionIsListed, by its length alone.
func TestAChangeByAdmissionIsListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("longer", "same", "shorter", "unknown")
		c.answer = func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.objects[name].size += map[string]int{"longer": 7, "shorter": -1}[name]
			return 0, errAsUsual
		}
		r := c.run(t, rewrite.Options{})
		want := []rewrite.Change{
			{Path: "/registry/secrets/default/longer", Before: rewrite.Bytes{Least: 100, Most: 100}, After: rewrite.Bytes{Least: 107, Most: 107}},
			{Path: "/registry/secrets/default/shorter", Before: rewrite.Bytes{Least: 100, Most: 100}, After: rewrite.Bytes{Least: 99, Most: 99}},
		}
		if diff := cmp.Diff(want, r.Changed); diff != "" {
			t.Errorf("changed (-want +got):\n%s", diff)
		}
		if r.Result != rewrite.Clean || !strings.Contains(r.Text, "2 longer or shorter than before") {
			t.Errorf("%q: %s", r.Result, r.Text)
		}
	})
	t.Run("where padding hides the length", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct {
			before, after rewrite.Size
			differs       bool
		}{
			{rewrite.Size{Least: 96, Most: 111}, rewrite.Size{Least: 100, Most: 100}, false},
			{rewrite.Size{Least: 96, Most: 111}, rewrite.Size{Least: 112, Most: 112}, true},
			{rewrite.Size{Least: 96, Most: 111}, rewrite.Size{Least: 95, Most: 95}, true},
		} {
			if got := c.before.Differs(c.after); got != c.differs {
				t.Errorf("%v and %v differ: %t", c.before, c.after, got)
			}
		}
	})
	t.Run("compacted before it was looked at", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster("a")
			c.looks = []error{rewrite.ErrNotCompared}
			if r := c.run(t, rewrite.Options{}); r.NotCompared != 1 || r.Result != rewrite.Clean {
				t.Errorf("%+v", r)
			}
		})
	})
}

// TestTheRate: requests are spread, halved where an API server is slow or has too much to
// do, and recover slowly.
func TestTheRate(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 400 {
		names = append(names, fmt.Sprintf("s%03d", i))
	}
	perSecond := func(c *cluster, from, to time.Duration) (n int) {
		for _, at := range c.when {
			if since := at.Sub(c.when[0]); since >= from && since < to {
				n++
			}
		}
		return n
	}
	t.Run("steady", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(names...)
			c.run(t, rewrite.Options{})
			if n := perSecond(c, 2*time.Second, 3*time.Second); n != 50 {
				t.Errorf("%d requests in the third second, want 50", n)
			}
		})
	})
	for name, trouble := range map[string]func(ctx context.Context) error{
		"429":  func(context.Context) error { return refusal(429) },
		"slow": func(context.Context) error { time.Sleep(1100 * time.Millisecond); return errAsUsual },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(names...)
				n := 0
				c.answer = func(ctx context.Context, c *cluster, _ string, _ int) (int64, error) {
					c.mu.Lock()
					n++
					at := n
					c.mu.Unlock()
					if at == 75 { // after 1.5 s
						return 0, trouble(ctx)
					}
					return 0, errAsUsual
				}
				if r := c.run(t, rewrite.Options{}); r.Result != rewrite.Clean {
					t.Error(r.Text)
				}
				if n := perSecond(c, 3500*time.Millisecond, 4500*time.Millisecond); n < 23 || n > 27 {
					t.Errorf("%d requests in a second after it, want 25", n)
				}
				if n := perSecond(c, 10*time.Second, 11*time.Second); n < 27 || n > 33 {
					t.Errorf("%d requests in a second a while after it, want about 28", n)
				}
			})
		})
	}
	t.Run("Retry-After", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster("a")
			c.answer = func(_ context.Context, _ *cluster, _ string, nth int) (int64, error) {
				if nth == 1 {
					return 0, &rewrite.RefusalError{Code: 429, Cause: "busy", RetryAfter: 17 * time.Second}
				}
				return 0, errAsUsual
			}
			c.run(t, rewrite.Options{})
			if len(c.when) != 2 || c.when[1].Sub(c.when[0]) < 17*time.Second || c.when[1].Sub(c.when[0]) > 20*time.Second {
				t.Errorf("requests at %v", c.when)
			}
		})
	})
	t.Run("workers", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(names[:40]...)
			c.answer = func(context.Context, *cluster, string, int) (int64, error) {
				time.Sleep(900 * time.Millisecond)
				return 0, errAsUsual
			}
			c.run(t, rewrite.Options{})
			if c.mostInFlight != rewrite.DefaultWorkers {
				t.Errorf("%d requests at once, want %d", c.mostInFlight, rewrite.DefaultWorkers)
			}
		})
	})
}

// TestFailuresInARowStopIt, and those that a success parts do not.
func TestFailuresInARowStopIt(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("s%03d", i))
	}
	t.Run("in a row", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(names...)
			c.answer = func(context.Context, *cluster, string, int) (int64, error) { return 0, refusal(403) }
			r := c.run(t, rewrite.Options{})
			if r.Result != rewrite.Stopped || len(c.sent) < 20 || len(c.sent) > 24 || r.LeftCount != 100 {
				t.Errorf("%q after %d requests, %d left: %s", r.Result, len(c.sent), r.LeftCount, r.Text)
			}
			if !strings.Contains(r.Text, "20 failures in a row, the last: refused by a test") {
				t.Error(r.Text)
			}
		})
	})
	t.Run("half of all", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(names...)
			n := 0
			c.answer = func(_ context.Context, c *cluster, _ string, _ int) (int64, error) {
				c.mu.Lock()
				defer c.mu.Unlock()
				if n++; n%2 == 0 {
					return 0, refusal(403)
				}
				return 0, errAsUsual
			}
			r := c.run(t, rewrite.Options{})
			if r.Result != rewrite.LeftOver || r.LeftCount != 50 || r.Rewritten != 50 {
				t.Errorf("%q: %s", r.Result, r.Text)
			}
		})
	})
}

// TestCtrlC: what is under way is waited for, nothing else is begun, and it says what was
// done.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprintf("s%03d", i))
		}
		c := newCluster(names...)
		ctx, cancel := context.WithCancel(t.Context())
		c.answer = func(ctx context.Context, c *cluster, _ string, _ int) (int64, error) {
			c.mu.Lock()
			n := len(c.sent)
			c.mu.Unlock()
			if n == 10 {
				cancel()
				time.Sleep(5 * time.Second)
				if ctx.Err() != nil {
					t.Error("a request under way was cancelled")
				}
			}
			return 0, errAsUsual
		}
		r, err := rewrite.Run(ctx, rewrite.Options{}, c, c, c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Result != rewrite.Interrupted || r.Rewritten != int64(len(c.sent)) || len(c.sent) > 13 || c.lists != 1 {
			t.Errorf("%q, %d rewritten of %d requests, %d lists", r.Result, r.Rewritten, len(c.sent), c.lists)
		}
		if want := fmt.Sprintf("interrupted: %d of 100 were rewritten", len(c.sent)); !strings.Contains(r.Text, want) || !strings.Contains(r.Text, "the next run goes on") {
			t.Errorf("%q, want %q", r.Text, want)
		}
		again := c.run(t, rewrite.Options{})
		if again.Result != rewrite.Clean || again.Rewritten != 100-r.Rewritten {
			t.Errorf("the next run: %s", again.Text)
		}
	})
}

// TestADryRunSendsNothing, and says what it would send.
func TestADryRunSendsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("b", "a")
		r := c.run(t, rewrite.Options{DryRun: true})
		var paths []string
		for _, l := range r.Left {
			paths = append(paths, l.Path)
		}
		if !slices.Equal(paths, []string{"/registry/secrets/default/a", "/registry/secrets/default/b"}) || len(c.sent) != 0 || r.Result != rewrite.Planned {
			t.Errorf("%q, %d requests, %q", paths, len(c.sent), r.Result)
		}
	})
}

// TestWhatNoAPIServerServes is left, and named.
func TestWhatNoAPIServerServes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("a")
		c.serves = "no API server serves it"
		r := c.run(t, rewrite.Options{})
		if r.Result != rewrite.LeftOver || len(c.sent) != 0 || r.Left[0].Outcome != rewrite.OutcomeOrphaned || r.Plan[0].Orphaned == "" {
			t.Errorf("%+v", r)
		}
	})
}

// TestWithoutEtcdNothingIsProved.
func TestWithoutEtcdNothingIsProved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("a", "b", "c")
		c.noEtcd = true
		c.objects["b"].stale, c.objects["b"].doubt = false, true
		c.answer = only("c", func(context.Context, *cluster, string, int) (int64, error) { return 0, refusal(422) })
		r := c.run(t, rewrite.Options{})
		if r.Result != rewrite.NotProved || r.Rewritten != 1 || r.Fresh != 1 || r.LeftCount != 1 || c.lists != 1 || len(r.Rounds) != 1 {
			t.Errorf("%+v", r)
		}
		if !strings.HasPrefix(r.Text, "sent, not proved") {
			t.Error(r.Text)
		}
	})
}

// TestTheAnnouncementComesFirst, with what will be done, and nothing is sent where it
// cannot be made.
func TestTheAnnouncementComesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("a", "b")
		broken := errors.New("the pipe is closed")
		_, err := rewrite.Run(t.Context(), rewrite.Options{Announce: func(r *rewrite.Report) error {
			if len(c.sent) != 0 || len(r.Plan) != 1 || r.Plan[0].Objects != 2 {
				t.Errorf("%d requests before %+v", len(c.sent), r.Plan)
			}
			return broken
		}}, c, c, c, nil)
		if !errors.Is(err, broken) || len(c.sent) != 0 {
			t.Errorf("%v, %d requests", err, len(c.sent))
		}
	})
}

// TestCtrlCWhileAPIServersAreAsked is no word about them.
func TestCtrlCWhileAPIServersAreAsked(t *testing.T) {
	t.Parallel()
	for _, nth := range []int{2, 3} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster("a")
			ctx, cancel := context.WithCancel(t.Context())
			c.onJudge = func(n int) {
				if n == nth {
					cancel()
				}
			}
			r, err := rewrite.Run(ctx, rewrite.Options{}, c, c, c, nil)
			if err != nil || r.Result != rewrite.Interrupted || r.Rewritten != 1 {
				t.Errorf("at the question %d: %+v, %v", nth, r, err)
			}
			cancel()
		})
	}
}
