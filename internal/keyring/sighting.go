package keyring

import "sigs.k8s.io/aws-encryption-provider/internal/evidence"

// sightings is how often running something new has to be seen until it counts: KMS
// is eventually consistent, and may answer old and new in turn for minutes.
const sightings = 3

// A sighting is what one round trip showed: the key that answered, and the
// material that it encrypts with, "" where KMS names none.
type sighting struct{ arn, material string }

// see takes in a sighting. The first of a process counts at once, a change when it
// was seen three times running, or at once where nothing depends on the old one.
// Material goes forward only. rest is the key that an alias goes on with although
// another one was seen, "" for none: see [History].
//
// It returns the sights before and after where this changed them, else nil.
func (k *Key) see(s sighting, atOnce bool, rest string) (before, after *sight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	current := k.sight.Load()
	rests := rest != "" && (current == nil || current.arn != rest || k.record.Verdict().State != evidence.Refused)
	if current == nil || !current.seen {
		if rests {
			k.goOn(rest, s.arn)
			return nil, nil
		}
		return current, k.settle(current, s)
	}
	known := sighting{current.arn, current.state.Material}
	absent := s != known && s.arn == known.arn && s.material == ""
	switch {
	case s.arn == known.arn && rests && atOnce: // another Key of the same alias was followed meanwhile
		k.goOn(rest, s.arn)
		return nil, nil
	case absent && k.next.arn == known.arn: // it says nothing of that key's material
		return nil, nil
	case s == known, absent, k.superseded[s], s.arn != known.arn && rests:
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
	return current, k.settle(current, s)
}

// goOn makes the key that the alias was followed to before the one that is asked
// next, and the one that was seen instead a key that reads. It becomes the one that
// writes when it has encrypted and decrypted.
func (k *Key) goOn(arn, seen string) {
	k.learn(seen)
	if current := k.sight.Load(); current == nil || current.arn != arn {
		k.sight.Store(k.sightOf(sighting{arn: arn}))
		k.record.Forget()
	}
}

// settle makes a sighting the sight. What was before it is left behind: material
// for good, and a key of an alias becomes one that reads.
func (k *Key) settle(current *sight, s sighting) *sight {
	if current != nil && current.arn != s.arn {
		k.learn(current.arn)
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
