package provider_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A new context is one and the same change as a new key: the new one first, the
// old below.
func TestContextInKeyIDChoosesAmongEntriesOfOneKey(t *testing.T) {
	t.Parallel()
	f := rotating()
	was, is := map[string]string{"cluster": "a"}, map[string]string{"cluster": "b"}
	before := ringOf(ringOptions{}, contextKey(f, was))
	old, err := before.Encrypt(t.Context(), secret.Bytes("old"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		in    keyring.Stored
		calls int
	}{
		"v2":                    {read(old), 1},
		"v1":                    {keyring.Stored{Ciphertext: old.Ciphertext}, 2},
		"the predecessor's":     {keyring.Stored{Ciphertext: old.Ciphertext, KeyID: keyA}, 2},
		"the annotation alone":  {keyring.Stored{Ciphertext: old.Ciphertext, KeyID: "alias/gone", Annotations: old.Annotations}, 2},
		"key_id of the new one": {keyring.Stored{Ciphertext: old.Ciphertext, KeyID: keyA + "?context=" + keyref.ContextHash(is)}, 2},
	} {
		p := ringOf(ringOptions{}, contextKey(f, is), contextKey(f, was))
		f.taken()
		if plaintext, err := p.Decrypt(t.Context(), c.in); err != nil || string(plaintext) != "old" {
			t.Errorf("%s: %v", name, err)
		}
		if calls := f.taken(); len(calls) != c.calls {
			t.Errorf("%s: %d calls, want %d", name, len(calls), c.calls)
		}
	}
}

func TestReplicaOfAnotherRegionReads(t *testing.T) {
	t.Parallel()
	f := rotating()
	p := newRing(f, ringOptions{read: []string{keyB, mrk}})
	in := stored(mrk, "seed", "")
	in.Annotations = map[string][]byte{keyring.AnnotationKeyARN: []byte(mrkAbroad)}
	if _, err := p.Decrypt(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if calls := f.taken(); !slices.Equal(calls, []string{"Decrypt " + mrk}) {
		t.Errorf("calls %q, want the replica that is configured alone", calls)
	}
}

func TestMissingKeyIsNamedOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := rotating()
		p := newRing(f, ringOptions{read: []string{keyB}, log: &log})
		readAll := func() {
			for i := range 20 {
				in := stored(keyC, strings.Repeat("x", i+1), keyC+"?material=m1")
				if _, err := p.Decrypt(t.Context(), in); err == nil || cause.Of(err).Code != cause.NoKeyMadeIt {
					t.Fatalf("got %s", code(err))
				}
			}
		}
		for range 3 {
			readAll()
			time.Sleep(61 * time.Second)
		}
		if n := strings.Count(log.String(), "not configured"); n != 3 || !strings.Contains(log.String(), keyC) || strings.Contains(log.String(), "m1") {
			t.Errorf("named %d times in three minutes, want once a minute, by its ARN:\n%s", n, log.String())
		}
		if missing := p.Health().Missing; len(missing) != 1 || missing[0].Key != keyC {
			t.Errorf("missing %+v, want key C", missing)
		}
	})
}

func TestMissingKeyThatNothingNamesIsSaidToo(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := newRing(rotating(), ringOptions{log: &log})
	if _, err := p.Decrypt(t.Context(), stored(keyC, "seed", "")); err == nil {
		t.Fatal("a key that is not configured read")
	}
	if !strings.Contains(log.String(), "nothing names it") {
		t.Errorf("the log says:\n%s", log.String())
	}
}

// Names come out of etcd: whoever writes there must not fill memory or the log.
func TestManyMissingKeysAreBounded(t *testing.T) {
	t.Parallel()
	p := newRing(rotating(), ringOptions{})
	for i := range 1000 {
		in := stored(keyC, "seed", strings.Repeat("k", i+1)+"\n")
		in.Ciphertext = append(in.Ciphertext, byte(i), byte(i>>8))
		if _, err := p.Decrypt(t.Context(), in); err == nil {
			t.Fatal("a key that is not configured read")
		}
	}
	missing := p.Health().Missing
	if len(missing) > 64 || len(missing[0].Key) > 256 {
		t.Errorf("%d names are kept, the newest of %d bytes", len(missing), len(missing[0].Key))
	}
}

