package keyring

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

const (
	badFor = time.Minute
	badMax = 4096 // about 150 bytes each
)

// badMemory remembers ciphertexts that no key opens, so that a caller that asks
// again and again costs KMS nothing. It keeps digests, no ciphertexts. It is
// safe for concurrent use.
type badMemory struct {
	mu  sync.Mutex
	lru *simplelru.LRU[[sha256.Size]byte, badEntry]
}

type badEntry struct {
	err   *cause.Error
	until time.Time
}

func newBadMemory() *badMemory {
	lru, err := simplelru.NewLRU[[sha256.Size]byte, badEntry](badMax, nil)
	if err != nil { // only for a size below one
		panic(err)
	}
	return &badMemory{lru: lru}
}

func (m *badMemory) remember(blob []byte, err *cause.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lru.Add(sha256.Sum256(blob), badEntry{err, time.Now().Add(badFor)})
}

// ForgetBad empties the memory of bad ciphertexts, for a configuration under
// which they may be good.
func (p *Provider) ForgetBad() {
	p.bad.mu.Lock()
	defer p.bad.mu.Unlock()
	p.bad.lru.Purge()
}

// recall returns what was answered before, nil for what is not known to be bad.
func (m *badMemory) recall(blob []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lru.Len() == 0 {
		return nil
	}
	sum := sha256.Sum256(blob)
	entry, ok := m.lru.Get(sum)
	if !ok {
		return nil
	}
	if time.Now().After(entry.until) {
		m.lru.Remove(sum)
		return nil
	}
	return entry.err
}
