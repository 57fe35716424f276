package keyring

import (
	"context"
	"sync"
	"time"
)

// written is what the write key writes: its sight, with the key_id of it.
type written struct {
	*sight

	keyID string
}

// written returns nil as long as this process has not encrypted and decrypted
// under the write key: there is no key_id before.
func (p *Provider) written() *written {
	s := p.write.sight.Load()
	if s == nil || !s.seen {
		return nil
	}
	if w := p.current.Load(); w != nil && w.sight == s {
		return w
	}
	state := s.state
	state.Epoch = p.opts.Epoch
	w := &written{sight: s, keyID: state.String()}
	p.current.Store(w)
	return w
}

// keyID returns the key_id, "" before there is one.
func (p *Provider) keyID() string {
	if w := p.written(); w != nil {
		return w.keyID
	}
	return ""
}

// answers are the key_ids that callers were told, over all the providers that
// replaced one another under one name.
type answers struct {
	mu         sync.Mutex
	generation int // of the provider that told last
	last       string
	told       map[string]bool
	newest     map[string]string // key material that was told last, by [keyref.State].Key
	left       map[material]bool // that was told before that
	inherited  inherited
}

// A material is one of a key's, in whatever Region that is called.
type material struct{ key, id string }

func newAnswers() *answers {
	return &answers{told: map[string]bool{}, newest: map[string]string{}, left: map[material]bool{}}
}

// answer notes that a caller is told a key_id, and says in the log when it is
// another one than before.
func (p *Provider) answer(ctx context.Context, w *written) {
	if p.answered.Load() == w {
		return
	}
	p.keeper.answering.Lock()
	defer p.keeper.answering.Unlock()
	was, again := p.said.note(p.generation, w, func() bool { return p.written() == w })
	if was != w.keyID && p.keeper.memory != nil { // before any caller knows: the process may be killed at once
		p.keep(ctx, w, p.verdict().lastOK)
	}
	p.answered.Store(w)
	switch {
	case was == w.keyID:
	case was == "":
		p.log.InfoContext(ctx, "key_id is known", "key", p.write.config.Name, "key_arn", w.arn, "key_id", w.keyID)
	case again:
		p.log.WarnContext(ctx, "key_id is one that was left before: API servers take what they wrote under it for fresh; another epoch of the provider makes them write all of it anew",
			"key_id", w.keyID, "was", was)
	default:
		p.log.WarnContext(ctx, "key_id changed: API servers take a new DEK seed, and what they stored before is to be rewritten", "key_id", w.keyID, "was", was)
	}
}

// note returns what was told before, and whether w was told before that. A
// call that ends after a change tells nothing new: neither an older provider's
// nor one of a state that is no longer current.
func (a *answers) note(generation int, w *written, current func() bool) (was string, again bool) {
	keyID, now := w.keyID, material{w.state.Key, w.state.Material}
	a.mu.Lock()
	defer a.mu.Unlock()
	if generation < a.generation || !current() {
		return keyID, false
	}
	was, again = a.last, a.told[keyID]
	a.generation, a.last = generation, keyID
	a.told[keyID] = true
	if before := a.newest[now.key]; before != "" && before != now.id {
		a.left[material{now.key, before}] = true
	}
	if now.id != "" {
		a.newest[now.key] = now.id
	}
	return was, again && was != keyID
}

// onward returns the material that one which was seen comes to for callers who
// were told of newer one of that key, or of any: they are not led back, also where
// a key was configured anew or an alias has returned to it.
func (a *answers) onward(seen material) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	newest := a.newest[seen.key]
	if seen.id == "" || a.left[seen] || !a.inherited.replacedBy(seen, newest, time.Now()) {
		return newest
	}
	return seen.id
}
