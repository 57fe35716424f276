package provider_test

import (
	"bytes"
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

const (
	aliasA = keyA + "?material=m1"
	aliasB = keyB + "?material=m1"
)

// aliasRing is a running provider whose first key is the alias, at key A.
func aliasRing(t *testing.T, log *bytes.Buffer) (*fakeKMS, *provider.Provider) {
	t.Helper()
	f := rotating()
	p := newRing(f, ringOptions{write: alias, log: log})
	running(t, p)
	synctest.Wait()
	return f, p
}

func TestMovedAliasIsFollowedAndItsEarlierKeyReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f, p := aliasRing(t, &log)
		old, err := p.Encrypt(t.Context(), secret.Bytes("old"))
		if err != nil {
			t.Fatal(err)
		}
		wantTold(t, watched(t, p, 2*time.Minute), aliasA)
		f.moveAlias()
		wantTold(t, watched(t, p, 90*time.Second), aliasA, aliasB)
		f.taken()
		if plaintext, err := p.Decrypt(t.Context(), read(old)); err != nil || string(plaintext) != "old" {
			t.Errorf("what was written before the move: %v", err)
		}
		if calls := f.taken(); strings.Join(calls, ",") != "Decrypt "+keyA {
			t.Errorf("calls %q, want the earlier key alone", calls)
		}
		if !strings.Contains(log.String(), "alias was moved") || !strings.Contains(log.String(), "decrypt_key="+keyA) {
			t.Errorf("the log does not say what to list:\n%s", log.String())
		}
		keys := p.Health().ReadKeys
		if len(keys) != 1 || keys[0].Key != keyA || !keys[0].Unlisted {
			t.Errorf("read keys %+v, want the alias's earlier one as unlisted", keys)
		}
	})
}

func read(e provider.Encrypted) keyring.Stored {
	return keyring.Stored{Ciphertext: e.Ciphertext, KeyID: e.KeyID, Annotations: e.Annotations}
}

func TestAliasIsNotFollowedToAKeyThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breaks string
		named  string
	}{
		"Encrypt is denied": {"Encrypt " + keyB, ""},
		"Decrypt is denied": {"Decrypt " + keyB, keyB},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				f, p := aliasRing(t, &log)
				f.fail(c.breaks, cause.AccessDenied)
				f.moveAlias()
				wantTold(t, watched(t, p, 10*time.Minute), aliasA)
				wantState(t, p, evidence.Healthy)
				if n := strings.Count(log.String(), "alias cannot be followed"); n != 1 {
					t.Errorf("said %d times, want once:\n%s", n, log.String())
				}
				if trouble := p.Health().Trouble; trouble == nil || string(trouble.KeyARN) != c.named || trouble.Err.Code != cause.AccessDenied {
					t.Errorf("trouble %+v, want the refusal of key B", trouble)
				}
				f.mend(c.breaks)
				wantTold(t, watched(t, p, 3*time.Minute), aliasA, aliasB)
				if trouble := p.Health().Trouble; trouble != nil {
					t.Errorf("trouble %+v although the alias was followed", trouble)
				}
			})
		})
	}
}

// The operator moves the alias because its key is refused.
func TestMoveOfAnAliasEndsItsKeysRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f, p := aliasRing(t, &log)
		f.fail("Encrypt "+keyA, cause.KeyDisabled)
		f.fail("Decrypt "+keyA, cause.KeyDisabled)
		time.Sleep(time.Minute)
		wantState(t, p, evidence.Refused)
		f.moveAlias()
		time.Sleep(90 * time.Second)
		wantState(t, p, evidence.Healthy)
		wantTold(t, watched(t, p, time.Minute), aliasB)
	})
}

// Whatever was written in between reads, also by a process that starts afresh, and
// an alias that flaps does not make key_id flap.
func TestAliasMovedBackAndForth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f, p := aliasRing(t, &log)
		var written []provider.Encrypted
		write := func(d time.Duration) {
			for range d / (7 * time.Second) {
				e, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
				if err != nil {
					t.Fatal(err)
				}
				written = append(written, e)
				time.Sleep(7 * time.Second)
			}
		}
		for i, pause := range []time.Duration{time.Second, 30 * time.Second, 2 * time.Minute, 20 * time.Second, 10 * time.Minute, 10 * time.Minute} {
			f.moveAliasTo([]string{keyB, keyA}[i%2])
			write(pause)
		}
		wantTold(t, watched(t, p, time.Minute), aliasA)
		fresh := newRing(f, ringOptions{write: alias})
		if _, err := fresh.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
			t.Fatal(err)
		}
		for i, e := range written {
			for name, ring := range map[string]*provider.Provider{"the same process": p, "another process": fresh} {
				for _, in := range []keyring.Stored{read(e), {Ciphertext: e.Ciphertext, Bare: true}} {
					if plaintext, err := ring.Decrypt(t.Context(), in); err != nil || string(plaintext) != "seed" {
						t.Fatalf("write %d under %s, read by %s: %v", i, e.KeyID, name, err)
					}
				}
			}
			if !strings.HasPrefix(string(e.Ciphertext[1:]), strings.TrimSuffix(e.KeyID, "?material=m1")+"#") {
				t.Errorf("write %d: ciphertext %q is not under key_id %s", i, e.Ciphertext, e.KeyID)
			}
		}
		if changes := strings.Count(log.String(), "alias was moved"); changes > 4 {
			t.Errorf("key_id changed %d times for six moves, two of them brief", changes)
		}
	})
}

