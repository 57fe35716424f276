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
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

func TestEncryptNamesTheKeyForPeopleAndTools(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ write, arn, keyID string }{
		"ARN":              {keyA, keyA, keyA},
		"alias":            {alias, keyA, keyA},
		"multi-Region key": {mrk, mrk, "arn:aws:kms::111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"},
	} {
		e, err := newRing(newFake(), ringOptions{write: c.write}).Encrypt(t.Context(), secret.Bytes("seed"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if e.KeyID != c.keyID {
			t.Errorf("%s: key_id %q, want %q", name, e.KeyID, c.keyID)
		}
		for annotation, want := range map[string]string{
			keyring.AnnotationKeyARN: c.arn, keyring.AnnotationRegion: "us-west-2", keyring.AnnotationRequestID: "r-9",
		} {
			if got := string(e.Annotations[annotation]); got != want {
				t.Errorf("%s: annotation %s is %q, want %q", name, annotation, got, want)
			}
		}
	}
}

func TestAliasIsResolvedOnceAndTheARNNamedThen(t *testing.T) {
	t.Parallel()
	f := newFake()
	p := newRing(f, ringOptions{write: alias})
	first, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
	if err != nil {
		t.Fatal(err)
	}
	f.moveAlias()
	second, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
	if err != nil || first.KeyID != keyA || second.KeyID != keyA {
		t.Errorf("key_ids %q and %q, error %v; want %s for the life of the process", first.KeyID, second.KeyID, err, keyA)
	}
	if want := []string{"Encrypt " + alias, "Decrypt " + keyA, "Encrypt " + keyA}; !slices.Equal(f.taken(), want) {
		t.Errorf("calls differ from %v", want)
	}
}

// Two first calls meet an alias that moves between them: neither may answer a
// key_id that does not open its ciphertext.
func TestAliasOnTheMoveAtFirstContactGivesOneKeyID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.delay = 500 * time.Millisecond
		p := newRing(f, ringOptions{write: alias})
		results := make(chan provider.Encrypted, 2)
		encrypt := func() {
			e, err := p.Encrypt(t.Context(), secret.Bytes("seed"))
			if err != nil {
				t.Error(err)
			}
			results <- e
		}
		go encrypt()
		time.Sleep(250 * time.Millisecond)
		f.moveAlias()
		go encrypt()
		one, two := <-results, <-results
		if one.KeyID != two.KeyID {
			t.Errorf("key_ids %q and %q, want one", one.KeyID, two.KeyID)
		}
		for _, e := range []provider.Encrypted{one, two} {
			if !bytes.HasPrefix(e.Ciphertext, []byte("1"+e.KeyID)) {
				t.Errorf("ciphertext %q is not under key_id %q", e.Ciphertext, e.KeyID)
			}
		}
	})
}

