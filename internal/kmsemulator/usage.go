package kmsemulator

import (
	"crypto/sha256"
	"maps"
	"sync"
	"time"
)

// usageDelay is the longest time for which a use is in memory alone, where there
// is a directory. KMS itself takes up to an hour to record one.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/monitoring-keys-determining-usage.html
const usageDelay = time.Minute

// A usage is a key's last cryptographic operation that succeeded.
type usage struct {
	at        time.Time
	operation string
	requestID string
}

// usages are the last ones of all keys, kept apart from the world: a use is no
// change, and must not cost a write to disk.
type usages struct {
	since time.Time // when keeping them began

	mu      sync.Mutex
	last    map[keyRef]usage
	unsaved time.Time // of the first use that is not on disk; zero: none
}

// note records a use, unless a later one is known.
func (u *usages) note(ref keyRef, use usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if use.at.Before(u.last[ref].at) {
		return
	}
	u.last[ref] = use
	if u.unsaved.IsZero() {
		u.unsaved = use.at
	}
}

// of returns a key's last use, the zero one where there was none. What happened
// before the key was made happened to another one of its name.
func (u *usages) of(k *key) usage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if use := u.last[k.ref]; !use.at.Before(k.created) {
		return use
	}
	return usage{}
}

// unsavedSince reports whether a use of before t, or of whenever where t is zero, is
// not on disk yet.
func (u *usages) unsavedSince(t time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.unsaved.IsZero() && (t.IsZero() || !u.unsaved.After(t))
}

// take returns the last uses to put on disk, and what to call where that fails.
func (u *usages) take() (last map[keyRef]usage, undo func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.unsaved
	u.unsaved = time.Time{}
	return maps.Clone(u.last), func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.unsaved.IsZero() && !was.IsZero() {
			u.unsaved = was.Add(usageDelay)
		}
	}
}

// used records that the call's operation has succeeded with a key.
func (c *call) used(k *key) {
	c.store.usages.note(k.ref, usage{c.now, c.operation, c.requestID})
}

type keyLastUsage struct {
	CloudTrailEventId string   `json:",omitempty"`
	KmsRequestId      string   `json:",omitempty"`
	Operation         string   `json:",omitempty"`
	Timestamp         *seconds `json:",omitempty"`
}

// getKeyLastUsage answers for keys in whatever state.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_GetKeyLastUsage.html
func getKeyLastUsage(c *call) (any, error) {
	k, err := c.ownKey()
	if err != nil {
		return nil, err
	}
	var last keyLastUsage
	if use := c.store.usages.of(k); !use.at.IsZero() {
		last = keyLastUsage{eventID(use.requestID, k), use.requestID, use.operation, at(use.at.Truncate(time.Second))}
	}
	since := k.created
	if c.store.usages.since.After(since) {
		since = c.store.usages.since
	}
	return struct {
		KeyCreationDate   *seconds
		KeyId             string
		KeyLastUsage      keyLastUsage
		TrackingStartDate *seconds
	}{at(k.created), k.ref.id, last, at(since)}, nil
}

// eventID is the id of the event that CloudTrail would have of a request and a
// key: ReEncrypt has one for each of its keys.
func eventID(requestID string, k *key) string {
	sum := sha256.Sum256([]byte(requestID + " " + k.arn))
	return uuid([16]byte(sum[:16]))
}
