package provider

import "time"

// Pause makes the write key's evidence that of a process which did not run for d
// until now: by its clock, all that it knows came that much earlier.
func (p *Provider) Pause(d time.Duration) {
	p.Frozen(d)
	p.write.Resume(time.Now())
}

// Frozen is Pause where the process has yet to notice.
func (p *Provider) Frozen(d time.Duration) { p.write.Backdate(d) }

// Contacted reports whether the first contact with KMS is over.
func (p *Provider) Contacted() bool { return p.verdict().Contacted }

// Address is the name by which KMS is asked for the key that writes.
func (p *Provider) Address() string { return p.write.Address() }
