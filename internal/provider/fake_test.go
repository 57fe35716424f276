package provider_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	keyA   = "arn:aws:kms:us-west-2:111122223333:key/aaaaaaaa-0000-0000-0000-000000000000"
	keyB   = "arn:aws:kms:us-west-2:111122223333:key/bbbbbbbb-0000-0000-0000-000000000000"
	keyC   = "arn:aws:kms:us-west-2:111122223333:key/cccccccc-0000-0000-0000-000000000000"
	alien  = "arn:aws:kms:us-west-2:999999999999:key/dddddddd-0000-0000-0000-000000000000"
	abroad = "arn:aws:kms:eu-west-1:111122223333:key/eeeeeeee-0000-0000-0000-000000000000"
	mrk    = "arn:aws:kms:us-west-2:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
	alias  = "alias/K8sKMSKey"

	garbledBlob = "garbled" // which no key opens
)

// fakeKMS is a KMS without a wire: keys, an alias that can be moved, key material
// that can be rotated, and failures by operation and key. Its blobs are
// "ARN|plaintext", or "ARN#material|plaintext".
type fakeKMS struct {
	mu      sync.Mutex
	aliases map[string]string          // alias → ARN
	inTurn  []string                   // what the alias names besides, each at every other call: a move that is not known everywhere yet
	asked   int                        // how often the alias was asked by name
	current map[string]string          // ARN → material; missing: KMS names none
	fails   map[string]error           // "Encrypt ARN", "Decrypt ARN" or "Decrypt" for all → what it answers
	inject  func(op, arn string) error // nil: nothing more fails
	delay   time.Duration
	stuck   map[string]chan struct{} // "Encrypt", or "Encrypt NAME" → closed when such calls go on, which ignore their context until then
	garbled bool                     // what is sealed does not open
	calls   []string
}

func newFake() *fakeKMS {
	return &fakeKMS{aliases: map[string]string{alias: keyA}, current: map[string]string{}, fails: map[string]error{}}
}

// rotate makes a key encrypt with other material; "" is a KMS that names none.
func (f *fakeKMS) rotate(arn, material string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current[arn] = material
}

func (f *fakeKMS) fail(what string, code cause.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails[what] = &cause.Error{Code: code, AWSCode: "TestException", RequestID: "r-1"}
}

// failOnce makes the next call of an operation fail, and no other.
func (f *fakeKMS) failOnce(op string, code cause.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inject = func(called, _ string) error { // under the lock
		if called != op {
			return nil
		}
		f.inject = nil
		return &cause.Error{Code: code}
	}
}

func (f *fakeKMS) mend(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.fails, what)
}

func (f *fakeKMS) hang(delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = delay
}

// stick makes calls ignore their context, and never return until they are
// released. Then each goes on as any other.
func (f *fakeKMS) stick(what ...string) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stuck := make(chan struct{})
	f.stuck = map[string]chan struct{}{}
	for _, calls := range what {
		f.stuck[calls] = stuck
	}
	return sync.OnceFunc(func() {
		f.mu.Lock()
		f.stuck = nil
		f.mu.Unlock()
		close(stuck)
	})
}

// garble makes what is sealed from now on not open, or open again.
func (f *fakeKMS) garble(garbled bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.garbled = garbled
}

// moveAlias makes the alias, which names key A at first, name key B.
func (f *fakeKMS) moveAlias() { f.moveAliasTo(keyB) }

func (f *fakeKMS) moveAliasTo(arn string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aliases[alias] = arn
}

// answerInTurn makes the alias name earlier keys at every other call, none to end
// that.
func (f *fakeKMS) answerInTurn(arns ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inTurn = arns
}

// ending ends a context as late as the caller of a call bears.
func ending(ctx context.Context, within awskms.Call) (context.Context, context.CancelFunc) {
	if within.By.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, within.By.Add(awskms.Reply))
}

// begin notes a call and returns the key's ARN, or how it fails.
func (f *fakeKMS) begin(ctx context.Context, within awskms.Call, op, key string) (string, error) {
	f.mu.Lock()
	f.calls = append(f.calls, strings.TrimSpace(op+" "+key))
	stuck, ok := f.stuck[op+" "+key]
	if !ok {
		stuck = f.stuck[op]
	}
	f.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	f.mu.Lock()
	delay := f.delay
	arn := key
	if to, ok := f.aliases[key]; ok {
		arn = to
		if f.asked++; len(f.inTurn) > 0 && f.asked%2 == 0 {
			arn = f.inTurn[f.asked/2%len(f.inTurn)]
		}
	}
	err := f.fails[op+" "+arn]
	if err == nil {
		err = f.fails[op]
	}
	if err == nil && f.inject != nil {
		err = f.inject(op, arn)
	}
	f.mu.Unlock()
	ctx, cancel := ending(ctx, within)
	defer cancel()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return "", &cause.Error{Code: cause.CallerLeft, Op: op, Key: key}
	case ctx.Err() != nil:
		return "", &cause.Error{Code: cause.TimedOut, Op: op, Key: key}
	}
	if err != nil {
		e := *cause.Of(err)
		e.Op, e.Key = op, key
		return "", &e
	}
	return arn, nil
}

