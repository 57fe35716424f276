package kmsemulator

import (
	"slices"
	"strings"
	"time"
)

// keyOnly is what many operations take.
type keyOnly struct{ KeyId *string }

// ownKey decodes and checks a request whose main member is a key id or key
// ARN, and finds the key. The state of the key is the caller's to check, under
// the lock of change.
func (c *call) ownKey() (*key, error) {
	var in keyOnly
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	return k, c.allowed(k, c.operation)
}

// switchKey enables or disables a key. An unavailable key stays what it is
// until it becomes available, though KMS does not complain. A rotation that
// fell due while the key was disabled is made up for at once, and only once.
func (w *world) switchKey(ref keyRef, to string) error {
	k := w.keys[ref]
	switch k.state {
	case enabled, disabled:
		w.editKey(ref).state = to
		l := w.lines[ref.id]
		if k.state == disabled && l.primary == ref.region && l.rotates && l.next.Before(w.since) {
			w.editLine(ref.id).next = w.since
		}
		return nil
	case unavailable:
		return nil
	default:
		return stateError(k)
	}
}

func enableKey(c *call) (any, error) {
	k, err := c.ownKey()
	if err != nil {
		return nil, err
	}
	return nil, c.changeKey(k, func(w *world) error { return w.switchKey(k.ref, enabled) })
}

func disableKey(c *call) (any, error) {
	k, err := c.ownKey()
	if err != nil {
		return nil, err
	}
	return nil, c.changeKey(k, func(w *world) error { return w.switchKey(k.ref, disabled) })
}

func scheduleKeyDeletion(c *call) (any, error) {
	var in struct {
		KeyId               *string
		PendingWindowInDays *int32
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	ch.number("pendingWindowInDays", in.PendingWindowInDays, 7, 30)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "ScheduleKeyDeletion"); err != nil {
		return nil, err
	}
	days := int32(30)
	if in.PendingWindowInDays != nil {
		days = *in.PendingWindowInDays
	}
	var now *key
	err = c.changeKey(k, func(w *world) error {
		now, err = w.schedule(k.ref, days, c.now.AddDate(0, 0, int(days)))
		return err
	})
	if err != nil {
		return nil, err
	}
	return struct {
		DeletionDate        *seconds `json:",omitempty"`
		KeyId               string
		KeyState            string
		PendingWindowInDays int32
	}{at(now.deletion), now.arn, now.state, days}, nil
}

// cancelKeyDeletion leaves the key disabled, as KMS does.
func cancelKeyDeletion(c *call) (any, error) {
	k, err := c.ownKey()
	if err != nil {
		return nil, err
	}
	return struct{ KeyId string }{k.arn}, c.changeKey(k, func(w *world) error { return w.cancelDeletion(k.ref) })
}

func (w *world) cancelDeletion(ref keyRef) error {
	k := w.keys[ref]
	if k.state != pendingDeletion && k.state != pendingReplicaDeletion {
		return badState("%s is not pending deletion.", k.arn)
	}
	k = w.editKey(ref)
	k.state, k.deletion, k.windowInDays = disabled, time.Time{}, 0
	return nil
}

func listKeys(c *call) (any, error) {
	var in struct {
		Limit  *int32
		Marker *string
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.paging(in.Limit, in.Marker, 1000)
	if err := ch.err(); err != nil {
		return nil, err
	}
	if err := c.allowed(nil, "ListKeys"); err != nil {
		return nil, err
	}
	type entry struct{ KeyArn, KeyId string }
	var all []entry
	for ref, k := range c.store.latest.Load().keys {
		if ref.region == c.region {
			all = append(all, entry{k.arn, ref.id})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.KeyId, b.KeyId) })
	part, next, err := page(all, in.Limit, in.Marker, 100, func(e entry) string { return e.KeyId })
	if err != nil {
		return nil, err
	}
	return struct {
		Keys       []entry
		NextMarker string `json:",omitempty"`
		Truncated  bool
	}{part, next, next != ""}, nil
}
