package provider_test

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// contacted is a provider whose first key has encrypted and decrypted.
func contacted(t *testing.T, f *fakeKMS, o ringOptions) *provider.Provider {
	t.Helper()
	p := newRing(f, o)
	if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
		t.Fatal(err)
	}
	f.taken()
	return p
}

func wantCode(t *testing.T, err error, want cause.Code) {
	t.Helper()
	if err == nil || cause.Of(err).Code != want {
		t.Errorf("got %s, want %s", code(err), want)
	}
}

func annotated(s keyring.Stored, arn string) keyring.Stored {
	s.Annotations = map[string][]byte{keyring.AnnotationKeyARN: []byte(arn)}
	return s
}

// KMS does not say whose key a caller may not use. Whoever hears of bad data may
// delete it, and it may be good.
func TestDeniedReadUnderAnEarlierKeyIsToldAsDenied(t *testing.T) {
	t.Parallel()
	for _, refused := range []cause.Code{cause.AccessDenied, cause.KeyNotFound, cause.KeyDisabled} {
		for _, write := range []string{alias, keyC} {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				f := newFake()
				f.moveAlias()
				o := ringOptions{write: write, log: &log}
				if write != alias {
					o.read = []string{alias}
				}
				p := contacted(t, f, o)
				f.mu.Lock()
				f.fails["Decrypt "+keyA] = &cause.Error{Code: refused, AWSCode: "SomeException", Said: "no, says KMS", RequestID: "r-77"}
				f.mu.Unlock()
				in := annotated(stored(keyA, "old", ""), keyA)
				_, err := p.Decrypt(t.Context(), in)
				wantCode(t, err, refused)
				for _, want := range []string{"no, says KMS", "r-77", "earlier key of " + alias, "its annotations name \"" + keyA} {
					if !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("%v: want %q in it", err, want)
					}
				}
				f.taken()
				for range 9 {
					time.Sleep(time.Second)
					_, err = p.Decrypt(t.Context(), in)
					wantCode(t, err, refused)
				}
				if calls := f.taken(); len(calls) != 0 {
					t.Errorf("%s: calls %q within 10 s, want none", refused, calls)
				}
				if missing := p.Health().Missing; len(missing) != 1 || missing[0].Key != keyA {
					t.Errorf("missing keys %+v, want key A", missing)
				}
				for _, k := range p.Health().ReadKeys {
					if k.State == evidence.Refused {
						t.Errorf("%s is told as refused, which nobody asked for", k.Key)
					}
				}
				f.mend("Decrypt " + keyA) // granted
				time.Sleep(1100 * time.Millisecond)
				if plaintext, err := p.Decrypt(t.Context(), in); err != nil || string(plaintext) != "old" {
					t.Errorf("11 s later: %q, %v", plaintext, err)
				}
			})
		}
	}
}