// Each row: who made the data, what names it, and which KMS calls open it.
func TestDecryptIsPinnedToConfiguredKeys(t *testing.T) {
	t.Parallel()
	annotated := func(s keyring.Stored, arn string) keyring.Stored {
		s.Annotations = map[string][]byte{keyring.AnnotationKeyARN: []byte(arn)}
		return s
	}
	bare := keyring.Stored{Ciphertext: blobOf(keyB, "seed"), Bare: true}
	for name, c := range map[string]struct {
		write string
		read  []string
		in    keyring.Stored
		calls []string
		fails cause.Code
	}{
		"own key":                        {keyA, nil, stored(keyA, "seed", keyA), []string{"Decrypt " + keyA}, 0},
		"own key, v1":                    {keyA, nil, stored(keyA, "seed", ""), []string{"Decrypt " + keyA}, 0},
		"read key by key_id":             {keyA, []string{keyB, keyC}, stored(keyC, "seed", keyC), []string{"Decrypt " + keyC}, 0},
		"read key by annotation":         {keyA, []string{keyB, keyC}, annotated(stored(keyC, "seed", "alias/gone"), keyC), []string{"Decrypt " + keyC}, 0},
		"multi-Region key_id":            {keyA, []string{keyB, mrk}, stored(mrk, "seed", "arn:aws:kms::111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"), []string{"Decrypt " + mrk}, 0},
		"predecessor's key_id, an alias": {alias, []string{keyB}, stored(keyA, "seed", alias), []string{"Decrypt " + alias}, 0},
		"key_id of nobody, all in order": {keyA, []string{keyB, keyC}, stored(keyC, "seed", "who"), []string{"Decrypt " + keyA, "Decrypt " + keyB, "Decrypt " + keyC}, 0},
		"v1 in order":                    {keyA, []string{keyB, keyC}, stored(keyC, "seed", ""), []string{"Decrypt " + keyA, "Decrypt " + keyB, "Decrypt " + keyC}, 0},
		"v1 bare":                        {keyA, []string{keyB}, bare, []string{"Decrypt " + keyA, "Decrypt " + keyB}, 0},
		"key_id names the wrong key":     {keyA, []string{keyB}, stored(keyA, "seed", keyB), []string{"Decrypt " + keyB, "Decrypt " + keyA}, 0},
		"key_id and annotation never name another": {
			keyA, nil, annotated(stored(keyB, "seed", keyB), keyB), []string{"Decrypt " + keyA}, cause.NoKeyMadeIt,
		},
		"nobody made it": {keyA, []string{keyB}, stored(keyC, "seed", ""), []string{"Decrypt " + keyA, "Decrypt " + keyB}, cause.NoKeyMadeIt},
		"damaged":        {keyA, nil, keyring.Stored{Ciphertext: []byte("1damaged")}, []string{"Decrypt " + keyA}, cause.CiphertextInvalid},
		"empty":          {keyA, nil, keyring.Stored{}, nil, cause.EmptyCiphertext},
		"unknown format": {keyA, nil, keyring.Stored{Ciphertext: []byte("2x"), Bare: true}, nil, cause.UnknownFormat},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			plaintext, err := newRing(f, ringOptions{write: c.write, read: c.read}).Decrypt(t.Context(), c.in)
			if c.fails == 0 && (err != nil || string(plaintext) != "seed") {
				t.Errorf("error %v, want the seed", err)
			}
			if c.fails != 0 && (err == nil || cause.Of(err).Code != c.fails || cause.Of(err).Provider != "0") {
				t.Errorf("got %s, want %s of provider 0", code(err), c.fails)
			}
			if calls := f.taken(); !slices.Equal(calls, c.calls) {
				t.Errorf("calls %q, want %q", calls, c.calls)
			}
		})
	}
}

func TestNoKeyMadeItSaysWhatToDo(t *testing.T) {
	t.Parallel()
	in := stored(keyC, "seed", keyC)
	in.Annotations = map[string][]byte{keyring.AnnotationKeyARN: []byte(keyC)}
	_, err := newRing(newFake(), ringOptions{read: []string{keyB}, called: func(string) string { return "--decrypt-key" }}).Decrypt(t.Context(), in)
	for _, want := range []string{"no configured key made", "--decrypt-key", keyA, keyB, "its annotations name \"" + keyC} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
}

func TestKeyThatLastWorkedIsTriedFirst(t *testing.T) {
	t.Parallel()
	f := newFake()
	p := newRing(f, ringOptions{read: []string{keyB, keyC}})
	for range 10 {
		if _, err := p.Decrypt(t.Context(), stored(keyC, "seed", "")); err != nil {
			t.Fatal(err)
		}
	}
	if calls := f.taken(); len(calls) != 12 {
		t.Errorf("%d calls for 10 objects of one key: %q; want 12", len(calls), calls)
	}
}

func TestKeyThatFailsIsTriedLast(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.fail("Decrypt "+keyA, cause.TimedOut)
	p := newRing(f, ringOptions{read: []string{keyB}})
	if _, err := p.Decrypt(t.Context(), stored(keyB, "seed", "")); err != nil {
		t.Fatalf("the second key made it and works: %v", err)
	}
	f.taken()
	if _, err := p.Decrypt(t.Context(), stored(keyB, "seed", "")); err != nil {
		t.Fatal(err)
	}
	if calls := f.taken(); !slices.Equal(calls, []string{"Decrypt " + keyB}) {
		t.Errorf("calls %q, want none of the key that fails", calls)
	}
}

