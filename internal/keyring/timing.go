package keyring

import (
	"cmp"
	"time"
)

// Timing is how long a Ring remembers what. A field that is zero has the time that its
// comment says.
type Timing struct {
	// Bad is for how long data is not asked about that every key which may read has said
	// it never opens. 0: 1 minute
	Bad time.Duration
	// Denied is for how long a refusal counts that KMS gave when it was asked without a
	// key. It may end at any time, when somebody grants or enables that key. 0: 10 seconds
	Denied time.Duration
	// Unresolved is for how long KMS is not asked again what an alias stands for, after it
	// refused to say so: whatever data comes, it costs no call. 0: 10 seconds
	Unresolved time.Duration
	// Missing is the time between two lines of the log about one key that is not
	// configured, and that in which lines about all such keys are counted. 0: 1 minute
	Missing time.Duration
}

func (t Timing) orUsual() Timing {
	return Timing{
		Bad:        cmp.Or(t.Bad, time.Minute),
		Denied:     cmp.Or(t.Denied, 10*time.Second),
		Unresolved: cmp.Or(t.Unresolved, 10*time.Second),
		Missing:    cmp.Or(t.Missing, time.Minute),
	}
}