// The name of a key that another object's annotations hold is that object's.
func TestAnswerThatIsRememberedTellsNothingOfAnotherObject(t *testing.T) {
	t.Parallel()
	const mine, others = "arn:aws:kms:us-west-2:111122223333:key/mine", "arn:aws:kms:us-west-2:111122223333:key/of-another-tenant"
	for name, c := range map[string]struct {
		made  string
		fails cause.Code
	}{"bad data": {alien, 0}, "denied": {alien, cause.AccessDenied}, "no key": {keyC, 0}} {
		for _, write := range []string{keyA, alias} {
			answers := func(order ...keyring.Stored) (texts []string) {
				f := newFake()
				p := contacted(t, f, ringOptions{write: write, read: []string{keyB}})
				if c.fails != 0 {
					f.fail("Decrypt "+c.made, c.fails)
				}
				for _, in := range order {
					_, err := p.Decrypt(t.Context(), in)
					if err == nil {
						t.Fatal("it reads")
					}
					texts = append(texts, strings.NewReplacer(", request r-1", "", " (request r-8)", "").Replace(err.Error()))
				}
				return texts
			}
			v2 := annotated(stored(c.made, "x", keyB), others)
			for who, in := range map[string]keyring.Stored{
				"another object": annotated(stored(c.made, "x", keyA), mine),
				"no annotations": stored(c.made, "x", ""),
				"v1":             {Ciphertext: stored(c.made, "x", "").Ciphertext, Bare: true},
				"v1, bare":       {Ciphertext: blobOf(c.made, "x"), Bare: true},
			} {
				if write == alias && c.made == keyC {
					continue // at home: it is read
				}
				recalled, fresh := answers(v2, in), answers(in)
				if strings.Contains(recalled[1], others) {
					t.Errorf("%s, %s: told of the first object's annotations: %s", name, who, recalled[1])
				}
				if recalled[1] != fresh[0] {
					t.Errorf("%s, %s: told %q after another object, and %q otherwise", name, who, recalled[1], fresh[0])
				}
				back := answers(in, v2)
				if strings.Contains(back[1], mine) || !strings.Contains(back[1], others) && !strings.Contains(back[1], "KMS0406") {
					t.Errorf("%s, v2 after %s: %q", name, who, back[1])
				}
			}
		}
	}
}

// Hostile ciphertext costs a call each at most, once it was seen.
func TestHostileCiphertextCostsLittle(t *testing.T) {
	t.Parallel()
	const byAlias = keyC
	for name, c := range map[string]struct {
		write   string
		read    []string
		fail    map[string]cause.Code
		made    string
		again   int // calls for the same one, ten times more within 10 s
		another int // calls for another one each
	}{
		"a foreign key that is disabled":                  {alias, nil, map[string]cause.Code{"Decrypt " + alien: cause.KeyDisabled}, alien, 0, 2},
		"a foreign key that is disabled, alias reads":     {byAlias, []string{alias}, map[string]cause.Code{"Decrypt " + alien: cause.KeyDisabled}, alien, 0, 3},
		"a foreign key scheduled for deletion":            {alias, nil, map[string]cause.Code{"Decrypt " + alien: cause.KeyPendingDeletion}, alien, 0, 2},
		"a foreign key that denies":                       {alias, nil, map[string]cause.Code{"Decrypt " + alien: cause.AccessDenied}, alien, 0, 2},
		"a foreign key that answers":                      {alias, nil, nil, alien, 0, 2},
		"an alias that reads and may not encrypt":         {byAlias, []string{alias}, map[string]cause.Code{"Encrypt " + keyA: cause.AccessDenied}, alien, 0, 2},
		"a refused alias, a foreign key that is disabled": {alias, nil, map[string]cause.Code{"Decrypt " + keyA: cause.KeyDisabled, "Decrypt " + alien: cause.KeyDisabled}, alien, 10, 2},
		"a refused alias, a foreign key that answers":     {alias, nil, map[string]cause.Code{"Decrypt " + keyA: cause.KeyDisabled}, alien, 10, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				p := contacted(t, f, ringOptions{write: c.write, read: c.read})
				for what, code := range c.fail {
					f.fail(what, code)
				}
				read := func(what string) {
					if _, err := p.Decrypt(t.Context(), stored(c.made, what, "")); err == nil {
						t.Error("it reads")
					}
				}
				read("first") // resolves the alias, where that can be
				read("hostile")
				f.taken()
				for range 10 {
					read("hostile")
				}
				if calls := f.taken(); len(calls) != c.again {
					t.Errorf("calls %q for ten reads of one ciphertext, want %d", calls, c.again)
				}
				for i := range 10 {
					read(fmt.Sprint("another ", i))
				}
				if calls := f.taken(); len(calls) != 10*c.another {
					t.Errorf("%d calls for ten others: %q, want %d each", len(calls), calls, c.another)
				}
				time.Sleep(11 * time.Second)
				read("hostile")
				if calls := f.taken(); len(calls) == 0 && name != "a foreign key that answers" {
					t.Error("not asked again after 10 s")
				}
			})
		})
	}
}

