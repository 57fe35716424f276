package daemon

import (
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

// keyMetrics are how the keys of all providers are doing. Earlier keys of an alias
// go by its name: their own come out of stored data.
func (d *Daemon) keyMetrics() []metrics.Key {
	var all []metrics.Key
	for _, s := range d.current.Load().providers {
		h := s.provider.Health()
		add := func(key, use string, state evidence.State, err *cause.Error, deletion *kmskey.Deletion) {
			m := metrics.Key{Provider: h.Provider, Key: key, Use: use, State: string(state)}
			if err != nil && state.Fails() {
				m.Code = err.Code.String()
			}
			if deletion != nil {
				m.Deletion = deletion.Date
			}
			all = append(all, m)
		}
		add(h.Key, metrics.UseWrite, h.State, h.Err, h.Deletion)
		for _, k := range h.ReadKeys {
			if k.Unlisted {
				add(k.Alias, metrics.UseEarlier, k.State, k.Err, k.Deletion)
				continue
			}
			add(k.Key, metrics.UseRead, k.State, k.Err, k.Deletion)
		}
	}
	return all
}
