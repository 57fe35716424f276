package daemon

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	v2 "k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestProvidersExchangeSockets(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	dir := testkit.Directory(t)
	first := providerText{name: "first", listen: dir + "/1", keys: []string{keyText(kms, a)}}
	second := providerText{name: "second", listen: dir + "/2", keys: []string{keyText(kms, b)}}
	f := runFiled(t, filing{dir: dir}, fileText("", first, second))
	f.ready()
	one, two := newCaller(t, dir+"/1"), newCaller(t, dir+"/2")
	idA, idB := one.keyID(), two.keyID()
	instances := []*instance{f.current.Load().named("first").instance, f.current.Load().named("second").instance}
	first.listen, second.listen = second.listen, first.listen
	f.loads(fileText("", first, second))
	if one.keyID() != idB || two.keyID() != idA {
		t.Errorf("key_ids %s and %s, want them exchanged: %s and %s", one.keyID(), two.keyID(), idB, idA)
	}
	if one.dials.Load() != 1 || two.dials.Load() != 1 {
		t.Errorf("callers have connected %d and %d times, want their connections kept", one.dials.Load(), two.dials.Load())
	}
	if g := f.current.Load(); g.named("first").instance != instances[0] || g.named("second").instance != instances[1] {
		t.Error("a provider that only moved is another one")
	}
	f.waitFor("/readyz", http.StatusOK, "(?s)^provider first: ok.*provider second: ok")
}

