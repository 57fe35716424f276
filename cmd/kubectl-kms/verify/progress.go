package verify

import (
	"sync/atomic"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
)

// A Phase is a part of what [Run] does.
type Phase int64

// The phases, in their order.
const (
	Collecting Phase = iota // reads, for what is wrapped
	Unwrapping              // asks for each DEK and seed
	Opening                 // reads again
	Describing              // asks for the state of each key
)

// Progress is how far a [Run] is. It may be read while Run runs.
type Progress struct {
	Reading audit.Progress // of the phases that read

	phase, began, done, total atomic.Int64
}

func (p *Progress) begin(phase Phase) {
	if phase == Opening {
		p.Reading.Restart()
	}
	p.began.Store(time.Now().UnixNano())
	p.phase.Store(int64(phase))
}

// Phase returns the present phase.
func (p *Progress) Phase() Phase { return Phase(p.phase.Load()) }

// Began returns when the present phase did.
func (p *Progress) Began() time.Time { return time.Unix(0, p.began.Load()) }

// Unwrapped returns how many DEKs and seeds were asked for, and of how many.
func (p *Progress) Unwrapped() (done, total int64) { return p.done.Load(), p.total.Load() }
