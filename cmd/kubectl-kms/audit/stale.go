package audit

import (
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// Stale is whether an API server with the configuration would write an object
// otherwise than it is stored.
type Stale string

// Staleness. It is empty where there is no configuration.
const (
	StaleNo         Stale = "no"
	StaleYes        Stale = "yes"
	StaleUnknown    Stale = "unknown"    // the running plugin's key_id, or a key, would tell
	StaleUnreadable Stale = "unreadable" // no provider of the configuration reads it
)

// staleness compares a row with the providers of its resource. Another seed alone makes
// nothing stale, and a v2 value under the first provider may be: the plugin's key_id
// and what the API server wraps count too, and no file has them.
func (at row) staleness(o Options) Stale {
	c := o.Config
	switch {
	case c == nil:
		return ""
	case at.resource.unplaced && at.format == stored.Plaintext && !mayCover(c, at.resource.name):
		return StaleNo
	case at.resource.unplaced:
		return StaleUnknown
	}
	entry, ok := c.For(at.resource.name, at.resource.group)
	if !ok {
		if at.format == stored.Plaintext {
			return StaleNo
		}
		return StaleUnreadable
	}
	i := slices.IndexFunc(entry.Providers, at.readBy)
	switch {
	case i < 0:
		return StaleUnreadable
	case i > 0:
		return StaleYes
	}
	return at.staleUnder(entry.Providers[0], o.Keys)
}

// mayCover reports whether an entry may be of a resource whose group is not known.
func mayCover(c *encryptionconfig.Configuration, resource string) bool {
	for _, entry := range c.Resources {
		for _, text := range entry.Resources {
			if name, _, grouped := strings.Cut(text, "."); name == resource || name == "*" && grouped {
				return true
			}
		}
	}
	return false
}

// readBy reports whether a provider reads what is stored so.
func (u under) readBy(p encryptionconfig.Provider) bool {
	if p.KMS != nil {
		return p.KMS.Name == u.provider && u.format == stored.Format("kms "+p.KMS.Version())
	}
	return u.format == formatOf(p) && (p.Identity != nil ||
		slices.ContainsFunc(p.LocalKeys(), func(k encryptionconfig.Key) bool { return k.Name == u.provider }))
}

func formatOf(p encryptionconfig.Provider) stored.Format {
	switch {
	case p.AESCBC != nil:
		return stored.AESCBC
	case p.AESGCM != nil:
		return stored.AESGCM
	case p.Secretbox != nil:
		return stored.Secretbox
	}
	return stored.Plaintext
}

// staleUnder is what the first provider, which reads it, would do. keys are what API
// servers write under. What a seed of theirs never sealed, releases before 1.29 wrote,
// and only the API server tells whether it still does.
//
// k8s.io/apiserver pkg/storage/value/encrypt/envelope/kmsv2/envelope.go,
// TransformFromStorage.
func (u under) staleUnder(first encryptionconfig.Provider, keys map[string]string) Stale {
	if u.format == stored.KMSv2 {
		hash, known := keys[u.provider]
		switch {
		case known && hash != hashOf(u.keyID):
			return StaleYes
		case known && u.cipher == stored.SeededGCM:
			return StaleNo
		}
		return StaleUnknown
	}
	switch {
	case u.cipher == stored.GCMOrCBC:
		return StaleUnknown
	case first.KMS == nil && first.Identity == nil && first.LocalKeys()[0].Name != u.provider:
		return StaleYes
	}
	return StaleNo
}
