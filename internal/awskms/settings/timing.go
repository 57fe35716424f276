package settings

import (
	"cmp"
	"time"
)

// Timing is how long a Reader waits for what. A field that is zero has the time that
// its comment says.
type Timing struct {
	Answer  time.Duration // of whoever gives credentials or the Region, to one request of the SDK; 0: 15 seconds
	Process time.Duration // for which a credential_process may run; 0: 25 seconds
	// Pipe is how long the output is read after the process itself has ended, or was
	// killed: something that it started may hold the pipe. 0: 1 second
	Pipe time.Duration
	// Kill is how long a killed process may take to be gone. One that a hung file system
	// holds in the kernel takes longer, and is left behind. 0: 2 seconds
	Kill     time.Duration
	SameLine time.Duration // the least between two equal lines of the SDK in the log; 0: 1 minute
}

func (t Timing) orUsual() Timing {
	return Timing{
		Answer:   cmp.Or(t.Answer, 15*time.Second),
		Process:  cmp.Or(t.Process, 25*time.Second),
		Pipe:     cmp.Or(t.Pipe, time.Second),
		Kill:     cmp.Or(t.Kill, 2*time.Second),
		SameLine: cmp.Or(t.SameLine, time.Minute),
	}
}
