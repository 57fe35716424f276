package provider_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const mrkAbroad = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"

// keyIDOf is what an API server is told. A Status stands for all: Encrypt must
// answer the same.
func keyIDOf(t testing.TB, p *provider.Provider) string {
	t.Helper()
	if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil { // without Run, the first contact
		t.Fatalf("Encrypt: %v", err)
	}
	for range 2 { // it may change in between, once
		st, err := p.Status(t.Context())
		if err != nil {
			t.Fatalf("Status: %v", err)
		}
		e, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
		if err != nil {
			t.Fatalf("Encrypt: %v", err)
		}
		if e.KeyID == st.KeyID {
			return st.KeyID
		}
	}
	t.Fatal("Encrypt and Status answer different key_ids")
	return ""
}

// started is keyIDOf for a process that has just started, of a KMS that rotates
// keys A, B and the multi-Region key.
func started(t testing.TB, o ringOptions, keys ...*kmskey.Key) string {
	t.Helper()
	return keyIDOf(t, ringOf(o, keys...))
}

func rotating() *fakeKMS {
	f := newFake()
	for _, arn := range []string{keyA, keyB, mrk, mrkAbroad} {
		f.rotate(arn, "m1")
	}
	return f
}

// contextKey is key A, called with an encryption context.
func contextKey(f *fakeKMS, pairs map[string]string) *kmskey.Key {
	hash := keyref.ContextHash(pairs)
	return kmskey.New(kmskey.Config{Name: keyA, Context: hash, KMS: inContext{f, hash}})
}

// A needless change rewrites every object of a cluster, a missing one leaves them
// under what was to be left.
func TestWhatChangesKeyIDAndWhatDoesNot(t *testing.T) {
	t.Parallel()
	ab, ba, other := map[string]string{"a": "b", "c": "d"}, map[string]string{"c": "d", "a": "b"}, map[string]string{"a": "b"}
	type start func(t testing.TB, f *fakeKMS) string
	plain := func(name string) start {
		return func(t testing.TB, f *fakeKMS) string {
			t.Helper()
			return started(t, ringOptions{}, newKey(f, name))
		}
	}
	context := func(pairs map[string]string) start {
		return func(t testing.TB, f *fakeKMS) string {
			t.Helper()
			return started(t, ringOptions{}, contextKey(f, pairs))
		}
	}
	rotated := func(t testing.TB, f *fakeKMS) string {
		t.Helper()
		f.rotate(keyA, "m2")
		return started(t, ringOptions{}, newKey(f, keyA))
	}
	epoch := func(t testing.TB, f *fakeKMS) string {
		t.Helper()
		return started(t, ringOptions{epoch: 1}, newKey(f, keyA))
	}
	twoKeys := func(t testing.TB, f *fakeKMS) string {
		t.Helper()
		return started(t, ringOptions{}, newKey(f, keyA), newKey(f, keyB))
	}
	reloaded := func(t testing.TB, f *fakeKMS) string {
		t.Helper()
		k := newKey(f, keyA)
		before := ringOf(ringOptions{}, k)
		keyID := started(t, ringOptions{before: before}, k, newKey(f, keyB))
		if now := started(t, ringOptions{before: before}, k); now != keyID {
			t.Errorf("%q after one reload, %q after two", keyID, now)
		}
		return keyID
	}
	readsOld := func(t testing.TB, f *fakeKMS) string {
		t.Helper()
		p := newRing(f, ringOptions{})
		keyID := keyIDOf(t, p)
		for range 10 {
			if _, err := p.Decrypt(t.Context(), stored(keyA+"#m0", "old", "")); err != nil {
				t.Fatal(err)
			}
		}
		if now := keyIDOf(t, p); now != keyID {
			t.Errorf("%q before old data was read, %q then", keyID, now)
		}
		return keyID
	}
	for name, c := range map[string]struct {
		one, other start
		same       bool
	}{
		"key material":                {plain(keyA), rotated, false},
		"first key":                   {plain(keyA), plain(keyB), false},
		"context":                     {plain(keyA), context(ab), false},
		"another context":             {context(ab), context(other), false},
		"epoch":                       {plain(keyA), epoch, false},
		"a restart":                   {plain(keyA), plain(keyA), true},
		"the Region of a replica":     {plain(mrk), plain(mrkAbroad), true},
		"an alias instead of the ARN": {plain(keyA), plain(alias), true},
		"a further read key":          {plain(keyA), twoKeys, true},
		"the order of the context":    {context(ab), context(ba), true},
		"a reload that keeps the key": {plain(keyA), reloaded, true},
		"old data that is read":       {plain(keyA), readsOld, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, other := c.one(t, rotating()), c.other(t, rotating())
			if (one == other) != c.same {
				t.Errorf("key_ids %q and %q, want them equal: %v", one, other, c.same)
			}
		})
	}
}

