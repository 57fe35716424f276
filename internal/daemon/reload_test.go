package daemon

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	v2 "k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestNewFirstKeyWritesAndTheOldOneReads(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, a)}}
	f := runFiled(t, filing{dir: dir}, fileText("", p))
	f.ready()
	c := newCaller(t, p.listen)
	before := c.seals()
	if !strings.HasPrefix(before.KeyId, a) {
		t.Fatalf("key_id %s, want one of %s", before.KeyId, a)
	}
	p.keys = []string{keyText(kms, b), keyText(kms, a)}
	f.loads(fileText("", p))
	after := c.seals()
	if !strings.HasPrefix(after.KeyId, b) || c.keyID() != after.KeyId {
		t.Errorf("key_id %s, and %s by Status; want one of %s", after.KeyId, c.keyID(), b)
	}
	c.opens(before)
	c.opens(after)
	if n := c.dials.Load(); n != 1 {
		t.Errorf("the caller has connected %d times, want its connection kept", n)
	}
}

// The file changes one provider while another's KMS hangs, which is past its
// outage's beginning, and a third one's is well.
func TestReloadDuringAnOutage(t *testing.T) {
	t.Parallel()
	well, ill := kmstest.Start(t), kmstest.Start(t)
	a, b, h := createKey(t, well), createKey(t, well), createKey(t, ill)
	dir := testkit.Directory(t)
	healthy := providerText{name: "healthy", listen: dir + "/healthy", keys: []string{keyText(well, a)}}
	hanging := providerText{name: "hanging", listen: dir + "/hanging", keys: []string{keyText(ill, h)}}
	f := runFiled(t, filing{dir: dir}, fileText("kmsTimeout: 6s\noutageGrace: 7m\n", healthy, hanging))
	f.ready()
	sick := newCaller(t, hanging.listen)
	keyID := sick.keyID()
	ill.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
	_, _ = sick.kms.Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: plaintext()}) // traffic tells
	body := f.waitFor("/readyz/hanging", http.StatusServiceUnavailable, `outage since .*; Status stays ok until [0-9TZ:-]{20}`)
	done := make(chan struct{})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			c := newCaller(t, healthy.listen)
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := c.open(context.Background(), c.seals()); err != nil {
					t.Errorf("a call of the healthy provider: %v", err)
					return
				}
			}
		})
	}
	var instance *instance
	timeout := "6s"
	for i, change := range []func(){
		func() { timeout = "6100ms" },
		func() { healthy.keys = []string{keyText(well, b), keyText(well, a)} },
		func() { hanging.keys = append(hanging.keys, keyText(ill, createKey(t, ill))) }, // a further read key
		func() { hanging.listen = dir + "/moved" },
	} {
		instance = f.current.Load().named("hanging").instance
		change()
		f.loads(fileText("kmsTimeout: "+timeout+"\noutageGrace: 7m\n", healthy, hanging))
		_, after := f.get("/readyz/hanging")
		if since, _, _ := strings.Cut(body, ": KMS"); !strings.HasPrefix(after, since+": ") || !strings.Contains(after, body[strings.LastIndex(body, "; Status stays ok"):]) {
			t.Errorf("after change %d, /readyz is %s\nwant evidence and grace as before: %s", i, after, body)
		}
		if i == 1 && f.current.Load().named("hanging").instance != instance {
			t.Error("the provider that did not change is another one")
		}
		if i < 3 {
			if got := sick.keyID(); got != keyID {
				t.Errorf("after change %d, key_id is %s, want %s as before", i, got, keyID)
			}
		}
	}
	if got := newCaller(t, hanging.listen).keyID(); got != keyID {
		t.Errorf("on its new socket, key_id is %s, want %s as before", got, keyID)
	}
	if n := sick.dials.Load(); n != 1 {
		t.Errorf("the hanging provider's caller has connected %d times, want its connection kept", n)
	}
	close(done)
	callers.Wait()
}

// Two of the file's first keys cannot be used. All is tried again by itself.
func TestNewFirstKeyThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, a)}}
	f := runFiled(t, filing{dir: dir}, fileText("", p))
	f.ready()
	c := newCaller(t, p.listen)
	sealed := c.seals()
	if err := kms.DisableKey(b); err != nil {
		t.Fatal(err)
	}
	p.keys = []string{keyText(kms, b), keyText(kms, a)}
	other := providerText{name: "other", listen: dir + "/other", keys: []string{keyText(kms, "alias/none")}}
	f.refuses(fileText("", p, other), "provider aws: its first key has to encrypt and decrypt before it may write: KMS0101")
	f.refused("provider other: its first key has to encrypt and decrypt before it may write: KMS0103")
	f.refused("put another key first that all nodes list")
	if c.keyID() != sealed.KeyId || exists(other.listen) {
		t.Errorf("key_id %s, want still %s, and no new socket", c.keyID(), sealed.KeyId)
	}
	f.waitFor("/readyz?verbose", http.StatusOK, `(?s)^provider aws: ok.*\nconfiguration `+f.file+`: hash [0-9a-f]{16}, loaded at [0-9TZ:-]{20}\nconfiguration not reloaded since [0-9TZ:-]{20}, the running one goes on, it is tried again: provider aws: its first key`)
	if err := kms.EnableKey(b); err != nil {
		t.Fatal(err)
	}
	if err := kms.CreateAlias(kmstest.Region, "alias/none", b); err != nil {
		t.Fatal(err)
	}
	f.loaded(fileText("", p, other))
	if id := c.keyID(); !strings.HasPrefix(id, b) {
		t.Errorf("key_id %s, want one of %s", id, b)
	}
	c.opens(sealed)
	newCaller(t, other.listen).keyID()
}

