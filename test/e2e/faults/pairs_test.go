package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// TestTwoPairs: of two pairs in one process, one key is disabled, hangs, is
// denied; the 16 callers of the other see no error and wait for nothing.
func TestTwoPairs(t *testing.T) {
	t.Parallel()
	const (
		bad, good = 0, 1
		callers   = 16
		badCaller = 16                    // as many again hang on to the other
		pace      = 50 * time.Millisecond // of each caller, so that it is the plugin that is measured
		phase     = 8 * time.Second
		limit     = time.Second
	)
	m := newMachine(t, "--outage-grace=0")
	goodKey := m.newKey()
	m.keys = append(m.keys, goodKey)
	m.launch()
	m.eventually(recovery, "all is well", m.well)
	w := m.watch() // of the bad pair: its key_id stays and it never waits

	ctx, leave := context.WithCancel(t.Context())
	clients := &latencies{}
	var under sync.WaitGroup
	for i := range callers {
		api := []string{v1API, v2API}[i%2]
		under.Go(func() { // ends by leave
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				start := time.Now()
				s, err := m.encrypt(t.Context(), good, api) //nolint:contextcheck // a call that has begun is not cut by leave
				clients.add(t, "Encrypt", start, err, limit)
				if err != nil {
					continue
				}
				start = time.Now()
				clients.add(t, "Decrypt", start, m.decrypt(t.Context(), good, s), limit) //nolint:contextcheck // as above
			}
		})
	}
	for range badCaller {
		under.Go(func() { // ends by leave
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					_, _ = m.encrypt(ctx, bad, v2API) // fails, or not, by the phase
				}
			}
		})
	}

	clients.wait(m, phase)
	t.Logf("control: %s", clients.take())
	for _, c := range []struct {
		name, cause string
		begin       func() (end func())
		declared    time.Duration
	}{
		{"disabled", disabledCause, func() func() {
			m.must(m.kms.DisableKey(m.key))
			return func() { m.must(m.kms.EnableKey(m.key)) }
		}, recovery},
		{"hanging", "KMS0203", func() func() { return m.kms.Inject(kmsemulator.Fault{Key: m.key, Kind: kmsemulator.Hang}) }, declared},
		{"denied", "KMS0104", func() func() {
			m.kms.Deny(m.key, "*")
			return func() { m.kms.Allow(m.key, "*") }
		}, recovery},
	} {
		end := c.begin()
		start := time.Now()
		m.eventually(c.declared, "the other key is "+c.name+" in /readyz", func(ctx context.Context) error {
			return m.onlyFirstFails(ctx, c.cause)
		})
		after := time.Since(start)
		clients.wait(m, phase)
		m.must(m.onlyFirstFails(t.Context(), c.cause))
		if a := m.ask(t.Context(), m.plugin, good, goodKey, true); a.form != ok {
			t.Errorf("the other key is %s, and Status of this one is %v", c.name, a)
		}
		t.Logf("the other key %s (said after %v): %s", c.name, after.Round(100*time.Millisecond), clients.take())
		end()
		m.eventually(recovery, "all is well", m.well)
	}
	leave()
	under.Wait()
	w.stop()
	m.end()
}

// onlyFirstFails is nil when /readyz blames the first provider and clears the
// second.
func (m *machine) onlyFirstFails(ctx context.Context, cause string) error {
	for path, want := range map[string]int{
		"/readyz": http.StatusServiceUnavailable, "/readyz/0": http.StatusServiceUnavailable, "/readyz/1": http.StatusOK, "/livez": http.StatusOK,
	} {
		code, text, err := m.get(ctx, path)
		if err != nil {
			return err
		}
		if code != want || want != http.StatusOK && !strings.Contains(text, cause) {
			return fmt.Errorf("%s is %d %q, want %d", path, code, text, want)
		}
	}
	return nil
}

// latencies are how long calls took that must not fail.
type latencies struct {
	mu   sync.Mutex
	took []time.Duration
}

func (l *latencies) add(t *testing.T, what string, start time.Time, err error, limit time.Duration) {
	t.Helper()
	took := time.Since(start)
	if err != nil || took > limit {
		t.Errorf("%s with the key that works took %v and failed by %v; want no error and at most %v", what, took, err, limit)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took)
}

// wait lets the calls of a phase come in.
func (l *latencies) wait(m *machine, phase time.Duration) {
	m.t.Helper()
	start := time.Now()
	m.eventually(2*phase, "the phase is over", func(context.Context) error {
		if time.Since(start) < phase {
			return errors.New("it goes on")
		}
		return nil
	})
}

// take words what came in since the last time.
func (l *latencies) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := l.took
	l.took = nil
	slices.Sort(took)
	return fmt.Sprintf("%d calls, %s", len(took), quantiles(took))
}
