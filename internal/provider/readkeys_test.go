package provider_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// tellingKMS is the fake with keys that have a state, dry runs and DescribeKey.
type tellingKMS struct {
	*fakeKMS

	blind bool // dry runs do not see the state
	shut  bool // nobody may describe a key
	stuck chan struct{}

	tellMu sync.Mutex
	states map[string]string // ARN → what DescribeKey says; missing: Enabled
	date   time.Time         // of every deletion
}

func newTelling(blind, shut bool) *tellingKMS {
	return &tellingKMS{fakeKMS: newFake(), blind: blind, shut: shut, states: map[string]string{}}
}

// set puts a key in a state of KMS.
func (f *tellingKMS) set(arn, state string) {
	f.tellMu.Lock()
	f.states[arn] = state
	f.tellMu.Unlock()
	codes := map[string]cause.Code{"Disabled": cause.KeyDisabled, "PendingDeletion": cause.KeyPendingDeletion}
	for _, op := range []string{"Encrypt ", "Decrypt "} {
		if c, ok := codes[state]; ok {
			f.fail(op+arn, c)
		} else {
			f.mend(op + arn)
		}
	}
}

func (f *tellingKMS) MayDecrypt(ctx context.Context, key string, blob []byte) error {
	if blob != nil {
		return &cause.Error{Code: cause.Unforeseen, Said: "the keyring asks without a ciphertext"}
	}
	if f.stuck != nil {
		<-f.stuck
	}
	_, err := f.begin(ctx, awskms.Call{}, "Decrypt", key)
	f.mu.Lock()
	f.calls[len(f.calls)-1] = "DryRun " + key
	f.mu.Unlock()
	if f.blind && err != nil && slices.Contains([]cause.Code{cause.KeyDisabled, cause.KeyPendingDeletion}, cause.Of(err).Code) {
		return nil
	}
	return err
}

func (f *tellingKMS) DescribeKey(ctx context.Context, key string) (awskms.KeyInfo, error) {
	arn, err := f.begin(ctx, awskms.Call{}, "DescribeKey", key)
	f.tellMu.Lock()
	defer f.tellMu.Unlock()
	if f.shut {
		return awskms.KeyInfo{}, &cause.Error{Code: cause.AccessDenied, Op: "DescribeKey", Key: key}
	}
	if err != nil {
		return awskms.KeyInfo{}, err
	}
	info := awskms.KeyInfo{ARN: keyref.ARN(arn), State: "Enabled"}
	if s := f.states[arn]; s != "" {
		info.State = s
	}
	if info.State == "PendingDeletion" {
		info.Deletion = f.date
	}
	return info, nil
}

// count is how often calls were made since they were last taken.
func (f *tellingKMS) count(call string) int {
	n := 0
	for _, c := range f.taken() {
		if c == call {
			n++
		}
	}
	return n
}

func tellingRing(f *tellingKMS, o ringOptions) *provider.Provider {
	if o.write == "" {
		o.write = keyA
	}
	var keys []*kmskey.Key
	for _, name := range append([]string{o.write}, o.read...) {
		keys = append(keys, kmskey.New(kmskey.Config{Name: name, KMS: f}))
	}
	return ringOf(o, keys...)
}

// telling runs a test with a ring over keys A, which writes, and B, which reads.
func telling(t *testing.T, f *tellingKMS, test func(t *testing.T, p *provider.Provider, said func() string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := tellingRing(f, ringOptions{read: []string{keyB}, log: &log})
		running(t, p)
		time.Sleep(time.Minute)
		synctest.Wait()
		test(t, p, func() string {
			synctest.Wait()
			return log.String()
		})
	})
}

func readB(t *testing.T, p *provider.Provider) error {
	t.Helper()
	_, err := p.Decrypt(t.Context(), stored(keyB, "seed", keyB))
	return err
}

// reader is how the key that only reads is doing.
func reader(t *testing.T, p *provider.Provider) kmskey.Health {
	t.Helper()
	keys := p.Health().ReadKeys
	if len(keys) != 1 {
		t.Fatalf("read keys %+v, want one", keys)
	}
	return keys[0]
}