func TestRenamedProviderKeepsItsSocket(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	p := providerText{name: "old", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	f := runFiled(t, filing{dir: dir}, fileText("", p))
	f.ready()
	c := newCaller(t, p.listen)
	sealed := c.seals()
	p.name = "new"
	f.loads(fileText("", p))
	c.opens(sealed)
	if again := c.seals(); again.KeyId != sealed.KeyId || c.dials.Load() != 1 {
		t.Errorf("key_id %s over connection %d, want %s over the first", again.KeyId, c.dials.Load(), sealed.KeyId)
	}
	f.waitFor("/readyz/new", http.StatusOK, "^provider new: ok")
	f.waitFor("/readyz/old", http.StatusNotFound, "there are new")
	f.settled()
	for series, want := range map[string]string{
		`aws_encryption_provider_health{provider="new",state="healthy"}`: "1",
		`aws_encryption_provider_health{provider="old",state="healthy"}`: "",
	} {
		if got := f.metric(series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
}

func TestSocketByAnotherNameIsTheSame(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	f := runFiled(t, filing{dir: dir}, fileText("", p))
	f.ready()
	c := newCaller(t, p.listen)
	c.keyID()
	p.listen = dir + "/link/s"
	f.loads(fileText("", p))
	c.keyID()
	if n := c.dials.Load(); n != 1 {
		t.Errorf("the caller has connected %d times, want its connection kept", n)
	}
}

func TestSocketThatIsGoneFinishesItsCalls(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	stays := providerText{name: "stays", listen: dir + "/stays", keys: []string{keyText(kms, createKey(t, kms))}}
	goes := providerText{name: "goes", listen: dir + "/goes", keys: []string{keyText(kms, createKey(t, kms))}}
	f := runFiled(t, filing{dir: dir}, fileText("", stays, goes))
	f.ready()
	c := newCaller(t, goes.listen)
	c.seals()
	slow := kms.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Latency, Delay: time.Second})
	before := kms.Calls("Encrypt")
	running := make(chan error, 1)
	go func() {
		_, err := c.kms.Encrypt(context.Background(), &v2.EncryptRequest{Plaintext: plaintext()})
		running <- err
	}()
	testkit.Until(t, "KMS has the call", func() bool { return kms.Calls("Encrypt") > before })
	slow()
	f.loads(fileText("", stays))
	if exists(goes.listen) {
		t.Error("the socket is still there")
	}
	select {
	case err := <-running:
		t.Fatalf("the running call has ended (%v) before the socket was gone: the test shows nothing", err)
	default:
	}
	if err := <-running; err != nil {
		t.Errorf("the running call: %v, want it finished", err)
	}
	f.settled()
	if got := f.metric(`aws_encryption_provider_health{provider="goes",state="healthy"}`); got != "" {
		t.Errorf("the health of what is gone is %q, want no such series", got)
	}
	f.loads(fileText("", stays, goes)) // and back
	newCaller(t, goes.listen).seals()
}

func TestNewSocketThatIsHeldByAnotherProcess(t *testing.T) {
	t.Parallel()
	_, p, f := runOne(t, "")
	c := newCaller(t, p.listen)
	before := c.keyID()
	held := holding(t, f.dir+"/held")
	free := providerText{name: "free", listen: f.dir + "/new/sub/free", keys: p.keys}
	taken := providerText{name: "taken", listen: f.dir + "/held", keys: p.keys}
	text := fileText("", p, free, taken)
	f.refuses(text, fmt.Sprintf("listening on %s/held: the process with pid %d serves it; stop that process, or give this one another listen", f.dir, held.PID()))
	if c.keyID() != before || len(f.current.Load().providers) != 1 {
		t.Error("the running configuration does not go on")
	}
	testkit.Until(t, "nothing is left of the attempt", func() bool { return !exists(f.dir + "/new") })
	if pid, live := holder(context.Background(), f.dir+"/held"); !live || pid != held.PID() {
		t.Errorf("holder is %d (%t), want still %d", pid, live, held.PID())
	}
	held.Leave()
	f.loaded(text) // without a change of the file
	for _, path := range []string{free.listen, taken.listen, p.listen} {
		newCaller(t, path).keyID()
	}
}

func TestNewSocketWhoseDirectoryCannotBeMade(t *testing.T) {
	t.Parallel()
	_, p, f := runOne(t, "")
	other := providerText{name: "other", listen: f.file + "/s", keys: p.keys}
	f.refuses(fileText("", p, other), "listening on "+f.file+"/s: ")
	newCaller(t, p.listen).keyID()
	if got := f.metric("aws_encryption_provider_config_reload_success"); got != "0" {
		t.Errorf("config_reload_success is %q, want 0", got)
	}
	f.loads(fileText("", p))
	if got := f.metric("aws_encryption_provider_config_reload_success"); got != "1" {
		t.Errorf("config_reload_success is %q, want 1", got)
	}
}

// A waiting daemon has a provider that is served, and one whose socket another
// process holds.
type waiting struct {
	*filed

	kms      *kmstest.Server
	held     *testkit.Process
	p, waits providerText
}

func runWaiting(t *testing.T) waiting {
	t.Helper()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	held := holding(t, dir+"/held")
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	waits := providerText{name: "waits", listen: dir + "/held", keys: p.keys}
	timing := shortTiming()
	timing.holderWait = 10 * testkit.Patience
	f := runFiled(t, filing{dir: dir, time: timing}, fileText("", p, waits))
	testkit.Until(t, "it waits", func() bool { return f.log.Has("waiting for its holder") })
	return waiting{f, kms, held, p, waits}
}

func TestReloadWhileASocketIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := runWaiting(t)
	w.waits.keys = []string{keyText(w.kms, createKey(t, w.kms)), w.waits.keys[0]}
	w.loads(fileText("socket: {mode: \"0660\"}\n", w.p, w.waits))
	w.held.Leave()
	newCaller(t, w.waits.listen).seals()
	if got := testkit.Permissions(t, w.waits.listen); got != 0o660 {
		t.Errorf("made with mode %04o, want 0660", got)
	}
	<-w.Serving()
	again := holding(t, w.dir+"/2")
	q := providerText{name: "q", listen: w.dir + "/2", keys: w.p.keys}
	w.refuses(fileText("", w.p, q), "serves it")
	again.Leave()
	w.loaded(fileText("", w.p, q))
}

func TestSocketThatIsGoneIsNoLongerWaitedFor(t *testing.T) {
	t.Parallel()
	w := runWaiting(t)
	w.loads(fileText("", w.p))
	w.settled()
	<-w.Serving()
	w.ready()
	select {
	case err := <-w.Failed():
		t.Errorf("failed: %v", err)
	default:
	}
	if pid, live := holder(context.Background(), w.dir+"/held"); !live || pid != w.held.PID() {
		t.Errorf("holder is %d (%t), want still %d", pid, live, w.held.PID())
	}
}