// A key that an alias has just left is not returned to because of an answer from
// before.
func TestAliasDoesNotReturnWithinFiveMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f, p := aliasRing(t, &log)
		f.moveAlias()
		wantTold(t, watched(t, p, 90*time.Second), aliasA, aliasB)
		f.moveAliasTo(keyA)
		wantTold(t, watched(t, p, 3*time.Minute), aliasB)
		wantTold(t, watched(t, p, 5*time.Minute), aliasB, aliasA)
		if keys := p.Health().ReadKeys; len(keys) != 1 || keys[0].Key != keyB {
			t.Errorf("read keys %+v, want the one that was left last, alone", keys)
		}
		if !strings.Contains(log.String(), "another epoch") {
			t.Errorf("no advice of an epoch at the return:\n%s", log.String())
		}
	})
}

func TestAliasThatOnlyEarlierKeysDataNeedsReads(t *testing.T) {
	t.Parallel()
	f := rotating()
	f.moveAlias() // before the process started: no data is under key B
	p := newRing(f, ringOptions{write: keyC, read: []string{alias}})
	for i := range 3 {
		plaintext, err := p.Decrypt(t.Context(), stored(keyA, "old", ""))
		if err != nil || string(plaintext) != "old" {
			t.Errorf("read %d: %q, %v", i, plaintext, err)
		}
	}
	if n := strings.Count(strings.Join(f.taken(), "\n"), "Encrypt"); n != 1 {
		t.Errorf("%d Encrypts, want one, which resolves the alias", n)
	}
}

func TestAliasThatReturnsDoesNotReturnToLeftMaterial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f, p := aliasRing(t, &log)
		f.moveAlias()
		wantTold(t, watched(t, p, 90*time.Second), aliasA, aliasB)
		f.rotate(keyA, "m2")
		f.moveAliasTo(keyA)
		wantTold(t, watched(t, p, 8*time.Minute), aliasB, m2)
		f.rotate(keyA, "m1")
		wantTold(t, watched(t, p, 8*time.Minute), m2)
		f.rotate(keyA, "m2")
		f.moveAlias()
		wantTold(t, watched(t, p, 3*time.Minute), m2, aliasB)
		time.Sleep(5 * time.Minute)
		f.rotate(keyA, "")
		f.moveAliasTo(keyA)
		wantTold(t, watched(t, p, 8*time.Minute), aliasB, m2)
	})
}

func TestReadThatMeetsTheMoveOfAnAliasIsNoBadData(t *testing.T) {
	t.Parallel()
	for offset := range 20 {
		synctest.Test(t, func(t *testing.T) {
			f := rotating()
			f.hang(700 * time.Millisecond)
			p := newRing(f, ringOptions{write: alias})
			running(t, p)
			time.Sleep(2 * time.Second)
			f.moveAlias()
			time.Sleep(65*time.Second + time.Duration(offset)*100*time.Millisecond) // the third look
			before := keyIDOf(t, p)
			f.hang(700 * time.Millisecond)
			if _, err := p.Decrypt(t.Context(), stored(keyB, "seed", "")); err != nil {
				t.Errorf("read after %d00 ms, of a key that the alias names from %s on: %v", offset, before, err)
			}
		})
	}
}

func TestEarlierKeysReadWhileTheAliassKeyIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f, p := aliasRing(t, &log)
		f.moveAlias()
		wantTold(t, watched(t, p, 90*time.Second), aliasA, aliasB)
		f.fail("Decrypt "+keyB, cause.KeyDisabled)
		f.fail("Encrypt "+keyB, cause.KeyDisabled)
		for _, keyID := range []string{"", alias, keyA} {
			if _, err := p.Decrypt(t.Context(), stored(keyA, "x"+keyID, keyID)); err != nil {
				t.Errorf("key_id %q: %v", keyID, err)
			}
		}
	})
}

func TestAliasReturnsAtOnceWhereItsKeyIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f, p := aliasRing(t, &log)
		f.moveAlias()
		wantTold(t, watched(t, p, 90*time.Second), aliasA, aliasB)
		f.fail("Encrypt "+keyB, cause.KeyDisabled)
		f.fail("Decrypt "+keyB, cause.KeyDisabled)
		time.Sleep(10 * time.Second)
		f.moveAliasTo(keyA)
		time.Sleep(100 * time.Second)
		wantState(t, p, evidence.Healthy)
	})
}

func TestAliasThatCannotBeResolvedSaysWhatToWrite(t *testing.T) {
	t.Parallel()
	f := rotating()
	f.moveAlias()
	f.fail("Encrypt "+keyB, cause.AccessDenied)
	p := newRing(f, ringOptions{write: keyC, read: []string{alias}})
	if _, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err == nil || !strings.Contains(err.Error(), "arn:aws:kms:REGION:ACCOUNT:"+alias) {
		t.Errorf("got %v, want the advice to give the alias by its ARN", err)
	}
	const byARN = "arn:aws:kms:us-west-2:111122223333:" + alias
	f.aliases[byARN] = keyB
	p = newRing(f, ringOptions{write: keyC, read: []string{byARN}})
	if plaintext, err := p.Decrypt(t.Context(), stored(keyA, "old", "")); err != nil || string(plaintext) != "old" {
		t.Errorf("by that: %q, %v", plaintext, err)
	}
}