func within(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); time.Sleep(time.Second) {
		if time.Since(start) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		synctest.Wait()
	}
}

// In the nights before a key is deleted nobody may read under it: API servers keep
// what they have read for a day and longer.
func TestTroubleOfAReadKeyIsFoundWithoutTraffic(t *testing.T) {
	t.Parallel()
	breaks := map[string]func(*tellingKMS){
		"KMS0101": func(f *tellingKMS) { f.set(keyB, "Disabled") },
		"KMS0102": func(f *tellingKMS) { f.set(keyB, "PendingDeletion") },
		"KMS0104": func(f *tellingKMS) { f.fail("Decrypt "+keyB, cause.AccessDenied) },
	}
	for code, breakIt := range breaks {
		for _, blind := range []bool{false, true} {
			for _, shut := range []bool{false, true} {
				for _, opened := range []bool{false, true} {
					if blind && shut && !opened && code != "KMS0104" {
						continue // nothing that AWS documents tells it
					}
					t.Run(fmt.Sprintf("%s, dry run blind %t, DescribeKey denied %t, opened before %t", code, blind, shut, opened), func(t *testing.T) {
						t.Parallel()
						f := newTelling(blind, shut)
						telling(t, f, func(t *testing.T, p *provider.Provider, said func() string) {
							want := evidence.Authorised
							if opened {
								want = evidence.Healthy
								if err := readB(t, p); err != nil {
									t.Fatal(err)
								}
							}
							if k := reader(t, p); k.State != want || k.Err != nil {
								t.Fatalf("at first %s, %v, want %s", k.State, k.Err, want)
							}
							breakIt(f)
							within(t, 6*time.Minute, "the key is refused", func() bool { return reader(t, p).State == evidence.Refused })
							if k := reader(t, p); k.Err == nil || k.Err.Code.String() != code || (k.Deletion != nil) != (code == "KMS0102") {
								t.Errorf("%+v, want %s", k, code)
							}
							wantStatus(t, p, "ok")
							wantState(t, p, evidence.Healthy)
							f.set(keyB, "Enabled")
							within(t, 5*time.Minute, "it works again", func() bool { return reader(t, p).State == want })
							text := said()
							for _, line := range []string{"a key that only reads is refused", "do not restart an API server"} {
								if !strings.Contains(text, line) {
									t.Errorf("the log does not say %q:\n%s", line, text)
								}
							}
							if n := strings.Count(text, "a key that only reads is refused"); n != 1 {
								t.Errorf("said %d times:\n%s", n, text)
							}
							if !strings.Contains(text, "again") {
								t.Errorf("that it works again is not said:\n%s", text)
							}
						})
						if slices.Contains(f.taken(), "Encrypt "+keyB) {
							t.Error("a read key was encrypted with")
						}
					})
				}
			}
		}
	}
}

func TestReadKeysAreAskedEveryFiveMinutes(t *testing.T) {
	t.Parallel()
	f := newTelling(true, false)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		f.taken()
		time.Sleep(5 * time.Hour)
		calls := map[string]int{}
		for _, c := range f.taken() {
			calls[c]++
		}
		for _, c := range []string{"DryRun " + keyB, "DescribeKey " + keyB, "DescribeKey " + keyA} {
			if n := calls[c]; n < 59 || n > 68 {
				t.Errorf("%s: %d in five hours, want about 60", c, n)
			}
		}
		if n := calls["DryRun "+keyA]; n != 0 {
			t.Errorf("%d dry runs of the write key, which is checked otherwise", n)
		}
		if err := readB(t, p); err != nil {
			t.Fatal(err)
		}
		f.taken()
		time.Sleep(5 * time.Hour)
		calls = map[string]int{}
		for _, c := range f.taken() {
			calls[c]++
		}
		if n := calls["Decrypt "+keyB]; n < 59 || n > 68 || calls["DryRun "+keyB] != 0 {
			t.Errorf("with a blob that the key opened: %v, want it decrypted instead", calls)
		}
	})
}