func TestFormatChangesKeyID(t *testing.T) {
	t.Parallel()
	one := keyref.State{Key: keyA, Material: "m1"}
	other := one
	other.Format = "local"
	if one.String() == other.String() {
		t.Errorf("both are %q", one)
	}
}

// material waits, at the pace of an API server, and returns all the key_ids that
// were told on the way.
func watched(t *testing.T, p *provider.Provider, d time.Duration) []string {
	t.Helper()
	var told []string
	for range d / (5 * time.Second) {
		id := keyIDOf(t, p)
		if len(told) == 0 || told[len(told)-1] != id {
			told = append(told, id)
		}
		time.Sleep(5 * time.Second)
	}
	return told
}

func wantTold(t *testing.T, told []string, want ...string) {
	t.Helper()
	if got := strings.Join(told, " "); got != strings.Join(want, " ") {
		t.Errorf("key_ids %q, want %q", told, want)
	}
}

const (
	m1 = keyA + "?material=m1"
	m2 = keyA + "?material=m2"
)

func TestRotationChangesKeyIDOnceWithin90Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		p, late := newRing(f, ringOptions{}), newRing(f, ringOptions{})
		running(t, p)
		wantTold(t, watched(t, p, 10*time.Minute), m1)
		f.rotate(keyA, "m2")
		wantTold(t, watched(t, p, 90*time.Second), m1, m2)
		running(t, late) // a process that starts later tells the same
		wantTold(t, watched(t, late, 10*time.Minute), m2)
		wantTold(t, watched(t, p, 10*time.Minute), m2)
		if plaintext, err := p.Decrypt(t.Context(), stored(keyA+"#m1", "old", m1)); err != nil || string(plaintext) != "old" {
			t.Errorf("data under the earlier material: %v", err)
		}
	})
}

// While KMS answers old and new in turn, what is told changes once, and never
// back.
func TestFlappingAnswersChangeKeyIDAtMostOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		p := newRing(f, ringOptions{})
		running(t, p)
		synctest.Wait()
		told := watched(t, p, time.Minute)
		for i := range 200 { // never the same for the 20 s of three looks
			f.rotate(keyA, []string{"m2", "m1"}[i%2])
			told = append(told, watched(t, p, 15*time.Second)...)
		}
		wantTold(t, told[:1], m1)
		for _, id := range told {
			if id != m1 {
				t.Fatalf("key_id %q while answers flap: want %q for ever", id, m1)
			}
		}
		f.rotate(keyA, "m2")
		watched(t, p, 3*time.Minute)
		for i := range 100 { // old answers, for longer than KMS ever takes
			f.rotate(keyA, []string{"m1", "m1", "m1", "m1", "m2"}[i%5])
			wantTold(t, watched(t, p, 20*time.Second), m2)
		}
	})
}

func TestAnswerWithoutMaterialClearsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake() // as a custom key store: KMS names no material
		p := newRing(f, ringOptions{})
		running(t, p)
		wantTold(t, watched(t, p, 5*time.Minute), keyA)
		f.rotate(keyA, "m1")
		wantTold(t, watched(t, p, 5*time.Minute), keyA, m1)
		f.rotate(keyA, "")
		wantTold(t, watched(t, p, time.Hour), m1)
		f.rotate(keyA, "m2")
		wantTold(t, watched(t, p, 5*time.Minute), m1, m2)
	})
}

func TestNoKeyIDBeforeARoundTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		f.fail("Decrypt", cause.TimedOut)
		p := newRing(f, ringOptions{})
		running(t, p)
		if e, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err == nil {
			t.Errorf("Encrypt answers key_id %q, although nothing that it made was ever opened", e.KeyID)
		}
		wantStatus(t, p, "error KMS0203")
		f.mend("Decrypt")
		time.Sleep(10 * time.Second)
		wantTold(t, watched(t, p, time.Minute), m1)
	})
}

func TestKeyIDThatIsReturnedToAdvisesAnEpoch(t *testing.T) {
	t.Parallel()
	f := rotating()
	a, b := newKey(f, keyA), newKey(f, keyB)
	var log bytes.Buffer
	var p *provider.Provider
	var told []string
	for _, keys := range [][]*kmskey.Key{{a, b}, {b, a}, {a, b}} {
		p = ringOf(ringOptions{before: p, log: &log}, keys...)
		if err := p.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		told = append(told, keyIDOf(t, p))
	}
	wantTold(t, told, m1, keyB+"?material=m1", m1)
	if n := strings.Count(log.String(), "another epoch"); n != 1 {
		t.Errorf("an epoch was advised %d times, want once:\n%s", n, log.String())
	}
	if p = ringOf(ringOptions{before: p, epoch: 1}, a, b); keyIDOf(t, p) != m1+"&epoch=1" {
		t.Errorf("key_id %q with epoch 1", keyIDOf(t, p))
	}
}

