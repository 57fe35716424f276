package provider

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// Known is what a provider knows of its write key that outlives the process.
type Known struct {
	KeyID    string // that callers were told last
	KeyARN   keyref.ARN
	Material string    // "": KMS names none
	Left     []string  // material of the key that callers were told to leave, the newest first
	LeftKeys []LeftKey // that the alias which writes rests from
	LastOK   time.Time // when the key last encrypted and decrypted
}

// A LeftKey is one that an alias has left a short while ago.
type LeftKey struct {
	Key keyref.ID
	At  time.Time
}

// A Memory keeps what a provider knows over a restart of the process. Its methods
// are not called at the same time, unless one has ignored its limit. Both return
// soon, and an error is said in the log once.
type Memory interface {
	// Keep replaces what was kept.
	Keep(known Known) error
	// Erase forgets it. Where nothing was kept it returns nil.
	Erase() error
}

// A keeper keeps what one provider knows. It is safe for concurrent use.
type keeper struct {
	memory Memory
	before *before       // shared by all providers of this process with the same key_id
	erase  chan struct{} // holds one request
	redo   chan struct{} // holds one: an operation could not begin, and can now

	answering sync.Mutex // held while a caller's answer makes the memory change

	mu     sync.Mutex
	busy   bool      // a write is under way, or was left behind
	missed bool      // another operation could not begin meanwhile
	kept   string    // key_id that is kept, as far as is known; "": none
	lastOK time.Time // that was kept last
	warned bool
}

// before is what the process before knew, and why this one has to speak for it. It is
// safe for concurrent use.
type before struct {
	known atomic.Pointer[Known]   // nil: nothing that counts
	last  atomic.Pointer[failure] // of the write key in this process; nil: none
}

// A failure is kept beside the record, which begins to count again after a pause.
type failure struct {
	err *cause.Error
	at  time.Time
}

func newKeeper(o Options) *keeper {
	k := &keeper{memory: o.Memory, before: new(before), erase: make(chan struct{}, 1), redo: make(chan struct{}, 1)}
	if b := o.Before; b != nil && b.write == o.Keys[0] && b.opts.Epoch == o.Epoch { // the key_id is the same
		k.before = b.keeper.before
	}
	if o.Known != nil {
		k.before.known.Store(o.Known)
		k.kept = o.Known.KeyID
	}
	return k
}

// knows reports whether a key is the one that the process before wrote with: also as a
// key that reads, where its alias names another one by now.
func (k *keeper) knows(key *kmskey.Key) bool {
	known := k.before.known.Load()
	return known != nil && key.StandsFor(known.KeyARN)
}

// refused makes the process and the file forget what was known: a refused key may
// never be told as one that works.
func (k *keeper) refused() {
	k.before.known.Store(nil)
	select {
	case k.erase <- struct{}{}:
	default: // it will be
	}
}

// keepKnown writes what is known while the key works, until ctx ends.
func (p *Provider) keepKnown(ctx context.Context) {
	if p.keeper.memory == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-p.concluded:
	}
	p.reportInherited(ctx)
	ticker := time.NewTicker(p.timing.Keep)
	defer ticker.Stop()
	for {
		p.keepNow(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-p.keeper.erase:
			p.eraseKnown(ctx)
		case <-p.keeper.redo: // what was left behind may have written what is no longer so
			p.eraseKnown(ctx)
		}
	}
}

// reportInherited says that Status speaks for the process before, which no other line
// tells.
func (p *Provider) reportInherited(ctx context.Context) {
	v := p.verdict()
	if known := p.inherited(v); known != nil {
		p.log.WarnContext(ctx, "KMS has not been reached since the start: Status says what the process before knew",
			"key_id", known.KeyID, "last_ok", known.LastOK.UTC(), "status_ok_until", known.LastOK.Add(p.opts.OutageGrace).UTC())
	}
}

// keepNow writes what is known where callers were told of it, and the key has
// worked since the last write. Only the provider that told callers last has a say: one
// that a reload replaced may still run for a while.
func (p *Provider) keepNow(ctx context.Context) {
	v, w := p.verdict(), p.written()
	if !v.Contacted || v.Suspect || w != p.answered.Load() || !p.history.isNewest(p.generation) || !p.keeper.isNews(v.LastOK) {
		return
	}
	p.keep(ctx, w, v.LastOK)
}

// keep replaces what is kept. What cannot be replaced is erased, unless it names the
// same key_id: callers were told to leave any other.
func (p *Provider) keep(ctx context.Context, w *written, lastOK time.Time) {
	known := Known{
		KeyID: w.keyID, KeyARN: w.ARN, Material: w.State.Material, Left: p.history.leftBy(w.State.Key),
		LeftKeys: p.history.leftKeys(p.write), LastOK: lastOK,
	}
	if p.remembered(ctx, func() error { return p.keeper.memory.Keep(known) }) {
		p.keeper.note(w.keyID, lastOK)
		return
	}
	if !p.keeper.keeps(w.keyID) {
		p.eraseKnown(ctx)
	}
}