func TestAliasThatCannotBeResolvedIsAskedEveryTenSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.moveAlias()
		p := contacted(t, f, ringOptions{write: keyC, read: []string{alias}})
		f.fail("Encrypt "+keyB, cause.AccessDenied)
		for i := range 60 {
			if _, err := p.Decrypt(t.Context(), stored(keyA, fmt.Sprint(i), "")); err == nil || !strings.Contains(err.Error(), "with its ARN in its place") {
				t.Errorf("got %v", err)
			}
			time.Sleep(time.Second)
		}
		if n := strings.Count(strings.Join(f.taken(), "\n"), "Encrypt"); n > 6 {
			t.Errorf("%d Encrypts in a minute, want one every 10 s", n)
		}
		f.mend("Encrypt " + keyB)
		time.Sleep(11 * time.Second)
		if plaintext, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err != nil || string(plaintext) != "old" {
			t.Errorf("after the grant: %q, %v", plaintext, err)
		}
	})
}

func TestForgetBadForgetsRefusalsToo(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.moveAlias()
	p := contacted(t, f, ringOptions{write: keyC, read: []string{alias}})
	f.fail("Encrypt "+keyB, cause.AccessDenied)
	if _, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err == nil {
		t.Fatal("it reads")
	}
	f.mend("Encrypt " + keyB)
	p.ForgetBad()
	if plaintext, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err != nil || string(plaintext) != "old" {
		t.Errorf("for another configuration: %q, %v", plaintext, err)
	}
}

// A KMS that is not AWS's names its keys as it likes. That is found out once.
func TestAliasOfAForeignKMSIsResolvedOnce(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.aliases[alias] = "key 7"
	p := contacted(t, f, ringOptions{write: keyC, read: []string{alias}})
	for i := range 5 {
		_, err := p.Decrypt(t.Context(), stored("key 8", fmt.Sprint(i), ""))
		wantCode(t, err, cause.NoKeyMadeIt)
	}
	if n := strings.Count(strings.Join(f.taken(), "\n"), "Encrypt"); n != 1 {
		t.Errorf("%d Encrypts, want one", n)
	}
}

// An answer that is recalled does not live longer for it.
func TestRefusalIsAskedAgainHoweverOftenItIsRecalled(t *testing.T) {
	t.Parallel()
	for _, pinned := range []cause.Code{0, cause.KeyDisabled} { // of the key that the alias names
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			p := contacted(t, f, ringOptions{write: alias})
			if pinned != 0 {
				f.fail("Decrypt "+keyA, pinned)
			}
			f.fail("Decrypt "+alien, cause.AccessDenied)
			for range 35 {
				if _, err := p.Decrypt(t.Context(), stored(alien, "hostile", "")); err == nil {
					t.Error("it reads")
				}
				time.Sleep(time.Second)
			}
			unpinned := 0
			for _, call := range f.taken() {
				if call == "Decrypt" {
					unpinned++
				}
			}
			if unpinned < 3 || unpinned > 4 {
				t.Errorf("asked without a key %d times in 35 s, want once every ten", unpinned)
			}
		})
	}
}

// An outage of KMS is not remembered as an answer.
func TestUnpinnedReadThatMeetsAnOutageIsNotRemembered(t *testing.T) {
	t.Parallel()
	for _, failure := range []cause.Code{cause.KMSInternal, cause.TimedOut, cause.NoCredentials} {
		f := newFake()
		f.moveAlias()
		p := contacted(t, f, ringOptions{write: alias})
		f.fail("Decrypt "+keyA, failure)
		_, err := p.Decrypt(t.Context(), stored(keyA, "old", ""))
		wantCode(t, err, failure)
		f.mend("Decrypt " + keyA)
		if plaintext, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err != nil || string(plaintext) != "old" {
			t.Errorf("after %s: %q, %v", failure, plaintext, err)
		}
	}
}

