package provider

import (
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// A History is what the callers of one provider entry were told, over all the
// Providers that replace one another. A reload makes keys and Providers again; no
// caller may notice that by an answer which leads back. So key material that was
// left stays left for good, and an alias rests from a key that it has left for
// [Timing].Rest. It is safe for concurrent use.
type History struct {
	timing Timing

	mu         sync.Mutex
	begun      int // generation of the newest Provider
	generation int // of the Provider that told last
	writer     *kmskey.Key
	last       string
	told       map[string]bool
	newest     map[keyref.ID]string // key material that was told last
	left       map[material]int     // that was told before that → its place in the order of leaving
	aliases    map[string]*aliasPast
	refused    map[string]refusedSince // [kmskey.Key.Address] of a key that was to write → when it was refused
}

// A material is one of a key's, in whatever Region that is called.
type material struct {
	key keyref.ID
	id  string
}

// An aliasPast is where an alias has been.
type aliasPast struct {
	at     keyref.ARN              // of the key that it went to last
	leftAt map[keyref.ID]time.Time // when the alias left it
}

type refusedSince struct{ first, last time.Time }

// newHistory returns a History of nothing.
func newHistory(t Timing) *History {
	return &History{
		timing: t, told: map[string]bool{}, newest: map[keyref.ID]string{}, left: map[material]int{},
		aliases: map[string]*aliasPast{}, refused: map[string]refusedSince{},
	}
}

// begin returns the generation of the next Provider.
func (h *History) begin() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begun++
	return h.begun
}

// note returns what was told before, and whether w was told before that. A
// call that ends after a change tells nothing new: neither an older Provider's
// nor one of a state that a later one has replaced.
func (h *History) note(p *Provider, w *written) (was string, again bool) {
	now := material{w.State.Key, w.State.Material}
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.generation < h.generation || p.written() != w {
		return w.keyID, false
	}
	was, again = h.last, h.told[w.keyID]
	h.generation, h.writer, h.last = p.generation, p.write, w.keyID
	h.told[w.keyID] = true
	if before := h.newest[now.key]; before != "" && before != now.id {
		h.leaveLocked(material{now.key, before})
	}
	if now.id != "" {
		h.newest[now.key] = now.id
	}
	h.followLocked(p.write, w.ARN)
	return was, again && was != w.keyID
}

// onward returns the material that one which was seen comes to for callers who
// were told of newer one of that key, or of any: they are not led back, also where
// a key was configured again or an alias has returned to it.
func (h *History) onward(seen material) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if newest := h.newest[seen.key]; seen.id == "" || h.left[seen] > 0 {
		return newest
	}
	return seen.id
}

// leaveLocked notes that callers were told to leave a material.
func (h *History) leaveLocked(m material) { h.left[m] = len(h.left) + 1 }

// follow notes that a Provider that serves has followed its alias.
func (h *History) follow(p *Provider, arn keyref.ARN) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.generation >= h.generation { // else a newer one knows better where the alias is
		h.followLocked(p.write, arn)
	}
}

func (h *History) followLocked(k *kmskey.Key, arn keyref.ARN) {
	if !k.IsAlias() {
		return
	}
	past := h.aliases[k.Alias()]
	if past == nil {
		past = &aliasPast{leftAt: map[keyref.ID]time.Time{}}
		h.aliases[k.Alias()] = past
	}
	now := time.Now()
	for key, left := range past.leftAt {
		if now.Sub(left) >= h.timing.Rest {
			delete(past.leftAt, key)
		}
	}
	if past.at != "" && past.at.ID() != arn.ID() {
		past.leftAt[past.at.ID()] = now
	}
	delete(past.leftAt, arn.ID())
	past.at = arn
}

// rest returns the ARN of the key that an alias goes on with although it shows
// another one, which it has just left; "" where it does not rest from that. An alias of
// another Region is another alias, and goes on with the key's replica there.
func (h *History) rest(k *kmskey.Key, shown keyref.ARN) keyref.ARN {
	h.mu.Lock()
	defer h.mu.Unlock()
	past := h.aliases[k.Alias()]
	if !k.IsAlias() || past == nil {
		return ""
	}
	if left, ok := past.leftAt[shown.ID()]; !ok || time.Since(left) >= h.timing.Rest {
		return ""
	}
	return past.at.InRegionOf(shown)
}

// endRest lets an alias return to a key at once: the one that it went to is refused.
func (h *History) endRest(k *kmskey.Key, arn keyref.ARN) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if past := h.aliases[k.Alias()]; past != nil {
		delete(past.leftAt, arn.ID())
	}
}

// refusedAgain notes that a key which was to write is refused, and reports whether
// that is confirmed: by another such refusal some seconds before, or by
// the checks of the Provider that writes with it.
func (h *History) refusedAgain(address string) bool {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	since, ok := h.refused[address]
	if !ok || now.Sub(since.last) > h.timing.RestRefusalAge {
		since.first = now
	}
	since.last = now
	h.refused[address] = since
	if now.Sub(since.first) >= h.timing.RestRefusal {
		return true
	}
	w := h.writer
	return w != nil && w.Address() == address && w.Verdict().State == evidence.Refused
}

// worked forgets the refusals of a key that was to write.
func (h *History) worked(address string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.refused, address)
}