func (p *Provider) eraseKnown(ctx context.Context) {
	if p.history.isNewest(p.generation) && p.remembered(ctx, p.keeper.memory.Erase) {
		p.keeper.note("", time.Time{})
	}
}

// remembered does one operation of the memory, and reports whether it was done. While one
// that ignores its limit is still under way there is no other.
func (p *Provider) remembered(ctx context.Context, operation func() error) bool {
	if !p.keeper.begin() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timing.KeepLimit)
	defer cancel()
	err := bounded.Run(ctx, p.opts.Waits, bounded.File, func(context.Context) error {
		defer p.keeper.end()
		return operation()
	})
	if p.keeper.warns(err) {
		p.log.WarnContext(ctx, "what is known of the key cannot be kept for the next start: after a restart in an outage of KMS, Status may be an error at once",
			"error", err.Error())
	}
	return err == nil
}

func (k *keeper) begin() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy {
		k.missed = true
		return false
	}
	k.busy = true
	return true
}

func (k *keeper) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.missed {
		select {
		case k.redo <- struct{}{}:
		default: // it will be
		}
	}
	k.busy, k.missed = false, false
}

func (k *keeper) note(keyID string, lastOK time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept, k.lastOK = keyID, lastOK
}

func (k *keeper) keeps(keyID string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept == keyID
}

func (k *keeper) isNews(lastOK time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return lastOK.After(k.lastOK)
}

// warns reports whether an outcome is worth a line: the first failure in a row.
func (k *keeper) warns(err error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.warned
	k.warned = err != nil
	return k.warned && !was
}

// inherited returns what the process before knew, where it counts: as long as this
// one has not reached KMS, and fails to by an outage or for want of credentials.
func (p *Provider) inherited(v evidence.Verdict) *Known {
	known := p.keeper.before.known.Load()
	if known == nil || v.Contacted {
		return nil
	}
	err, _ := p.whyInherited(v)
	if err == nil || err.Class() != cause.Outage && err.Class() != cause.Credentials {
		return nil
	}
	return known
}

// whyInherited returns why this process has not reached KMS, and since when. A pause
// leaves no failure that counts, and what failed before it is still all that is known.
func (p *Provider) whyInherited(v evidence.Verdict) (*cause.Error, time.Time) {
	if last := p.keeper.before.last.Load(); v.Err == nil && last != nil {
		return last.err, last.at
	}
	return v.Err, v.Since
}

// statusBefore is what the process before would say now: ok within the grace since
// the key last worked, then the outage, with the key_id that it told callers last.
// A text lets a running API server go on; an error would stop its writes.
func (p *Provider) statusBefore(known *Known, v evidence.Verdict) Status {
	if time.Now().Before(known.LastOK.Add(p.opts.OutageGrace)) {
		return Status{Healthz: OK, KeyID: known.KeyID}
	}
	err, at := p.whyInherited(v)
	return Status{KeyID: known.KeyID, Healthz: fmt.Sprintf(
		"since %s: %v", at.UTC().Format(time.RFC3339), p.named(err),
	)}
}

// seed takes what an earlier process told callers for told.
func (h *History) seed(k *kmskey.Key, known *Known) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told[known.KeyID] = true
	h.followLocked(k, known.KeyARN)
	if past := h.aliases[k.Alias()]; past != nil {
		for _, left := range known.LeftKeys {
			past.leftAt[left.Key] = left.At
		}
	}
	if known.Material == "" {
		return
	}
	key := known.KeyARN.ID()
	h.newest[key] = known.Material
	for _, id := range slices.Backward(known.Left) {
		h.leaveLocked(material{key, id})
	}
}

// mostLeft bounds what is kept of what was left: KMS answers with that of the last
// minutes only.
const mostLeft = 8

// leftBy returns which material of a key callers were told to leave, the newest first.
func (h *History) leftBy(key keyref.ID) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for m := range h.left {
		if m.key == key {
			ids = append(ids, m.id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return h.left[material{key, b}] - h.left[material{key, a}] })
	return ids[:min(len(ids), mostLeft)]
}

// leftKeys returns the keys that an alias still rests from.
func (h *History) leftKeys(k *kmskey.Key) []LeftKey {
	h.mu.Lock()
	defer h.mu.Unlock()
	past := h.aliases[k.Alias()]
	if !k.IsAlias() || past == nil {
		return nil
	}
	var keys []LeftKey
	for key, at := range past.leftAt {
		if time.Since(at) < h.timing.Rest {
			keys = append(keys, LeftKey{key, at})
		}
	}
	slices.SortFunc(keys, func(a, b LeftKey) int { return b.At.Compare(a.At) })
	return keys[:min(len(keys), mostLeft)]
}

// isNewest reports whether no later provider under this name has told a key_id.
func (h *History) isNewest(generation int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return generation >= h.generation
}
