package provider_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Over a reload the provider that told callers last decides what is kept.
func TestReplacedProviderKeepsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, old, m := newFake(), &fakeMemory{}, &fakeMemory{}
		before := begin(t, f, old, ringOptions{})
		wantStatus(t, before.Provider, "ok")
		time.Sleep(time.Minute)
		if old.taken() == 0 {
			t.Fatal("the provider before keeps nothing")
		}
		next := newRing(f, ringOptions{epoch: 1, before: before.Provider, memory: m})
		kill := stoppable(t, next)
		time.Sleep(time.Second)
		if _, err := next.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		old.taken()
		time.Sleep(5 * time.Minute)
		if n := old.taken(); n > 0 {
			t.Errorf("the provider before wrote %d times after it was replaced", n)
		}
		if k := m.last(); k == nil || !strings.Contains(k.KeyID, "epoch=1") {
			t.Errorf("kept %+v, want the key_id of epoch 1", k)
		}
		before.kill()
		kill()
	})
}

// A pause of the process ends no outage: Status does not become an error until the
// next check.
func TestPauseKeepsWhatTheProcessBeforeKnew(t *testing.T) {
	t.Parallel()
	for _, grace := range []time.Duration{time.Nanosecond, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.fail("Encrypt", cause.Unreachable)
			p := newRing(f, ringOptions{grace: grace, known: &provider.Known{KeyID: keyA, KeyARN: keyA, LastOK: time.Now()}})
			running(t, p)
			time.Sleep(time.Second)
			want := status(t, p)
			p.Pause(10 * time.Minute)
			wantStatus(t, p, want)
			if want != "ok" && want != "text KMS0204" {
				t.Errorf("Status is %q before the pause", want)
			}
		})
	}
}

// A reload in the outage does not forget what the process before knew, as long as the
// same key writes: the configuration of the others, or of time limits, may change.
func TestReloadAfterARestartInAnOutageKeepsWhatWasKnown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keys  func(f *fakeKMS, write *kmskey.Key) []*kmskey.Key // of the file that is loaded
		epoch uint32
		after func(t *testing.T, f *fakeKMS, old *provider.Provider) // nil: nothing happens after the reload
		want  string
	}{
		"time limits change": {keys: func(_ *fakeKMS, k *kmskey.Key) []*kmskey.Key { return []*kmskey.Key{k} }, want: "ok"},
		"a key that reads":   {keys: func(f *fakeKMS, k *kmskey.Key) []*kmskey.Key { return []*kmskey.Key{k, newKey(f, keyB)} }, want: "ok"},
		"the epoch":          {keys: func(_ *fakeKMS, k *kmskey.Key) []*kmskey.Key { return []*kmskey.Key{k} }, epoch: 1, want: "error KMS0204"},
		"the key made again": {keys: func(f *fakeKMS, _ *kmskey.Key) []*kmskey.Key { return []*kmskey.Key{newKey(f, keyA)} }, want: "error KMS0204"},
		"a refusal that the provider before meets": {
			keys: func(_ *fakeKMS, k *kmskey.Key) []*kmskey.Key { return []*kmskey.Key{k} }, after: meetsARefusal, want: "error KMS0204",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, m := newFake(), &fakeMemory{}
				o := ringOptions{grace: 3 * time.Minute}
				p := begin(t, f, m, o)
				time.Sleep(time.Minute)
				wantStatus(t, p.Provider, "ok")
				p.kill()
				f.fail("Encrypt", cause.Unreachable)
				f.fail("Decrypt", cause.Unreachable)

				o.memory, o.known = m, m.last()
				k := newKey(f, keyA)
				old := ringOf(o, k)
				kill := stoppable(t, old)
				defer func() { kill() }()
				wantStatus(t, old, "ok")
				time.Sleep(10 * time.Second)
				o.before, o.known, o.epoch = old, nil, c.epoch
				next := ringOf(o, c.keys(f, k)...)
				if c.after == nil {
					kill()
				}
				killNext := stoppable(t, next)
				defer killNext()
				if c.after != nil {
					time.Sleep(time.Second)
					wantStatus(t, next, "ok")
					c.after(t, f, old)
				}
				wantStatus(t, next, c.want)
			})
		})
	}
}

// meetsARefusal makes a provider that a reload replaced meet one in a call that it has
// yet to end.
func meetsARefusal(t *testing.T, f *fakeKMS, old *provider.Provider) {
	t.Helper()
	f.fail("Encrypt", cause.KeyDisabled)
	if _, err := old.Encrypt(t.Context(), secret.Bytes("seed")); err == nil {
		t.Fatal("want a refusal")
	}
	f.fail("Encrypt", cause.Unreachable)
	time.Sleep(10 * time.Second)
}
