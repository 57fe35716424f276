package keyring

import (
	"cmp"
	"slices"

	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// A candidate is a key that may have made a ciphertext.
type candidate struct {
	key  *kmskey.Key
	fits kmskey.Fit // how well it is what key_id names
	last int        // the higher, the later it is tried
}

// A choice among the keys for one ciphertext.
type choice struct {
	last  *kmskey.Key // that worked last
	keyID string
	state keyref.State
	noted string // ARN in the annotations

	chosen, others []candidate
}

func (c *choice) consider(k *kmskey.Key, configured bool) {
	fits := k.Fits(c.keyID, c.state)
	if fits == kmskey.OtherKey && c.noted != "" && k.Is(c.noted) {
		fits = kmskey.OtherContext // no annotation tells the context
	}
	one := candidate{k, fits, c.preference(k)}
	switch {
	case fits != kmskey.OtherKey:
		c.chosen = append(c.chosen, one)
	case configured || k == c.last:
		c.others = append(c.others, one)
	}
}

func (c *choice) preference(k *kmskey.Key) int {
	switch {
	case k.Fails(evidence.Decrypt):
		return 2
	case k == c.last:
		return 0
	}
	return 1
}

func (c *choice) ordered() (chosen, others []*kmskey.Key) {
	order := func(list []candidate) []*kmskey.Key {
		slices.SortStableFunc(list, func(a, b candidate) int {
			return cmp.Or(int(b.fits-a.fits), a.last-b.last)
		})
		keys := make([]*kmskey.Key, len(list))
		for i, one := range list {
			keys[i] = one.key
		}
		return keys
	}
	return order(c.chosen), order(c.others)
}
