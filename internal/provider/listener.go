package provider

import (
	"context"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// A listener hears how the calls of a provider's keys end.
type listener struct{ *Provider }

// Entering implements [kmskey.Listener].
func (l listener) Entering(k *kmskey.Key, err error) {
	if err == nil || k != l.write {
		return
	}
	k.Resume(l.opts.Pauses.Last())
	if cause.ClassOf(err).TellsHealth() {
		l.keeper.before.last.Store(&failure{cause.Of(err), time.Now()})
	}
}

// Entered implements [kmskey.Listener]: it looks at what changed where the key decides
// the provider's health.
func (l listener) Entered(ctx context.Context, k *kmskey.Key, err error) {
	if err != nil && cause.ClassOf(err) == cause.Refused && (k == l.write || l.keeper.knows(k)) {
		l.keeper.refused()
	}
	if k != l.write {
		return
	}
	l.weigh(ctx, err != nil)
}

// Heard implements [kmskey.Listener].
func (l listener) Heard(ctx context.Context, k *kmskey.Key) {
	if k != l.write {
		l.weighKey(ctx, k)
	}
}