func TestBadDataIsSaidOnlyWhenEveryKeySaidSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		a, b, want cause.Code
		calls      int // of two reads
	}{
		"both say so":              {0, 0, cause.NoKeyMadeIt, 2},
		"one is out of reach":      {cause.TimedOut, 0, cause.TimedOut, 4},
		"one is refused":           {0, cause.KeyDisabled, cause.KeyDisabled, 4},
		"refused is worse":         {cause.TimedOut, cause.AccessDenied, cause.AccessDenied, 4},
		"credentials, then outage": {cause.NoCredentials, cause.Throttled, cause.NoCredentials, 4},
	} {
		f := newFake()
		for key, code := range map[string]cause.Code{keyA: c.a, keyB: c.b} {
			if code != 0 {
				f.fail("Decrypt "+key, code)
			}
		}
		p := newRing(f, ringOptions{read: []string{keyB}})
		for range 2 {
			if _, err := p.Decrypt(t.Context(), stored(keyC, "seed", "")); err == nil || cause.Of(err).Code != c.want {
				t.Errorf("%s: got %s, want %s", name, code(err), c.want)
			}
		}
		if calls := f.taken(); len(calls) != c.calls {
			t.Errorf("%s: %d calls for two reads, want %d", name, len(calls), c.calls)
		}
	}
}

func TestBadCiphertextIsRememberedForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		p := newRing(f, ringOptions{})
		read := func() {
			t.Helper()
			if _, err := p.Decrypt(t.Context(), keyring.Stored{Ciphertext: []byte("1hostile")}); cause.ClassOf(err) != cause.BadData {
				t.Errorf("got %s", code(err))
			}
		}
		for range 100 {
			read()
		}
		time.Sleep(59 * time.Second)
		read()
		if calls := f.taken(); len(calls) != 1 {
			t.Errorf("%d calls within a minute, want 1", len(calls))
		}
		time.Sleep(2 * time.Second)
		read()
		if calls := f.taken(); len(calls) != 1 {
			t.Errorf("%d calls after a minute, want 1", len(calls))
		}
	})
}

func TestMovedAliasStillReads(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := newFake()
	f.moveAlias()
	p := newRing(f, ringOptions{write: alias, log: &log})
	if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
		t.Fatal(err)
	}
	f.taken()
	for range 3 {
		if plaintext, err := p.Decrypt(t.Context(), stored(keyA, "old", alias)); err != nil || string(plaintext) != "old" {
			t.Fatalf("data of the alias's earlier key: %v", err)
		}
	}
	// Pinned, then unpinned once; then the key is known, and worked last.
	if calls := f.taken(); !slices.Equal(calls, []string{"Decrypt " + keyB, "Decrypt", "Decrypt " + keyB, "Decrypt " + keyA, "Decrypt " + keyB, "Decrypt " + keyA}) {
		t.Errorf("calls %q", calls)
	}
	if n := strings.Count(log.String(), "--decrypt-key"); n != 1 || !strings.Contains(log.String(), keyA) {
		t.Errorf("advised %d times, want once with the key:\n%s", n, log.String())
	}
}

func TestUnpinnedAnswerCountsOnlyFromHome(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		write string
		made  string
		fails cause.Code
		want  cause.Code
		calls int // of two reads
	}{
		"another account":               {alias, alien, 0, cause.ForeignKey, 2},
		"another Region":                {alias, abroad, 0, cause.ForeignKey, 2},
		"a key that may not be used":    {alias, alien, cause.AccessDenied, cause.AccessDenied, 2},
		"a key that is not there":       {alias, alien, cause.KeyNotFound, cause.KeyNotFound, 2},
		"the earlier key is disabled":   {alias, keyC, cause.KeyDisabled, cause.KeyDisabled, 2},
		"KMS fails meanwhile":           {alias, keyC, cause.KMSInternal, cause.KMSInternal, 4},
		"no exception without an alias": {keyA, keyC, 0, cause.NoKeyMadeIt, 1},
	} {
		f := newFake()
		p := newRing(f, ringOptions{write: c.write})
		if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
			t.Fatal(err)
		}
		f.taken()
		if c.fails != 0 {
			f.fail("Decrypt "+c.made, c.fails)
		}
		for range 2 {
			plaintext, err := p.Decrypt(t.Context(), stored(c.made, "seed", ""))
			if err == nil || cause.Of(err).Code != c.want || plaintext != nil {
				t.Errorf("%s: got %s, want %s", name, code(err), c.want)
			}
		}
		if calls := f.taken(); len(calls) != c.calls {
			t.Errorf("%s: calls %q for two reads, want %d", name, calls, c.calls)
		}
	}
}

