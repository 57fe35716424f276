package keyring

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

const (
	missingMax   = 64
	missingLines = 16 // in the time between two lines about one name, over all names
)

// A MissingKey is one that stored data needs and nobody configured.
type MissingKey struct {
	Key  string // ARN, or whatever key_id named; "": nothing names it
	Last time.Time
}

// missingKeys are those that reads asked for in vain. Names come out of etcd, so
// their number is bounded. It is safe for concurrent use.
type missingKeys struct {
	every time.Duration // between two lines about one name

	mu    sync.Mutex
	lru   *simplelru.LRU[string, *missingKey]
	began time.Time // of the minute in which lines are counted
	lines int
}

type missingKey struct{ last, reported time.Time }

func newMissingKeys(every time.Duration) *missingKeys {
	lru, err := simplelru.NewLRU[string, *missingKey](missingMax, nil)
	if err != nil { // only for a size below one
		panic(err)
	}
	return &missingKeys{every: every, lru: lru}
}

// note reports whether it is time to report the key again.
func (m *missingKeys) note(name string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.lru.Get(name)
	if !ok {
		k = &missingKey{}
		m.lru.Add(name, k)
	}
	k.last = now
	if now.Sub(m.began) >= m.every {
		m.began, m.lines = now, 0
	}
	if now.Sub(k.reported) < m.every || m.lines == missingLines {
		return false
	}
	m.lines++
	k.reported = now
	return true
}

// list returns the keys that were asked for last, newest first.
func (m *missingKeys) list() []MissingKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []MissingKey
	for _, name := range slices.Backward(m.lru.Keys()) {
		if k, ok := m.lru.Peek(name); ok {
			out = append(out, MissingKey{Key: name, Last: k.last})
		}
	}
	return out
}

// reportMissing names a key that is not configured once a minute, with what to
// add.
func (r *Ring) reportMissing(ctx context.Context, s Stored, refusal *cause.Error) {
	name := r.missingName(s, refusal)
	if !r.missing.note(name, time.Now()) {
		return
	}
	if name == "" {
		r.opts.Log.WarnContext(ctx, "stored data was made by a key that is not configured, and nothing names it: list every key that was ever used among the keys that read (--decrypt-key, or below in the file)",
			"code", refusal.Code.String())
		return
	}
	r.opts.Log.WarnContext(ctx, "stored data was made by a key that is not configured: if it is one of yours, list it among the keys that read (--decrypt-key, or below in the file)",
		"code", refusal.Code.String(), "key_arn", name, "add", "- key: "+name)
}

// missingName is the best name that is known of the key: none of a key that is
// listed, such as an alias that was moved.
func (r *Ring) missingName(s Stored, refusal *cause.Error) string {
	if refusal.Code == cause.ForeignKey {
		return refusal.Key
	}
	for _, name := range []string{string(s.Annotations[AnnotationKeyARN]), string(keyref.ParseState(s.KeyID).Key)} {
		if name != "" && !slices.ContainsFunc(r.opts.Keys, func(k *kmskey.Key) bool { return k.Is(name) }) {
			const most = 256 // of a name that is kept
			return strings.Clone(name[:min(len(name), most)])
		}
	}
	return ""
}
