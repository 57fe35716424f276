package model

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// The keys that there are, the alias that names one of them, and a key of another
// account.
const (
	KeyA  = "arn:aws:kms:us-west-2:111122223333:key/aaaaaaaa-0000-0000-0000-000000000000"
	KeyB  = "arn:aws:kms:us-west-2:111122223333:key/bbbbbbbb-0000-0000-0000-000000000000"
	KeyC  = "arn:aws:kms:us-west-2:111122223333:key/cccccccc-0000-0000-0000-000000000000"
	Alias = "alias/K8sKMSKey"

	alien = "arn:aws:kms:us-west-2:999999999999:key/dddddddd-0000-0000-0000-000000000000"
	// garbledBlob is what KMS seals while it is garbled. No key opens it.
	garbledBlob = "garbled"
)

func arns() []string { return []string{KeyA, KeyB, KeyC} }

// KMS is what is true of AWS KMS: keys with their material and state, where the alias
// leads, and how calls fail. A process sees it through a [Client]. Its blobs are
// "ARN#material|plaintext", so that whoever judges can read them. It is safe for
// concurrent use.
type KMS struct {
	blind bool // dry runs do not see the state of a key
	shut  bool // nobody may describe a key

	mu       sync.Mutex
	target   string                // ARN that the alias names
	inTurn   string                // ARN that it names at every other call: its move is not known everywhere yet; "": it is
	asked    int                   // how often the alias was asked by name
	material map[string]string     // ARN → what seals
	fails    map[string]cause.Code // "Encrypt ARN", "Decrypt ARN" → how
	states   map[string]string     // ARN → what DescribeKey says; missing: Enabled
	hung     map[string]bool       // operations whose calls get no answer
	released chan struct{}         // closed when they do; nil: none is hung
	garbled  bool                  // what is sealed does not open
	clients  map[string]*Client
}

// NewKMS returns a KMS in which all is well.
func NewKMS() *KMS { return newKMS(false, false) }

func newKMS(blind, shut bool) *KMS {
	k := &KMS{
		blind: blind, shut: shut, target: KeyA, material: map[string]string{}, fails: map[string]cause.Code{},
		states: map[string]string{}, clients: map[string]*Client{},
	}
	for _, arn := range arns() {
		k.material[arn] = "m1"
	}
	return k
}

// Client returns KMS as one key of a process calls it, by the name that the model gave
// that key.
func (k *KMS) Client(who string) *Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.clients[who]
	if c == nil {
		c = &Client{kms: k}
		c.forget()
		k.clients[who] = c
	}
	return c
}

// each does something with all that there are.
func (k *KMS) each(do func(*Client)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.clients {
		do(c)
	}
}

// rotate makes a key seal with other material.
func (k *KMS) rotate(arn, material string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.material[arn] = material
}

// moveAlias makes the alias name a key, and besides the one before where that is not
// known everywhere yet.
func (k *KMS) moveAlias(arn string, inTurn bool) (before string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before = k.target
	k.target, k.inTurn = arn, ""
	if inTurn {
		k.inTurn = before
	}
	return before
}

// propagate makes the alias's move known everywhere.
func (k *KMS) propagate() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.inTurn = ""
}

// fail makes an operation of a key fail, which is in no state that would say so.
func (k *KMS) fail(op, arn string, code cause.Code) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.states[arn] != "" {
		k.setLocked(arn, "")
	}
	k.fails[op+" "+arn] = code
}

// mend makes an operation of a key work.
func (k *KMS) mend(op, arn string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.fails, op+" "+arn)
}

// set puts a key in a state in which it does nothing, or in none, in which it works.
func (k *KMS) set(arn, state string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.setLocked(arn, state)
}

func (k *KMS) setLocked(arn, state string) {
	k.states[arn] = state
	for _, op := range []string{"Encrypt ", "Decrypt "} {
		switch state {
		case "Disabled":
			k.fails[op+arn] = cause.KeyDisabled
		case "PendingDeletion":
			k.fails[op+arn] = cause.KeyPendingDeletion
		default:
			delete(k.fails, op+arn)
		}
	}
}

// garble makes what is sealed from now on not open, or open again.
func (k *KMS) garble(garbled bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.garbled = garbled
}