// What a call costs beside KMS is next to nothing: a name that is parsed, or a
// pattern compiled, in every call would be most of it.
func TestCallsAllocateLittle(t *testing.T) {
	f := newFake()
	p := newRing(f, ringOptions{})
	ctx := t.Context()
	e, err := p.Encrypt(ctx, secret.Bytes("seed"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Decrypt(ctx, keyring.Stored{Ciphertext: e.Ciphertext}); err != nil { // now both have worked: Status does not wait
		t.Fatal(err)
	}
	seed := secret.Bytes("seed")
	for name, call := range map[string]func(){
		"Encrypt": func() { _, _ = p.Encrypt(ctx, seed) },
		"Decrypt": func() { _, _ = p.Decrypt(ctx, keyring.Stored{Ciphertext: e.Ciphertext, KeyID: e.KeyID}) },
		"Status":  func() { _, _ = p.Status(ctx); f.taken() },
	} {
		if n := testing.AllocsPerRun(100, call); n > 50 {
			t.Errorf("%s allocates %v times, want at most 50", name, n)
		}
	}
}

// The alias of a read key is resolved like the write key's: its move must not
// make stored data unreadable under a running process.
func TestAliasOfAReadKeyIsResolvedOnce(t *testing.T) {
	t.Parallel()
	f := newFake()
	p := newRing(f, ringOptions{write: keyC, read: []string{alias}})
	for range 2 {
		if _, err := p.Decrypt(t.Context(), stored(keyA, "seed", "")); err != nil {
			t.Fatal(err)
		}
		f.moveAlias()
	}
	if last := f.taken(); last[len(last)-1] != "Decrypt "+keyA {
		t.Errorf("calls %q, want the ARN named at the end", last)
	}
}

// More earlier keys than are remembered read all the same, and are not advised
// of again and again.
func TestManyEarlierKeysOfAnAliasStayReadable(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := newFake()
	p := newRing(f, ringOptions{write: alias, log: &log})
	if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
		t.Fatal(err)
	}
	f.taken()
	const keys = 300
	for range 2 {
		for i := range keys {
			arn := fmt.Sprintf("arn:aws:kms:us-west-2:111122223333:key/00000000-0000-0000-0000-%012d", i)
			if _, err := p.Decrypt(t.Context(), stored(arn, "seed", "")); err != nil {
				t.Fatalf("key %d: %v", i, err)
			}
		}
	}
	if calls := f.taken(); len(calls) > 2*keys*3 {
		t.Errorf("%d calls for %d reads, want at most three each", len(calls), 2*keys)
	}
	if n := strings.Count(log.String(), "--decrypt-key"); n != 256 {
		t.Errorf("advised %d times, want once for each key that is remembered", n)
	}
}

// A key that is named made the data: where it cannot be asked, the others have nothing
// to find, and what it said is what the caller is told.
func TestWhereTheNamedKeyCannotBeAskedNoOtherIs(t *testing.T) {
	t.Parallel()
	for _, code := range []cause.Code{cause.Unreachable, cause.KeyDisabled, cause.AccessDenied, cause.CredentialsExpired} {
		f := newFake()
		f.fail("Decrypt "+keyB, code)
		_, err := newRing(f, ringOptions{read: []string{keyB, keyC}}).Decrypt(t.Context(), stored(keyB, "seed", keyB))
		if err == nil || cause.Of(err).Code != code {
			t.Errorf("got %v, want %s of the key that is named", err, code)
		}
		if calls := f.taken(); !slices.Equal(calls, []string{"Decrypt " + keyB}) {
			t.Errorf("calls %q, want one", calls)
		}
	}
}
