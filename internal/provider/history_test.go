package provider_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const (
	aliasByARN = "arn:aws:kms:us-west-2:111122223333:" + alias
	aliasC     = keyC + "?material=m1"
)

// A lineage is the Providers of one entry, each of which replaces the one before.
type lineage struct {
	t    *testing.T
	kms  *fakeKMS
	ring *provider.Provider
	stop func()
	told []string // key_ids, each when it changed
}

// newLineage begins with a provider of the alias, at key A.
func newLineage(t *testing.T) *lineage {
	t.Helper()
	l := &lineage{t: t, kms: rotating(), stop: func() {}}
	l.kms.rotate(keyC, "m1")
	l.kms.aliases[aliasByARN] = keyA
	t.Cleanup(func() { l.stop() })
	l.serve(l.renew(alias))
	l.listen(20 * time.Second)
	return l
}

// moveTo moves the alias, under both of its names.
func (l *lineage) moveTo(arn string) {
	l.kms.mu.Lock()
	defer l.kms.mu.Unlock()
	l.kms.aliases[alias], l.kms.aliases[aliasByARN] = arn, arn
}

// renew returns a Provider that replaces the present one, with all of its keys made
// again.
func (l *lineage) renew(names ...string) *provider.Provider {
	keys := make([]*kmskey.Key, len(names))
	for i, name := range names {
		keys[i] = newKey(l.kms, name)
	}
	return ringOf(ringOptions{before: l.ring, grace: time.Minute}, keys...)
}

// serve makes a Provider the one that answers, as a reload does.
func (l *lineage) serve(next *provider.Provider) {
	l.t.Helper()
	if err := next.Verify(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	l.stop()
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan struct{})
	go func() { next.Run(ctx); close(done) }()
	l.ring, l.stop = next, func() { cancel(); <-done }
}

func (l *lineage) reload(names ...string) {
	l.t.Helper()
	l.serve(l.renew(names...))
	l.listen(time.Second)
}

// listen is told key_ids for a time.
func (l *lineage) listen(d time.Duration) {
	l.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Second) {
		if id := keyIDOf(l.t, l.ring); len(l.told) == 0 || l.told[len(l.told)-1] != id {
			l.told = append(l.told, id)
		}
	}
}

// followed moves the alias to key B and waits until it is followed. KMS goes on
// answering old and new in turn.
func (l *lineage) followed() {
	l.t.Helper()
	l.moveTo(keyB)
	l.listen(90 * time.Second)
	wantTold(l.t, l.told, aliasA, aliasB)
	l.kms.answerInTurn(keyA)
}

// Each reload makes the alias's key again while KMS answers old and new in turn.
func TestReloadAmidAMoveDoesNotLeadAnAliasBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reloads [][]string // what is listed, in turn
		want    []string
	}{
		"alone":                     {[][]string{{alias}}, []string{aliasA, aliasB}},
		"with a read key":           {[][]string{{alias, keyC}, {alias}}, []string{aliasA, aliasB}},
		"by its ARN":                {[][]string{{aliasByARN}, {alias}}, []string{aliasA, aliasB}},
		"with its own earlier key":  {[][]string{{alias, keyA}}, []string{aliasA, aliasB}},
		"the order changes":         {[][]string{{keyC, alias}, {alias, keyC}}, nil},
		"it is gone for one reload": {[][]string{{keyC}, {alias}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for offset := range 2 { // which answer a reload meets
				synctest.Test(t, func(t *testing.T) {
					l := newLineage(t)
					l.followed()
					l.kms.asked += offset
					for i := range 10 {
						l.reload(c.reloads[i%len(c.reloads)]...)
						l.listen(15 * time.Second)
					}
					if c.want != nil {
						wantTold(t, l.told, c.want...)
					}
					if slices.Contains(l.told[1:], aliasA) {
						t.Errorf("key_ids %q, led back to key A", l.told)
					}
					l.kms.answerInTurn()
					l.listen(10 * time.Minute)
					if last := l.told[len(l.told)-1]; last == aliasA {
						t.Errorf("key_ids %q although the alias has left key A", l.told)
					}
					for _, in := range []keyring.Stored{stored(keyA, "old", ""), stored(keyA, "old", aliasA), stored(keyB, "new", aliasB)} {
						if _, err := l.ring.Decrypt(t.Context(), in); err != nil && slices.Contains(c.reloads[1%len(c.reloads)], alias) {
							t.Errorf("data of the alias's keys: %v", err)
						}
					}
				})
			}
		})
	}
}

// The key that was made again saw the move at once, so it has never left a key
// itself.
func TestMoveThatAReloadMetFirstIsNotTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLineage(t)
		l.moveTo(keyB)
		l.reload(alias)
		wantTold(t, l.told, aliasA, aliasB)
		l.moveTo(keyA) // an answer from before, for as long as anyone asks
		for range 4 {
			l.listen(45 * time.Second)
			l.reload(alias)
		}
		wantTold(t, l.told, aliasA, aliasB)
		l.moveTo(keyB)
		l.listen(10 * time.Minute)
		wantTold(t, l.told, aliasA, aliasB)
	})
}

