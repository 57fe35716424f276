package provider_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// An alias that was moved often costs no more than one that was moved once.
func TestEarlierKeysOfAnAliasShareABudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newTelling(false, true)
		p := tellingRing(f, ringOptions{write: alias})
		running(t, p)
		time.Sleep(time.Minute)
		const n = 40
		for i := range n {
			earlier := fmt.Sprintf("arn:aws:kms:us-west-2:111122223333:key/eeeeeeee-0000-0000-0000-%012d", i)
			if _, err := p.Decrypt(t.Context(), stored(earlier, "seed", "")); err != nil {
				t.Fatal(err)
			}
		}
		if keys := p.Health().ReadKeys; len(keys) != n || keys[0].State != evidence.Healthy || keys[0].Alias != alias {
			t.Fatalf("%d earlier keys, the first %+v", len(keys), keys[0])
		}
		f.taken()
		time.Sleep(2 * time.Hour)
		asked := map[string]int{}
		for _, c := range f.taken() {
			if strings.Contains(c, "eeeeeeee") && !strings.HasPrefix(c, "DescribeKey ") { // denied, and asked once
				asked[c]++
			}
		}
		total := 0
		for _, times := range asked {
			total += times
		}
		if total > 120 || len(asked) != n {
			t.Errorf("%d calls for %d of %d keys in two hours, want one a minute, and each key's turn", total, len(asked), n)
		}
	})
}

// The key that the alias named last is the one that most data lies under.
func TestEarlierKeyOfAnAliasIsAskedWithoutTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newTelling(true, true)
		p := tellingRing(f, ringOptions{write: alias})
		running(t, p)
		time.Sleep(time.Minute)
		f.moveAlias()
		within(t, 3*time.Minute, "the alias is followed", func() bool { return len(p.Health().ReadKeys) == 1 })
		time.Sleep(10 * time.Minute)
		if k := reader(t, p); k.State != evidence.Healthy || k.Key != keyA {
			t.Errorf("%+v, want it asked with what it sealed in checks", k)
		}
		f.set(keyA, "PendingDeletion")
		within(t, 6*time.Minute, "the key is refused", func() bool { return reader(t, p).State == evidence.Refused })
	})
}

// A write key that is put below another one is asked with what it sealed.
func TestFormerWriteKeyIsAskedWithABlob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newTelling(true, true)
		a := kmskey.New(kmskey.Config{Name: keyA, KMS: f})
		before := ringOf(ringOptions{}, a)
		if err := before.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := ringOf(ringOptions{before: before}, kmskey.New(kmskey.Config{Name: keyB, KMS: f}), a)
		running(t, p)
		time.Sleep(time.Minute)
		f.set(keyA, "Disabled")
		within(t, 6*time.Minute, "the key is refused", func() bool { return reader(t, p).State == evidence.Refused })
	})
}
