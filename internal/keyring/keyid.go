package keyring

import "context"

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

// answer notes that a caller is told a key_id, and says in the log when it is
// another one than before.
func (p *Provider) answer(ctx context.Context, w *written) {
	if p.answered.Load() == w {
		return
	}
	p.keeper.answering.Lock()
	defer p.keeper.answering.Unlock()
	was, again := p.history.note(p, w)
	if was != w.keyID && p.keeper.memory != nil { // before any caller knows: the process may be killed at once
		p.keep(ctx, w, p.verdict().LastOK)
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