func TestAliasThatMovedTwiceRestsFromBothKeys(t *testing.T) {
	t.Parallel()
	for _, reloaded := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := newLineage(t)
			for _, arn := range []string{keyB, keyC} {
				l.moveTo(arn)
				if reloaded {
					l.reload(alias)
				} else {
					l.listen(90 * time.Second)
				}
			}
			l.kms.answerInTurn(keyA, keyB)
			for range 8 {
				l.reload(alias)
				l.listen(15 * time.Second)
			}
			wantTold(t, l.told, aliasA, aliasB, aliasC)
		})
	}
}

func TestAliasThatIsMovedBackOnPurposeReturnsAfterItsRest(t *testing.T) {
	t.Parallel()
	for _, reloads := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLineage(t)
			l.followed()
			l.kms.answerInTurn()
			l.moveTo(keyA)
			since := time.Now()
			for time.Since(since) < 200*time.Second { // it was followed up to 90 s before
				l.listen(10 * time.Second)
				l.reload(alias)
			}
			wantTold(t, l.told, aliasA, aliasB)
			for time.Since(since) < 8*time.Minute && len(l.told) == 2 {
				l.listen(10 * time.Second)
				if reloads {
					l.reload(alias)
				}
			}
			wantTold(t, l.told, aliasA, aliasB, aliasA)
			l.kms.answerInTurn(keyB)
			for range 8 { // and rests from key B now
				l.reload(alias)
				l.listen(15 * time.Second)
			}
			wantTold(t, l.told, aliasA, aliasB, aliasA)
		})
	}
}

// The exception: the key that the alias went to is refused.
func TestReloadReturnsToAnEarlierKeyWhereTheNewOneIsRefused(t *testing.T) {
	t.Parallel()
	refuse := func(l *lineage) {
		l.kms.fail("Encrypt "+keyB, cause.KeyDisabled)
		l.kms.fail("Decrypt "+keyB, cause.KeyDisabled)
		l.moveTo(keyA)
		l.kms.answerInTurn()
	}
	t.Run("by the checks of the provider before", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := newLineage(t)
			l.followed()
			refuse(l)
			time.Sleep(30 * time.Second)
			l.reload(alias)
			wantTold(t, l.told, aliasA, aliasB, aliasA)
		})
	})
	t.Run("by two tries of the reload", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := newLineage(t)
			l.followed()
			l.stop()
			l.stop = func() {}
			refuse(l)
			if err := l.renew(alias).Verify(t.Context()); err == nil || cause.Of(err).Code != cause.KeyDisabled {
				t.Fatalf("got %v, want the refusal of the key that goes on", err)
			}
			time.Sleep(time.Second)
			if err := l.renew(alias).Verify(t.Context()); err == nil {
				t.Error("two refusals within a second were taken for a refused key")
			}
			time.Sleep(9 * time.Second)
			l.reload(alias)
			wantTold(t, l.told, aliasA, aliasB, aliasA)
		})
	})
	t.Run("one refusal that passes", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := newLineage(t)
			l.followed()
			refuse(l)
			if err := l.renew(alias).Verify(t.Context()); err == nil {
				t.Fatal("one refusal was taken for a refused key")
			}
			l.kms.mend("Encrypt " + keyB)
			l.kms.mend("Decrypt " + keyB)
			l.listen(10 * time.Second)
			l.reload(alias)
			wantTold(t, l.told, aliasA, aliasB)
		})
	})
}

// A key that failed reloads have left behind was refused at the key that the alias
// has left since. That says nothing of the key that it went to.
func TestRefusalOfTheKeyThatWasLeftDoesNotEndTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLineage(t)
		k := newKey(l.kms, alias)
		l.kms.fail("Decrypt "+keyA, cause.KeyDisabled)
		for range 4 {
			if err := ringOf(ringOptions{before: l.ring}, k).Verify(t.Context()); err == nil {
				t.Fatal("verified")
			}
			time.Sleep(6 * time.Second)
		}
		l.kms.mend("Decrypt " + keyA)
		time.Sleep(15 * time.Second)
		l.followed()
		l.kms.answerInTurn()
		l.moveTo(keyA)
		l.kms.fail("Decrypt "+keyB, cause.KMSInternal) // the first reload fails
		if err := ringOf(ringOptions{before: l.ring}, k).Verify(t.Context()); err == nil {
			t.Fatal("verified")
		}
		l.kms.mend("Decrypt " + keyB)
		l.serve(ringOf(ringOptions{before: l.ring}, k))
		l.listen(20 * time.Second)
		wantTold(t, l.told, aliasA, aliasB)
	})
}

