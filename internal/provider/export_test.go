package provider

import (
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// Pause makes the write key's evidence that of a process which did not run for d
// until now: by its clock, all that it knows came that much earlier.
func (p *Provider) Pause(d time.Duration) {
	p.Frozen(d)
	p.write.Resume(time.Now())
}

// Frozen is Pause where the process has yet to notice.
func (p *Provider) Frozen(d time.Duration) { p.write.Backdate(d) }

// Writer is the key that writes.
func (p *Provider) Writer() *kmskey.Key { return p.write }