// A key that comes back as the first after a time as a read key is looked at again:
// what it encrypted with in the past is not what it encrypts with now.
func TestVerifyLooksAnewAtAKeyThatOnlyRead(t *testing.T) {
	t.Parallel()
	f := rotating()
	a, b := newKey(f, keyA), newKey(f, keyB)
	first := ringOf(ringOptions{}, a, b)
	if _, err := first.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
		t.Fatal(err)
	}
	second := ringOf(ringOptions{before: first}, b, a)
	f.rotate(keyA, "m2")
	third := ringOf(ringOptions{before: second}, a, b)
	if err := third.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantTold(t, []string{keyIDOf(t, third)}, m2)
}

func TestVerifySaysWhyAKeyCannotWrite(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"Encrypt", "Decrypt"} {
		f := rotating()
		f.fail(op, cause.AccessDenied)
		if err := newRing(f, ringOptions{}).Verify(t.Context()); err == nil || cause.Of(err).Code != cause.AccessDenied || cause.Of(err).Provider != "0" {
			t.Errorf("%s is denied: %v", op, err)
		}
	}
}

// What a provider that was replaced knew of its write key goes on: a reload amid
// an outage takes no grace and no key_id away.
func TestKeyThatIsCarriedOverKeepsItsEvidence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		k := newKey(f, keyA)
		before := ringOf(ringOptions{grace: time.Minute}, k)
		if _, err := before.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
			t.Fatal(err)
		}
		f.hang(time.Hour)
		after := ringOf(ringOptions{grace: time.Minute, before: before}, k, newKey(f, keyB))
		running(t, after)
		for range 59 {
			if st, err := after.Status(t.Context()); err != nil || st.Healthz != provider.OK || st.KeyID != m1 {
				t.Fatalf("within the grace: %+v, %v", st, err)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		if st, err := after.Status(t.Context()); err != nil || st.Healthz == provider.OK || st.KeyID != m1 {
			t.Errorf("after the grace: %+v, %v; want the outage, under the same key_id", st, err)
		}
	})
}

func TestReloadWithAKeyThatIsMadeAnewDoesNotReturnToLeftMaterial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		p := newRing(f, ringOptions{})
		running(t, p)
		keyIDOf(t, p)
		f.rotate(keyA, "m2")
		wantTold(t, watched(t, p, 3*time.Minute), m1, m2)
		f.rotate(keyA, "m1") // an answer from before
		for _, name := range []string{keyA, alias} {
			next := newRing(f, ringOptions{write: name, before: p})
			if err := next.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantTold(t, []string{keyIDOf(t, next)}, m2)
		}
		f.rotate(keyA, "")
		next := newRing(f, ringOptions{before: p})
		if err := next.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantTold(t, []string{keyIDOf(t, next)}, m2)
	})
}

func TestReplicaOfAnotherRegionDoesNotReturnToLeftMaterial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := rotating()
		p := newRing(f, ringOptions{write: mrk})
		running(t, p)
		was := keyIDOf(t, p)
		f.rotate(mrk, "m2")
		told := watched(t, p, 3*time.Minute)
		next := newRing(f, ringOptions{write: mrkAbroad, before: p}) // rotation has not come there yet
		if err := next.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := keyIDOf(t, next)
		wantTold(t, append(told, now), was, strings.Replace(was, "m1", "m2", 1), strings.Replace(was, "m1", "m2", 1))
	})
}

// A call that a replaced provider still answers tells its own caller alone.
func TestLateCallOfAReplacedProviderTellsNothingNew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFake()
		f.delay = time.Second
		before := ringOf(ringOptions{log: &log}, newKey(f, keyA))
		late := make(chan error)
		go func() {
			_, err := before.Encrypt(t.Context(), secret.Bytes("seed"))
			late <- err
		}()
		synctest.Wait()
		f.mu.Lock()
		f.delay = 0
		f.mu.Unlock()
		next := ringOf(ringOptions{log: &log, before: before}, newKey(f, keyB))
		if _, err := next.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
			t.Fatal(err)
		}
		if err := <-late; err != nil {
			t.Fatal(err)
		}
		if text := log.String(); strings.Count(text, "key_id is known") != 1 || strings.Contains(text, "key_id changed") {
			t.Errorf("the log is\n%swant that one key_id is known, and no change back", text)
		}
	})
}
