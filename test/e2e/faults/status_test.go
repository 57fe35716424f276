package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// TestStatusWhileKMSHangs: with no grace, and KMS silent for half a minute or
// longer, no Status takes over a second, the answer names the cause by itself,
// and is ok again within 15 s of KMS's return.
func TestStatusWhileKMSHangs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		callers int
		named   time.Duration // within which the cause is named
	}{
		// The next check comes when the last success is half a minute old.
		{"without traffic", 0, 30*time.Second + declared},
		{"with 16 callers that hang", 16, declared},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const hang = 30 * time.Second
			m := newMachine(t, "--outage-grace=0")
			m.launch()
			m.eventually(recovery, "all is well", m.well)
			err := m.write(t.Context(), v2API)
			m.must(err)
			w := m.watch()
			m.settle()

			begun := time.Now()
			end := m.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
			defer end()
			var callers sync.WaitGroup
			ctx, leave := context.WithCancel(t.Context())
			for range c.callers {
				callers.Go(func() { // ends by leave
					for ctx.Err() == nil {
						if _, err := m.encrypt(ctx, 0, v2API); err == nil {
							t.Error("an Encrypt succeeded while KMS hangs")
						}
					}
				})
			}
			var took []time.Duration
			var named time.Duration
			m.eventually(c.named, "the cause is named", func(ctx context.Context) error {
				a := m.ask(ctx, m.plugin, 0, m.key, true)
				took = append(took, a.end.Sub(a.start))
				switch {
				case a.form == text && named == 0:
					named = time.Since(begun)
					if !strings.Contains(a.words, "KMS0203") || !strings.Contains(a.words, m.key) {
						t.Errorf("the text names neither cause nor key: %v", a)
					}
				case a.form == refusal:
					t.Errorf("while KMS hangs Status is %v, want ok and then a text", a)
				}
				if named == 0 || time.Since(begun) < hang {
					return errors.New("not yet")
				}
				return nil
			})
			leave()
			callers.Wait()
			end()
			returned := time.Now()
			m.eventually(recovery, "all is well", m.well)
			back := time.Since(returned)
			m.judge(w, begun, []string{"KMS0203"}, ok, text)
			m.readsAll()
			slices.Sort(took)
			t.Logf("%d Status while KMS hung: %s; the cause was named after %v, ok %v after KMS's return",
				len(took), quantiles(took), named.Round(100*time.Millisecond), back.Round(100*time.Millisecond))
			w.stop()
			m.end()
		})
	}
}

// quantiles words durations, which are sorted.
func quantiles(sorted []time.Duration) string {
	if len(sorted) == 0 {
		return "none"
	}
	at := func(q float64) time.Duration {
		return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v, most %v", at(.5), at(.99), at(1))
}
