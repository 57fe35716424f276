package keyring

import "time"

const (
	// sightings is how often running something new has to be seen until it counts:
	// KMS is eventually consistent, and may answer old and new in turn for minutes.
	sightings = 3
	// aliasRest is how long an alias does not go back to a key that it has left:
	// what names that key meanwhile may be an answer from before. It does where
	// the key that it went to is refused.
	aliasRest = 5 * time.Minute
)

// A sighting is what one round trip showed: the key that answered, and the
// material that it encrypts with, "" where KMS names none.
type sighting struct{ arn, material string }

// see takes in a sighting. The first of a process counts at once, a change when it
// was seen three times running, or at once where nothing depends on the old one.
// Material goes forward only. An answer without material never clears a known one.
//
// It returns the sights before and after where this changed them, else nil.
func (k *Key) see(s sighting, now time.Time, atOnce bool) (before, after *sight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	current := k.sight.Load()
	if current == nil || !current.seen {
		return current, k.settle(current, s, now)
	}
	known := sighting{current.arn, current.state.Material}
	absent := s != known && s.arn == known.arn && s.material == ""
	switch {
	case absent && k.next.arn == known.arn: // it says nothing of that key's material
		return nil, nil
	case s == known, absent, k.superseded[s], s.arn != known.arn && k.rests(s.arn, now):
		k.next, k.times = sighting{}, 0
		return nil, nil
	case s == k.next:
		k.times++
	default:
		k.next, k.times = s, 1
	}
	if k.times < sightings && !atOnce {
		return nil, nil
	}
	return current, k.settle(current, s, now)
}

// rests says whether an alias does not go back to a key yet.
func (k *Key) rests(arn string, now time.Time) bool {
	left, ok := k.leftAt[arn]
	return ok && now.Sub(left) < aliasRest && k.record.verdict().state != Refused
}

// settle makes a sighting the sight. What was before it is left behind: material
// for ever, and a key of an alias becomes one that reads.
func (k *Key) settle(current *sight, s sighting, now time.Time) *sight {
	if current != nil && current.arn != s.arn {
		k.learn(current.arn)
		k.leftAt[current.arn] = now
	}
	if current != nil && current.arn == s.arn && current.state.Material != "" && current.state.Material != s.material {
		k.superseded[sighting{current.arn, current.state.Material}] = true
	}
	next := k.sightOf(s)
	next.seen = true
	k.sight.Store(next)
	k.next, k.times = sighting{}, 0
	return next
}

// watched says whether something new has been seen that does not count yet.
func (k *Key) watched() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.times > 0
}