// What traffic shows is not asked.
func TestTrafficTakesThePlaceOfQuestions(t *testing.T) {
	t.Parallel()
	f := newTelling(false, true)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		f.taken()
		for range 600 {
			if err := readB(t, p); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := f.count("Decrypt " + keyB); n != 600 {
			t.Errorf("%d calls for 600 of traffic", n)
		}
	})
}

// kOps and others deny DescribeKey: it says nothing about a key.
func TestDeniedDescriptionIsNoTrouble(t *testing.T) {
	t.Parallel()
	f := newTelling(true, true)
	telling(t, f, func(t *testing.T, p *provider.Provider, said func() string) {
		time.Sleep(24 * time.Hour)
		asked := 0
		for _, c := range f.taken() {
			if strings.HasPrefix(c, "DescribeKey ") {
				asked++
			}
		}
		if asked > 12 || asked < 2 {
			t.Errorf("asked %d times a day about two keys, although denied", asked)
		}
		if k := reader(t, p); k.State != evidence.Authorised || k.Err != nil || strings.Contains(said(), "DescribeKey") {
			t.Errorf("%+v; the log says:\n%s", k, said())
		}
	})
}

// A KMS that is none of AWS's may know no dry run without a ciphertext.
func TestKMSWithoutDryRunsSaysNothingAboutAKey(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]cause.Code{"an error that nobody foresaw": cause.Unforeseen, "a damaged ciphertext": cause.CiphertextInvalid} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newTelling(false, true)
			f.fail("Decrypt "+keyB, answer)
			telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
				f.taken()
				time.Sleep(time.Hour)
				if k := reader(t, p); k.State != evidence.Unknown || k.Err != nil {
					t.Errorf("%+v, want it unknown", k)
				}
				if n := f.count("DryRun " + keyB); n != 0 {
					t.Errorf("asked %d times an hour what it does not know", n)
				}
			})
		})
	}
	t.Run("no such call", func(t *testing.T) {
		t.Parallel()
		bubble(t, ringOptions{read: []string{keyB}}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
			time.Sleep(time.Hour)
			if k := reader(t, p); k.State != evidence.Unknown || k.Err != nil {
				t.Errorf("%+v, want it unknown", k)
			}
			if err := readB(t, p); err != nil {
				t.Fatal(err)
			}
			f.fail("Decrypt "+keyB, cause.KeyDisabled)
			within(t, 6*time.Minute, "the key is refused", func() bool { return reader(t, p).State == evidence.Refused })
		})
	})
}

func TestDeletionOfAnyKeyIsToldWithItsDate(t *testing.T) {
	t.Parallel()
	for _, shut := range []bool{false, true} {
		for _, key := range []string{keyA, keyB} {
			t.Run(fmt.Sprintf("DescribeKey denied %t, key %s", shut, key[len(key)-12:]), func(t *testing.T) {
				t.Parallel()
				f := newTelling(false, shut)
				telling(t, f, func(t *testing.T, p *provider.Provider, said func() string) {
					f.tellMu.Lock()
					f.date = time.Now().Add(7 * 24 * time.Hour)
					f.tellMu.Unlock()
					deletion := func() *kmskey.Deletion {
						if key == keyA {
							return p.Health().Deletion
						}
						return reader(t, p).Deletion
					}
					if deletion() != nil {
						t.Fatal("to be deleted already")
					}
					f.set(key, "PendingDeletion")
					within(t, 6*time.Minute, "it is to be deleted", func() bool { return deletion() != nil && deletion().Date.IsZero() == shut })
					if !shut && !deletion().Date.Equal(f.date) {
						t.Errorf("on %s, want %s", deletion().Date, f.date)
					}
					time.Sleep(time.Hour)
					f.set(key, "Enabled")
					within(t, 6*time.Minute, "it stays", func() bool { return deletion() == nil })
					time.Sleep(6 * time.Minute)
					s := said()
					if n := strings.Count(s, `msg="key is scheduled for deletion`); n < 1 || n > 2 || !strings.Contains(s, "cancel-key-deletion") {
						t.Errorf("said %d times, want once, and again with the date:\n%s", n, s)
					}
					if strings.Contains(s, "deleted_at=") == shut || strings.Count(s, "no longer scheduled for deletion") != 1 {
						t.Errorf("the log says:\n%s", s)
					}
				})
			})
		}
	}
}