// TestEpochIsRaisedOnlyWhileTheKeyWorks: an API server that heard of the new key_id
// in an outage could make no seed for it, and its writes would stop.
func TestEpochIsRaisedOnlyWhileTheKeyWorks(t *testing.T) {
	t.Parallel()
	kms, p, f := runOne(t, "")
	c := newCaller(t, p.listen)
	before := c.keyID()
	mend := kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Unavailable})
	raised := p
	raised.epoch = 1
	f.refuses(fileText("", raised), "provider aws: its first key has to encrypt and decrypt before it writes under another epoch: KMS0202")
	f.refused("mend that, or leave epoch as it was")
	if s, err := c.status(); err != nil || s.Healthz != "ok" || s.KeyId != before {
		t.Errorf("Status in the outage is %v, %v; want ok and still key_id %s", s, err, before)
	}
	f.loads(fileText("outageGrace: 1h\n", p)) // what needs no KMS is taken over
	f.refuses(fileText("outageGrace: 1h\n", raised), "another epoch")
	mend()
	f.loaded(fileText("outageGrace: 1h\n", raised))
	if got, want := c.keyID(), before+"&epoch=1"; got != want {
		t.Errorf("key_id %s when KMS is back, want %s", got, want)
	}
}

func TestTimesOfTheFileTakeEffect(t *testing.T) {
	t.Parallel()
	kms, p, f := runOne(t, "kmsTimeout: 10m\n")
	c := newCaller(t, p.listen)
	c.seals()
	f.loads(fileText("kmsTimeout: 100ms\noutageGrace: 0s\n", p))
	kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	began := time.Now()
	if _, err := c.kms.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plaintext()}); err == nil || time.Since(began) > testkit.Patience/4 {
		t.Errorf("a call that hangs: %v after %s, want it given up after 100ms", err, time.Since(began))
	}
	testkit.Until(t, "Status tells the outage without a grace", func() bool { s, err := c.status(); return err == nil && s.Healthz != "ok" })
}

func TestReloadOnRequestEmptiesTheMemoryOfBadCiphertexts(t *testing.T) {
	t.Parallel()
	kms, p, f := runOne(t, "")
	c := newCaller(t, p.listen)
	sealed := c.seals()
	sealed.Ciphertext[len(sealed.Ciphertext)-1] ^= 1
	asked := func() int {
		before := kms.Calls("Decrypt")
		if err := c.open(context.Background(), sealed); err == nil {
			t.Fatal("damaged data decrypts")
		}
		return kms.Calls("Decrypt") - before
	}
	if first, again := asked(), asked(); first == 0 || again != 0 {
		t.Fatalf("KMS was asked %d and %d times, want once: the test shows nothing", first, again)
	}
	f.Reload()
	testkit.Until(t, "the unchanged file is loaded", func() bool { return f.log.Has("configuration reloaded") })
	if n := asked(); n == 0 {
		t.Error("what was bad before is not asked again")
	}
}

// In an outage a longer grace is the one lever that an operator has: it is counted
// from the last success, also where the grace before it is over.
func TestLongerGraceMakesStatusOkAgain(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	one := providerText{name: "one", listen: dir + "/one", keys: []string{keyText(kms, createKey(t, kms))}}
	f := runFiled(t, filing{dir: dir}, fileText("outageGrace: 1ms\n", one))
	f.ready()
	c := newCaller(t, one.listen)
	keyID := c.keyID()
	kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle})
	_, _ = c.kms.Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: plaintext()}) // traffic tells
	f.waitFor("/readyz/one", http.StatusServiceUnavailable, `outage since .*; Status has not been ok since [0-9TZ:-]{20}`)
	if got, err := c.status(); err != nil || !strings.Contains(got.Healthz, "KMS0201") || got.KeyId != keyID {
		t.Fatalf("after the grace: %v, %v; want the cause under the same key_id", got, err)
	}
	f.loads(fileText("outageGrace: 2h\n", one))
	got, err := c.status()
	if err != nil || got.Healthz != "ok" || got.KeyId != keyID {
		t.Errorf("with a longer grace: %v, %v; want ok under the same key_id", got, err)
	}
	if _, err := c.kms.Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: plaintext()}); err == nil {
		t.Error("a longer grace has brought KMS back")
	}
	f.loads(fileText("outageGrace: 1ms\n", one))
	if got, err := c.status(); err != nil || got.Healthz == "ok" {
		t.Errorf("with the short grace again: %v, %v; want the cause", got, err)
	}
	if n := c.dials.Load(); n != 1 {
		t.Errorf("the caller has connected %d times, want its connection kept", n)
	}
}