// hang makes calls of some operations get no answer, until release.
func (k *KMS) hang(ops ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.released, k.hung = make(chan struct{}), map[string]bool{}
	for _, op := range ops {
		k.hung[op] = true
	}
}

// release lets calls that hang go on, as things are now.
func (k *KMS) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.released)
	k.released, k.hung = nil, nil
}

// trouble is how an operation of a key fails, false where it works.
func (k *KMS) trouble(op, arn string) (cause.Code, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	code, fails := k.fails[op+" "+arn]
	return code, fails
}

// refused are the keys that are refused something.
func (k *KMS) refused() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var refused []string
	for what, code := range k.fails {
		if _, arn, _ := strings.Cut(what, " "); code.Info().Class == cause.Refused {
			refused = append(refused, arn)
		}
	}
	return refused
}

// A Client is KMS as one key of a process calls it. It notes what that key was
// answered, which is all that the key's health may know. Errors are [cause.Error]s. It
// is safe for concurrent use.
type Client struct {
	kms *KMS
	witness
}

// Sealed is what Encrypt answers.
type Sealed struct {
	Blob []byte
	ARN  string
}

// Opened is what Decrypt answers.
type Opened struct {
	Plaintext     []byte
	ARN, Material string
}

// Description is what DescribeKey answers.
type Description struct {
	ARN, State string
	Deletion   time.Time // zero: none is scheduled
}

// Encrypt seals.
func (c *Client) Encrypt(ctx context.Context, key string, plaintext []byte) (Sealed, error) {
	arn, err := c.kms.begin(ctx, "Encrypt", key)
	c.note(ctx, "Encrypt", arn, err)
	if err != nil {
		return Sealed{}, err
	}
	c.kms.mu.Lock()
	defer c.kms.mu.Unlock()
	if c.kms.garbled {
		return Sealed{Blob: []byte(garbledBlob), ARN: arn}, nil
	}
	return Sealed{Blob: blobOf(arn+"#"+c.kms.material[arn], plaintext), ARN: arn}, nil
}

func blobOf(by string, plaintext []byte) []byte { return append([]byte(by+"|"), plaintext...) }

// Decrypt opens a blob with a key; "": with whichever made it.
func (c *Client) Decrypt(ctx context.Context, key string, blob []byte) (Opened, error) {
	arn, err := c.kms.begin(ctx, "Decrypt", key)
	var o Opened
	if err == nil {
		o, err = c.kms.open(arn, key, blob)
	}
	if err == nil {
		key = o.ARN
	}
	c.note(ctx, "Decrypt", key, err)
	if err != nil && string(blob) == garbledBlob && cause.ClassOf(err) == cause.BadData {
		c.noteBroken(key)
	}
	return o, err
}

func (k *KMS) open(arn, key string, blob []byte) (Opened, error) {
	by, plaintext, ok := bytes.Cut(blob, []byte("|"))
	madeBy, material, _ := strings.Cut(string(by), "#")
	switch code, fails := k.trouble("Decrypt", madeBy); {
	case !ok:
		return Opened{}, &cause.Error{Code: cause.CiphertextInvalid, Op: "Decrypt", Key: key}
	case key != "" && madeBy != arn:
		return Opened{}, &cause.Error{Code: cause.NoKeyMadeIt, Op: "Decrypt", Key: key}
	case key == "" && fails:
		return Opened{}, &cause.Error{Code: code, Op: "Decrypt"}
	}
	return Opened{Plaintext: bytes.Clone(plaintext), ARN: madeBy, Material: material}, nil
}

// MayDecrypt is a dry run of Decrypt without a ciphertext.
func (c *Client) MayDecrypt(ctx context.Context, key string) error {
	_, err := c.kms.begin(ctx, "Decrypt", key)
	if err != nil && c.kms.blind && cause.Of(err).Code.OfKeyState() {
		return nil
	}
	return err
}