// KMS may describe a key as before for minutes after a deletion was cancelled. That the key
// works says nothing against it for so long.
func TestDescribedDeletionIsDoubtedWhenTheKeyStillWorksMinutesLater(t *testing.T) {
	t.Parallel()
	f := newTelling(false, false)
	telling(t, f, func(t *testing.T, p *provider.Provider, _ func() string) {
		describe := func(state string, shut bool) {
			f.tellMu.Lock()
			defer f.tellMu.Unlock()
			f.states[keyB], f.shut = state, shut
		}
		describe("PendingDeletion", false)
		within(t, 6*time.Minute, "it is to be deleted", func() bool { return reader(t, p).Deletion != nil })
		describe("", true) // nobody describes it any more
		time.Sleep(4 * time.Minute)
		if err := readB(t, p); err != nil || reader(t, p).Deletion == nil {
			t.Errorf("four minutes later it works (%v), and is to be deleted no longer", err)
		}
		time.Sleep(2 * time.Minute)
		if err := readB(t, p); err != nil || reader(t, p).Deletion != nil {
			t.Errorf("six minutes later it works (%v), and is to be deleted", err)
		}
	})
}

func TestQuestionThatIgnoresItsTimeIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newTelling(false, true)
		f.stuck = make(chan struct{})
		defer close(f.stuck)
		left := 0
		var mu sync.Mutex
		p := provider.New(provider.Options{
			Name: "0", Timeout: time.Second, Log: ringLog(nil),
			Keys: []*kmskey.Key{kmskey.New(kmskey.Config{Name: keyA, KMS: f}), kmskey.New(kmskey.Config{Name: keyB, KMS: f})},
			Waits: &bounded.Observer{Left: func(w bounded.Wait) {
				mu.Lock()
				defer mu.Unlock()
				if w == bounded.Check {
					left++
				}
			}},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		within(t, 6*time.Minute, "the key cannot be used", func() bool { return reader(t, p).State == evidence.Outage })
		cancel()
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		if left < 3 {
			t.Errorf("%d questions were left behind", left)
		}
	})
}

// What a question decrypts is a DEK or seed of the cluster, and nobody uses it.
func TestPlaintextOfAQuestionIsCleared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &keepingKMS{tellingKMS: newTelling(true, true)}
		p := ringOf(ringOptions{}, kmskey.New(kmskey.Config{Name: keyA, KMS: f}), kmskey.New(kmskey.Config{Name: keyB, KMS: f}))
		running(t, p)
		if err := readB(t, p); err != nil {
			t.Fatal(err)
		}
		f.take()
		time.Sleep(time.Hour)
		n := 0
		for _, plaintext := range f.take() {
			n++
			if !bytes.Equal(plaintext, make([]byte, len(plaintext))) {
				t.Errorf("%q is left in memory", plaintext)
			}
		}
		if n < 10 {
			t.Errorf("%d questions", n)
		}
	})
}

// keepingKMS keeps what it has answered under key B.
type keepingKMS struct {
	*tellingKMS

	keepMu sync.Mutex
	kept   []secret.Bytes
}

func (f *keepingKMS) Decrypt(ctx context.Context, within awskms.Call, key string, blob []byte) (awskms.Opened, error) {
	o, err := f.tellingKMS.Decrypt(ctx, within, key, blob)
	if key == keyB {
		f.keepMu.Lock()
		defer f.keepMu.Unlock()
		f.kept = append(f.kept, o.Plaintext)
	}
	return o, err
}

func (f *keepingKMS) take() []secret.Bytes {
	f.keepMu.Lock()
	defer f.keepMu.Unlock()
	kept := f.kept
	f.kept = nil
	return kept
}