func TestRefusedWriteKeySaysWhatToPutFirst(t *testing.T) {
	t.Parallel()
	const advice = "put a key first that can, such as "
	for name, c := range map[string]struct {
		read []string
		bad  string
		want string
	}{
		"a read key that works": {read: []string{keyB}, want: advice + keyB + ", once all nodes list it"},
		"one of two works":      {read: []string{keyB, keyC}, bad: keyB, want: advice + keyC + ", once all nodes list it"},
		"no read key works":     {read: []string{keyB}, bad: keyB},
		"no read key":           {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, ringOptions{read: c.read}, func(t *testing.T, f *fakeKMS, p *provider.Provider) {
				if c.bad != "" {
					f.fail("Decrypt "+c.bad, cause.KeyDisabled)
				}
				for _, arn := range c.read {
					_, _ = p.Decrypt(t.Context(), stored(arn, "seed", arn))
				}
				f.fail("Encrypt "+keyA, cause.KeyDisabled)
				f.fail("Decrypt "+keyA, cause.KeyDisabled)
				time.Sleep(time.Minute)
				_, statusErr := p.Status(t.Context())
				_, encryptErr := p.Encrypt(t.Context(), secret.Bytes("seed"))
				for _, err := range []error{statusErr, encryptErr} {
					if err == nil || strings.Contains(err.Error(), advice) != (c.want != "") || !strings.Contains(err.Error(), c.want) {
						t.Errorf("got %v, want %q in it", err, c.want)
					}
				}
			})
		})
	}
}

func TestForgetBadAsksKMSAnew(t *testing.T) {
	t.Parallel()
	f := rotating()
	p := newRing(f, ringOptions{})
	in := keyring.Stored{Ciphertext: []byte("1hostile")}
	for range 2 {
		_, _ = p.Decrypt(t.Context(), in)
	}
	p.ForgetBad()
	_, _ = p.Decrypt(t.Context(), in)
	if calls := f.taken(); len(calls) != 2 {
		t.Errorf("%d calls, want one before and one after", len(calls))
	}
}

func TestMissingKeyIsNotOneThatIsConfigured(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := rotating()
	f.moveAlias()
	f.fail("Decrypt "+keyA, cause.AccessDenied)
	p := newRing(f, ringOptions{write: alias, log: &log})
	if _, err := p.Encrypt(t.Context(), secret.Bytes("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Decrypt(t.Context(), stored(keyA, "x", alias)); err == nil {
		t.Fatal("reads")
	}
	if missing := p.Health().Missing; len(missing) != 1 || missing[0].Key != "" {
		t.Errorf("missing %+v, want one without a name", missing)
	}
	if strings.Contains(log.String(), "add=") {
		t.Errorf("advises to list what is listed:\n%s", log.String())
	}
}

func TestMissingKeysDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := newRing(rotating(), ringOptions{log: &log})
		for i := range 1000 {
			if _, err := p.Decrypt(t.Context(), stored(keyC, fmt.Sprint(i), fmt.Sprint("k", i))); err == nil {
				t.Fatal("reads")
			}
		}
		if n := strings.Count(log.String(), "\n"); n > 64 {
			t.Errorf("%d lines", n)
		}
	})
}

func TestRefusedKeyIsNotAdvisedAgain(t *testing.T) {
	t.Parallel()
	f := rotating()
	f.fail("Encrypt "+keyA, cause.KeyDisabled)
	p := ringOf(ringOptions{}, contextKey(f, map[string]string{"a": "b"}), newKey(f, keyA), newKey(f, keyB))
	_, err := p.Encrypt(t.Context(), secret.Bytes("x"))
	if err == nil || !strings.Contains(err.Error(), "such as "+keyB) {
		t.Errorf("%v", err)
	}
}