// A provider that serves without Verify, as after a start, waits for the right key
// too.
func TestFirstContactDoesNotLeadAnAliasBack(t *testing.T) {
	t.Parallel()
	for name, contact := range map[string]func(t *testing.T, p *provider.Provider){
		"by a write": func(t *testing.T, p *provider.Provider) {
			t.Helper()
			if e, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil || !bytes.HasPrefix(e.Ciphertext, []byte("1"+keyB)) {
				t.Errorf("written as %q, %v", e.Ciphertext, err)
			}
		},
		"by a check": func(t *testing.T, p *provider.Provider) {
			t.Helper()
			running(t, p)
			time.Sleep(10 * time.Second)
			if st, err := p.Status(t.Context()); err != nil || st.KeyID != aliasB {
				t.Errorf("Status %+v, %v", st, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLineage(t)
				l.followed()
				l.kms.answerInTurn()
				l.moveTo(keyA)
				contact(t, l.renew(alias))
			})
		})
	}
}

// The same alias is listed with two contexts, and the one that comes back was not
// watched meanwhile.
func TestOtherKeyOfTheSameAliasIsNotBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLineage(t)
		a := newKey(l.kms, alias)
		l.serve(ringOf(ringOptions{before: l.ring}, a))
		l.serve(ringOf(ringOptions{before: l.ring}, newKey(l.kms, alias), a))
		l.followed()
		l.kms.answerInTurn()
		l.moveTo(keyA)
		l.serve(ringOf(ringOptions{before: l.ring}, a))
		l.listen(time.Minute)
		wantTold(t, l.told, aliasA, aliasB)
	})
}

func TestAliasOfAReplicaRegionIsNotLedBack(t *testing.T) {
	t.Parallel()
	const otherMRK = "arn:aws:kms:us-west-2:111122223333:key/mrk-ffffffffffffffffffffffffffffffff"
	otherAbroad := strings.Replace(otherMRK, "us-west-2", "eu-west-1", 1)
	synctest.Test(t, func(t *testing.T) {
		l := newLineage(t)
		for _, arn := range []string{otherMRK, otherAbroad} {
			l.kms.rotate(arn, "m1")
		}
		l.moveTo(mrk)
		l.reload(alias)
		l.moveTo(otherMRK)
		l.reload(alias)
		l.moveTo(mrkAbroad) // the key is called in another Region now, where the move is not known yet
		l.reload(alias)
		if e, err := l.ring.Encrypt(t.Context(), secret.Bytes("seed")); err != nil || !strings.HasPrefix(string(e.Ciphertext), "1"+otherAbroad) {
			t.Errorf("written as %q, %v, want the replica of the Region that is called", e.Ciphertext, err)
		}
		mrkID := "arn:aws:kms::111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab?material=m1"
		wantTold(t, l.told, aliasA, mrkID, strings.Replace(mrkID, "1234abcd12ab34cd56ef1234567890ab", strings.Repeat("f", 32), 1))
	})
}

// An alias of another Region, account or KMS is another one, and what it names
// counts at once.
func TestAliasThatNamesAnotherKeyAtOnceIsNotHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLineage(t)
		l.followed()
		l.kms.answerInTurn()
		l.moveTo(keyC)
		l.reload(alias)
		wantTold(t, l.told, aliasA, aliasB, aliasC)
		l.moveTo(abroad)
		l.reload(alias)
		wantTold(t, l.told, aliasA, aliasB, aliasC, abroad)
	})
}

// Two trips of two calls each fit into Verify's limit, however slow each is.
func TestVerifyHasTimeForTwoTrips(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLineage(t)
		l.followed()
		l.kms.answerInTurn()
		l.moveTo(keyA)
		next := l.renew(alias)
		l.kms.hang(2400 * time.Millisecond)
		l.kms.taken()
		if err := next.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		if calls := l.kms.taken(); len(calls) != 4 {
			t.Errorf("calls %q, want two trips", calls)
		}
		if st, err := next.Status(t.Context()); err != nil || st.KeyID != aliasB || len(l.kms.taken()) != 0 {
			t.Errorf("Status %+v, %v; want the key_id that was verified, at once", st, err)
		}
		l.kms.hang(time.Hour)
		began := time.Now()
		if err := l.renew(alias).Verify(t.Context()); err == nil {
			t.Error("verified by a KMS that hangs")
		}
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("a KMS that hangs kept Verify for %s", took)
		}
	})
}

func TestHistoryOutlivesTheProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLineage(t)
		l.followed()
		l.kms.answerInTurn()
		l.moveTo(keyA)
		l.stop()
		l.stop = func() {}
		past := l.ring.History()
		f := l.kms
		f.rotate(keyB, "m2")
		next := ringWithHistory(past, newKey(f, alias))
		if err := next.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantTold(t, []string{keyIDOf(t, next)}, keyB+"?material=m2")
		f.rotate(keyB, "m1")
		again := ringWithHistory(past, newKey(f, alias))
		if err := again.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantTold(t, []string{keyIDOf(t, again)}, keyB+"?material=m2")
	})
}
