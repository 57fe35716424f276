package keyring

import "time"

// Pause makes the write key's evidence that of a process which did not run for d
// until now: by its clock, all that it knows came that much earlier.
func (p *Provider) Pause(d time.Duration) {
	p.Frozen(d)
	p.write.record.resume(time.Now())
}

// Frozen is Pause where the process has yet to notice.
func (p *Provider) Frozen(d time.Duration) {
	r := &p.write.record
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.resumed.IsZero() {
		r.resumed = r.resumed.Add(-d)
	}
	for i := range r.tracks {
		t := &r.tracks[i]
		for _, at := range []*time.Time{&t.lastOK, &t.graceFrom, &t.first, &t.last, &t.refusedAt} {
			if !at.IsZero() {
				*at = at.Add(-d)
			}
		}
	}
}

// Contacted reports whether the first contact with KMS is over.
func (p *Provider) Contacted() bool { return p.verdict().contacted }

// Address is the name by which KMS is asked for the key that writes.
func (p *Provider) Address() string { return p.write.address() }