func (f *fakeKMS) Encrypt(ctx context.Context, within awskms.Call, key string, plaintext secret.Bytes) (awskms.Sealed, error) {
	arn, err := f.begin(ctx, within, "Encrypt", key)
	if err != nil {
		return awskms.Sealed{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	by := arn
	if material := f.current[arn]; material != "" {
		by += "#" + material
	}
	if f.garbled {
		return awskms.Sealed{Blob: []byte(garbledBlob), KeyARN: keyref.ARN(arn), RequestID: "r-9"}, nil
	}
	return awskms.Sealed{Blob: blobOf(by, string(plaintext)), KeyARN: keyref.ARN(arn), RequestID: "r-9"}, nil
}

func (f *fakeKMS) Decrypt(ctx context.Context, within awskms.Call, key string, blob []byte) (awskms.Opened, error) {
	arn, err := f.begin(ctx, within, "Decrypt", key)
	if err != nil {
		return awskms.Opened{}, err
	}
	by, plaintext, ok := bytes.Cut(blob, []byte("|"))
	madeBy, material, _ := strings.Cut(string(by), "#")
	refuse := func(code cause.Code) (awskms.Opened, error) {
		return awskms.Opened{}, &cause.Error{Code: code, Op: "Decrypt", Key: key}
	}
	switch {
	case !ok:
		return refuse(cause.CiphertextInvalid)
	case key != "" && madeBy != arn:
		return refuse(cause.NoKeyMadeIt)
	case key == "":
		f.mu.Lock()
		err := f.fails["Decrypt "+madeBy]
		f.mu.Unlock()
		if err != nil {
			e := *cause.Of(err)
			e.Op = "Decrypt"
			return awskms.Opened{}, &e
		}
	}
	return awskms.Opened{Plaintext: bytes.Clone(plaintext), KeyARN: keyref.ARN(madeBy), Material: material, RequestID: "r-8"}, nil
}

// inContext is the fake as it is called with an encryption context.
type inContext struct {
	*fakeKMS

	context string
}

func (c inContext) Encrypt(ctx context.Context, within awskms.Call, key string, plaintext secret.Bytes) (awskms.Sealed, error) {
	return c.fakeKMS.Encrypt(ctx, within, key, append([]byte(c.context+"~"), plaintext...))
}

func (c inContext) Decrypt(ctx context.Context, within awskms.Call, key string, blob []byte) (awskms.Opened, error) {
	opened, err := c.fakeKMS.Decrypt(ctx, within, key, blob)
	if err != nil {
		return opened, err
	}
	plaintext, ok := bytes.CutPrefix(opened.Plaintext, []byte(c.context+"~"))
	if !ok {
		return awskms.Opened{}, &cause.Error{Code: cause.CiphertextInvalid, Op: "Decrypt", Key: key}
	}
	opened.Plaintext = plaintext
	return opened, nil
}

// taken returns the calls since it was last called.
func (f *fakeKMS) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func blobOf(arn, plaintext string) []byte { return []byte(arn + "|" + plaintext) }

// stored is what an API server read out of etcd.
func stored(arn, plaintext, keyID string) keyring.Stored {
	return keyring.Stored{Ciphertext: append([]byte("1"), blobOf(arn, plaintext)...), KeyID: keyID}
}

type ringOptions struct {
	write  string
	read   []string
	epoch  uint32
	grace  time.Duration
	log    io.Writer
	called cause.Names

	timeout time.Duration // of a call of KMS; 0: the default

	before  *provider.Provider
	history *provider.History
	memory  provider.Memory
	known   *provider.Known
	waits   *bounded.Observer
	pauses  *bounded.Pauses
}

func newRing(f *fakeKMS, o ringOptions) *provider.Provider {
	if o.write == "" {
		o.write = keyA
	}
	keys := []*kmskey.Key{newKey(f, o.write)}
	for _, name := range o.read {
		keys = append(keys, newKey(f, name))
	}
	return ringOf(o, keys...)
}

func newKey(f *fakeKMS, name string) *kmskey.Key {
	return kmskey.New(kmskey.Config{Name: name, KMS: f})
}

func ringOf(o ringOptions, keys ...*kmskey.Key) *provider.Provider {
	if o.timeout == 0 {
		o.timeout = 2500 * time.Millisecond
	}
	return provider.New(provider.Options{
		Name: "0", Keys: keys, Epoch: o.epoch, Before: o.before, History: o.history,
		Memory: o.memory, Known: o.known, Waits: o.waits, Pauses: o.pauses,
		Timeout: o.timeout, OutageGrace: o.grace, Called: o.called,
		Log: ringLog(o.log),
	})
}

// ringWithHistory is a provider of a name that was removed and is configured again.
func ringWithHistory(h *provider.History, keys ...*kmskey.Key) *provider.Provider {
	return ringOf(ringOptions{history: h}, keys...)
}

// ringLog is a log that is written to w, nil for nowhere.
func ringLog(w io.Writer) *slog.Logger {
	if w == nil {
		w = io.Discard
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// running starts the ring's checks until the test, or its bubble, ends.
func running(t *testing.T, p *provider.Provider) {
	t.Helper()
	t.Cleanup(stoppable(t, p))
}

// stoppable starts the ring's checks, and returns what ends them.
func stoppable(t *testing.T, p *provider.Provider) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

func code(err error) string {
	if err == nil {
		return "none"
	}
	return fmt.Sprintf("%s (%v)", cause.Of(err).Code, err)
}
