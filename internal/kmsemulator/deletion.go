package kmsemulator

import "time"

// schedule begins the end of a key. A primary key that still has replicas waits
// for theirs first, and its window begins when the last one is gone.
//
// See https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-delete.html
func (w *world) schedule(ref keyRef, days int32, end time.Time) (*key, error) {
	k := w.keys[ref]
	switch k.state {
	case pendingDeletion, pendingReplicaDeletion, updating:
		return nil, stateError(k)
	}
	waits := w.lines[ref.id].primary == ref.region && len(w.regionsOf(ref.id)) > 1
	k = w.editKey(ref)
	k.windowInDays = days
	if waits {
		k.state = pendingReplicaDeletion
		return k, nil
	}
	k.state, k.deletion = pendingDeletion, end
	return k, nil
}