// An API server that lists a resource comes back to each bad object in the same
// order, so a memory that is too small remembers none of them.
func TestMemoryOfBadDataHasPlaces(t *testing.T) {
	t.Parallel()
	for _, n := range []int{6000, 16384} {
		f := newFake()
		p := contacted(t, f, ringOptions{})
		for range 2 {
			for i := range n {
				_, err := p.Decrypt(t.Context(), stored(alien, fmt.Sprint(i), ""))
				wantCode(t, err, cause.NoKeyMadeIt)
			}
		}
		if calls := f.taken(); len(calls) != n {
			t.Errorf("%d calls for %d bad ciphertexts read twice, want one each", len(calls), n)
		}
	}
}

// What a full memory takes, where KMS says the same of all and where its words
// differ and are long. Not parallel: it measures the heap.
func TestBadMemoryIsBounded(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const n = 20_000 // more than there are places
	for name, c := range map[string]struct {
		said func(i int) string
		most int64
	}{
		"the same words": {func(int) string { return "IncorrectKeyException" }, 300},
		"other words":    {func(i int) string { return fmt.Sprint(i, strings.Repeat("x", 1000)) }, 1000},
	} {
		f := newFake()
		p := contacted(t, f, ringOptions{})
		i := 0
		f.inject = func(string, string) error {
			i++
			return &cause.Error{Code: cause.NoKeyMadeIt, Said: c.said(i), RequestID: strings.Repeat("r", 36), Err: fmt.Errorf("%s", make([]byte, 5000))}
		}
		before := heap()
		for i := range n {
			_, _ = p.Decrypt(t.Context(), stored(alien, fmt.Sprint(i), ""))
			f.taken()
		}
		each := (heap() - before) / 16384
		t.Logf("%s: %d bytes for each of 16,384 places", name, each)
		if each > c.most {
			t.Errorf("%s: %d bytes for each of 16,384 places, want at most %d", name, each, c.most)
		}
		runtime.KeepAlive(p)
	}
}

// A read that began early and ends late must not displace the key that reads since
// then use.
func TestStragglerDoesNotDisplaceTheKeyThatNewerReadsUse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		write string
		late  keyring.Stored
	}{
		"of another key":            {keyA, stored(keyC, "late", keyC)},
		"of an alias's earlier key": {alias, stored(keyC, "late", "")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				o := ringOptions{write: c.write, read: []string{keyB}}
				if c.write == keyA {
					o.read = append(o.read, keyC)
				}
				p := contacted(t, f, o)
				read := func(in keyring.Stored) {
					if _, err := p.Decrypt(t.Context(), in); err != nil {
						t.Error(err)
					}
				}
				read(stored(keyB, "new", "")) // now key B is tried first
				f.hang(300 * time.Millisecond)
				done := make(chan struct{})
				go func() { read(c.late); close(done) }() // it began after that
				synctest.Wait()
				f.hang(0)
				for range 5 {
					read(stored(keyB, "new", "")) // these began later, and end earlier
				}
				<-done
				f.taken()
				read(stored(keyB, "new", ""))
				if calls := f.taken(); !slices.Equal(calls, []string{"Decrypt " + keyB}) {
					t.Errorf("calls %q, want the key that the newer reads used at once", calls)
				}
			})
		})
	}
}

// Many reads meet other data at once: what the first finds out spares the others
// their tries.
func TestReadsThatAreUnderWayTakeUpTheKeyThatWorked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		p := contacted(t, f, ringOptions{read: []string{keyB, alien, keyC}})
		f.hang(100 * time.Millisecond)
		done := make(chan error, 2)
		read := func() {
			_, err := p.Decrypt(t.Context(), stored(keyC, "new", ""))
			done <- err
		}
		go read()
		time.Sleep(350 * time.Millisecond) // its fourth try is under way
		f.taken()
		go read()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if calls := f.taken(); !slices.Equal(calls, []string{"Decrypt " + keyA, "Decrypt " + keyC}) {
			t.Errorf("calls %q, want the key that the first read has found at the second try", calls)
		}
	})
}
