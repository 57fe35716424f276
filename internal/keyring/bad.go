package keyring

import (
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

const (
	// badMax is how many answers are remembered. Each takes about 240 bytes, so a full
	// memory takes 4 MB; about 700 bytes and 12 MB where KMS's words are long and
	// differ each time. TestBadMemoryIsBounded measures that.
	badMax = 16384
	// maxWords is how many bytes of a foreign text are remembered. An error shows no more.
	maxWords = 256
	// kindsMax is how many different errors are compared with a new one, to keep
	// one copy of those that say the same.
	kindsMax = 8
)

// whole is the place of what a read came to, over all keys.
const whole = -1

// A badKey names one answer: digest of the ciphertext, and who answered.
type badKey struct {
	sum   [sha256.Size]byte
	alias int32 // index of the alias for which KMS was asked without a key; or whole
}

// badMemory remembers ciphertexts that nobody opens, so that a caller who asks
// again and again costs KMS nothing. It keeps digests, no ciphertexts, and nothing
// that came with the ciphertext: another object may hold the same bytes under
// another key_id and other annotations. It is safe for concurrent use.
type badMemory struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[badKey, badEntry]
	kinds [kindsMax]*cause.Error // that were remembered last
	next  int                    // place of the next kind
}

type badEntry struct {
	err   *cause.Error
	until time.Time
}

func newBadMemory() *badMemory {
	lru, err := simplelru.NewLRU[badKey, badEntry](badMax, nil)
	if err != nil { // only for a size below one
		panic(err)
	}
	return &badMemory{lru: lru}
}

// remember keeps an answer for a time.
func (m *badMemory) remember(blob []byte, alias int, err *cause.Error, d time.Duration) {
	key := badKey{sha256.Sum256(blob), int32(alias)} //nolint:gosec // a provider has few keys
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Add(key, badEntry{m.sharedLocked(err), time.Now().Add(d)})
}

// sharedLocked returns an equal error that is remembered already, or a copy that
// keeps little alive.
func (m *badMemory) sharedLocked(err *cause.Error) *cause.Error {
	kept := *err
	kept.Err, kept.Later = nil, nil
	kept.RequestID = "" // of the call for the first object
	for _, words := range []*string{&kept.AWSCode, &kept.Said, &kept.Principal, &kept.Action} {
		*words = strings.Clone((*words)[:min(len(*words), maxWords)])
	}
	for _, k := range m.kinds {
		if k != nil && alike(k, &kept) {
			return k
		}
	}
	m.kinds[m.next] = &kept
	m.next = (m.next + 1) % kindsMax
	return &kept
}

// alike reports whether two errors that are remembered say the same.
func alike(a, b *cause.Error) bool {
	return a.Code == b.Code && a.Op == b.Op && a.Key == b.Key && a.Note == b.Note && a.AWSCode == b.AWSCode && a.Said == b.Said &&
		a.Principal == b.Principal && a.Action == b.Action && slices.Equal(a.AlsoTried, b.AlsoTried)
}

// recall returns what was answered before, nil where nothing is remembered.
func (m *badMemory) recall(blob []byte, alias int) *cause.Error {
	m.mu.Lock()
	empty := m.lru.Len() == 0
	m.mu.Unlock()
	if empty { // the usual case costs no digest
		return nil
	}
	key := badKey{sha256.Sum256(blob), int32(alias)} //nolint:gosec // a provider has few keys
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.lru.Get(key)
	if !ok {
		return nil
	}
	if time.Now().After(entry.until) {
		m.lru.Remove(key)
		return nil
	}
	return entry.err
}

// forget empties the memory.
func (m *badMemory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Purge()
	m.kinds = [kindsMax]*cause.Error{}
}

// ForgetBad empties the memory of bad ciphertexts, for a configuration under
// which they may be good.
func (r *Ring) ForgetBad() {
	r.bad.forget()
	for _, k := range r.opts.Keys {
		k.ForgetUnresolved()
	}
}

// noteBad remembers what a read came to that no key could serve: bad data for a
// minute. Where KMS, asked without a key, refused the caller, nobody knows whose
// data it is: that proves nothing, and counts for seconds only.
func (r *Ring) noteBad(blob []byte, told *cause.Error, refusals []refusal) {
	if told.Class() == cause.BadData {
		r.bad.remember(blob, whole, told, r.opts.Timing.Bad)
		return
	}
	denied := true // nothing but an unpinned Decrypt stands between the data and its proof
	for _, f := range refusals {
		class := f.err.Class()
		denied = denied && (class == cause.BadData || f.unpinned && !f.recalled && class == cause.Refused)
	}
	if denied {
		r.bad.remember(blob, whole, told, r.opts.Timing.Denied)
		return
	}
	// A configured key may open it as soon as that can be asked. Only the answer
	// without a key is remembered, and does not live longer for being recalled.
	for _, f := range refusals {
		if class := f.err.Class(); f.unpinned && !f.recalled && (class == cause.BadData || class == cause.Refused) {
			r.bad.remember(blob, r.place(f.key), f.err, r.opts.Timing.Denied)
		}
	}
}

// place is where a key stands in the configuration; earlier keys of aliases stand
// behind all of them.
func (r *Ring) place(k *kmskey.Key) int {
	if i := slices.Index(r.opts.Keys, k); i >= 0 {
		return i
	}
	return len(r.opts.Keys)
}
