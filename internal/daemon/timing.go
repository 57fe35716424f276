package daemon

import "time"

// timing is how long the daemon waits for what. Only tests have another one
// than usualTiming's.
type timing struct {
	// holderWait is how long a socket's live holder is waited for: a rolling
	// upgrade starts the new process before the old one has gone.
	holderWait time.Duration
	holderPoll time.Duration
	keep       time.Duration // between looks at a socket file
	portRetry  time.Duration // between tries for a health port that is taken
	answer     time.Duration // between questions to the process's own socket
	drain      time.Duration // for running calls, after the sockets have closed
}

func usualTiming() timing {
	return timing{
		holderWait: 10 * time.Second, holderPoll: 100 * time.Millisecond, keep: 2 * time.Second,
		portRetry: 2 * time.Second, answer: 5 * time.Second, drain: 5 * time.Second,
	}
}
