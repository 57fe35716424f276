package provider_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A witness is KMS as one Key calls it. It notes what that Key was answered, which
// is all that the Key's record may know.
type witness struct {
	*tellingKMS

	seenMu      sync.Mutex
	everRefused bool
	seen        map[string]outcome   // operation and ARN
	broken      map[string]time.Time // ARN → when what was sealed did not open, the first time since KMS seals otherwise
}

// An outcome is what calls of one operation under one key came to.
type outcome struct {
	ok      time.Time // the last success
	refused time.Time // the first refusal since; zero: there was none
}

func newWitness(f *tellingKMS) *witness {
	return &witness{tellingKMS: f, seen: map[string]outcome{}, broken: map[string]time.Time{}}
}

func (w *witness) Encrypt(ctx context.Context, key string, plaintext secret.Bytes) (awskms.Sealed, error) {
	sealed, err := asCaller(ctx, func(ctx context.Context) (awskms.Sealed, error) { return w.tellingKMS.Encrypt(ctx, key, plaintext) })
	if err == nil {
		key = sealed.KeyARN
	}
	w.note(ctx, "Encrypt "+key, err)
	return sealed, err
}

func (w *witness) Decrypt(ctx context.Context, key string, blob []byte) (awskms.Opened, error) {
	opened, err := asCaller(ctx, func(ctx context.Context) (awskms.Opened, error) { return w.tellingKMS.Decrypt(ctx, key, blob) })
	if err == nil {
		key = opened.KeyARN
	}
	w.note(ctx, "Decrypt "+key, err)
	if err != nil && string(blob) == garbledBlob && cause.ClassOf(err) == cause.BadData {
		w.seenMu.Lock()
		defer w.seenMu.Unlock()
		if w.broken[key].IsZero() {
			w.broken[key] = time.Now()
		}
	}
	return opened, err
}

// A callersContext is in the context of what a caller of the provider asks.
type callersContext struct{}

// asCaller makes a call. The client of KMS leaves behind what hangs: here it does so
// for callers alone, so that what hangs for checks is theirs to leave behind.
func asCaller[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	if ctx.Value(callersContext{}) == nil {
		return call(ctx)
	}
	out, err := bounded.Do(ctx, nil, bounded.Call, call)
	if _, left := errors.AsType[*bounded.AbandonedError](err); left {
		return out, &cause.Error{Code: cause.TimedOut}
	}
	return out, err
}

// note notes a call, unless nobody waits for it any more.
func (w *witness) note(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	w.everRefused = w.everRefused || err != nil && cause.ClassOf(err) == cause.Refused
	o := w.seen[what]
	switch {
	case err == nil:
		o = outcome{ok: time.Now()}
	case cause.ClassOf(err) == cause.Refused && o.refused.IsZero():
		o.refused = time.Now()
	}
	w.seen[what] = o
}

func (w *witness) of(what string) outcome {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	return w.seen[what]
}

func (w *witness) brokenAt(arn string) time.Time {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	return w.broken[arn]
}

// firstRefusal returns the earliest refusal that no success has ended.
func (w *witness) firstRefusal(arn string) time.Time {
	first := w.of("Encrypt " + arn).refused
	if d := w.of("Decrypt " + arn).refused; first.IsZero() || !d.IsZero() && d.Before(first) {
		return d
	}
	return first
}

// wasRefused reports whether the key was ever refused anything.
func (w *witness) wasRefused() bool {
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	return w.everRefused
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

// A stateFile is what lies on the disk while processes come and go.
type stateFile struct {
	mu     sync.Mutex
	kept   *provider.Known
	config string // that it is of
	full   bool   // nothing can be written
}

func (f *stateFile) read() (kept *provider.Known, config string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kept, f.config
}

func (f *stateFile) setFull(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

// When a process is killed as its file is about to say another key_id.
const (
	atNoWrite = iota
	beforeTheWrite
	afterTheWrite
)

// A mortal is the memory of one process with one configuration. What a process does
// that was killed changes nothing.
type mortal struct {
	*process

	file   *stateFile
	config string
}

func (m *mortal) Keep(k provider.Known) error {
	m.file.mu.Lock()
	defer m.file.mu.Unlock()
	dies := m.file.kept != nil && m.file.kept.KeyID != k.KeyID && m.killAt != atNoWrite && !m.dead.Load()
	if dies && m.killAt == beforeTheWrite {
		m.dead.Store(true)
	}
	switch {
	case m.dead.Load():
		return nil
	case m.file.full:
		return errors.New("no space left on device")
	}
	m.file.kept, m.file.config = &k, m.config
	if dies {
		m.wrote = true
		m.dead.Store(true)
	}
	return nil
}

func (m *mortal) Erase() error {
	m.file.mu.Lock()
	defer m.file.mu.Unlock()
	if !m.dead.Load() {
		m.file.kept = nil
	}
	return nil
}