// DescribeKey tells a key's state.
func (c *Client) DescribeKey(ctx context.Context, key string) (Description, error) {
	k := c.kms
	arn, err := k.begin(ctx, "DescribeKey", key)
	if err != nil {
		return Description{}, err
	}
	if k.shut {
		return Description{}, &cause.Error{Code: cause.AccessDenied, Op: "DescribeKey", Key: key}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := Description{ARN: arn, State: "Enabled"}
	if s := k.states[arn]; s != "" {
		d.State = s
	}
	if d.State == "PendingDeletion" {
		d.Deletion = time.Now().Add(7 * 24 * time.Hour)
	}
	return d, nil
}

// begin waits as long as the call hangs, and returns the ARN of its key, or how it fails.
// With the error comes the key's name.
func (k *KMS) begin(ctx context.Context, op, key string) (string, error) {
	if err := k.wait(ctx, op); err != nil {
		return key, &cause.Error{Code: cause.TimedOut, Op: op, Key: key}
	}
	switch err := ctx.Err(); {
	case errors.Is(err, context.Canceled):
		return key, &cause.Error{Code: cause.CallerLeft, Op: op, Key: key}
	case err != nil:
		return key, &cause.Error{Code: cause.TimedOut, Op: op, Key: key}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	arn := key
	if key == Alias {
		arn = k.target
		if k.asked++; k.inTurn != "" && k.asked%2 == 0 {
			arn = k.inTurn
		}
	}
	if code, fails := k.fails[op+" "+arn]; fails {
		return key, &cause.Error{Code: code, Op: op, Key: key, AWSCode: "TestException", RequestID: "r-1"}
	}
	return arn, nil
}

// ignoring is the context key of a caller that waits for a call whatever its context
// says.
type ignoring struct{}

// Ignoring makes calls that hang ignore the context.
func Ignoring(ctx context.Context) context.Context { return context.WithValue(ctx, ignoring{}, true) }

func (k *KMS) wait(ctx context.Context, op string) error {
	k.mu.Lock()
	released := k.released
	hangs := k.hung[op]
	k.mu.Unlock()
	if !hangs {
		return nil
	}
	if ctx.Value(ignoring{}) != nil {
		<-released
		return nil
	}
	select {
	case <-released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A witness is what one key was answered.
type witness struct {
	seenMu      sync.Mutex
	everRefused bool
	seen        map[string]outcome   // operation and ARN, or the name that was asked where it failed
	broken      map[string]time.Time // ARN → when what was sealed did not open, the first time since KMS seals otherwise
}

// An outcome is what calls of one operation under one key came to.
type outcome struct {
	ok      time.Time // the last success
	refused time.Time // the first refusal since; zero: there was none
}

// note notes a call, unless nobody waits for it any more.
func (w *witness) note(ctx context.Context, op, key string, err error) {
	if ctx.Err() != nil {
		return
	}
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	w.everRefused = w.everRefused || err != nil && cause.ClassOf(err) == cause.Refused
	o := w.seen[op+" "+key]
	switch {
	case err == nil:
		o = outcome{ok: time.Now()}
	case cause.ClassOf(err) == cause.Refused && o.refused.IsZero():
		o.refused = time.Now()
	}
	w.seen[op+" "+key] = o
}

func (w *witness) noteBroken(arn string) {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	if w.broken[arn].IsZero() {
		w.broken[arn] = time.Now()
	}
}

func (w *witness) of(op, key string) outcome {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	return w.seen[op+" "+key]
}

func (w *witness) brokenAt(arn string) time.Time {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	return w.broken[arn]
}

// firstRefusal returns the earliest refusal that no success has ended.
func (w *witness) firstRefusal(key string) time.Time {
	first := w.of("Encrypt", key).refused
	if d := w.of("Decrypt", key).refused; first.IsZero() || !d.IsZero() && d.Before(first) {
		return d
	}
	return first
}

// worked reports whether any call succeeded, which may have shown what the key's name
// stands for.
func (w *witness) worked() bool {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	for _, o := range w.seen {
		if !o.ok.IsZero() {
			return true
		}
	}
	return false
}

// wasRefused reports whether the key was ever refused anything.
func (w *witness) wasRefused() bool {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	return w.everRefused
}

// forget is the end of the process: its keys know nothing.
func (w *witness) forget() {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	w.everRefused, w.seen, w.broken = false, map[string]outcome{}, map[string]time.Time{}
}

// forgetRefusals is a pause of the process: what was not confirmed is counted again.
func (w *witness) forgetRefusals() {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	for what, o := range w.seen {
		w.seen[what] = outcome{ok: o.ok}
	}
	clear(w.broken)
}

func (w *witness) forgetBroken() {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	clear(w.broken)
}
