package daemon

import (
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// timing is how long the daemon waits for what. Only tests have another one
// than usualTiming's.
type timing struct {
	unixsocket.Timing // of each socket

	// holderWait is how long a socket's live holder is waited for: a rolling
	// upgrade starts the new process before the old one has gone.
	holderWait time.Duration
	portRetry  time.Duration // between tries for a health port that is taken
	answer     time.Duration // between questions to the process's own socket
	drain      time.Duration // for running calls, after the sockets have closed
	silence    time.Duration // for a connection's first words then
	rest       time.Duration // for all that is left, once running calls are cut

	// Of the file of --config.
	settle     time.Duration // of quiet, before it is read after a change
	settleMost time.Duration // where it does not get quiet
	poll       time.Duration // between looks where no change is noticed
	missing    time.Duration // that it may be away while it is replaced
	retry      time.Duration // until one that cannot be used is tried again, doubling
	retryMost  time.Duration

	provider provider.Timing // zero: the usual one
}

func usualTiming() timing {
	return timing{
		Timing:     unixsocket.Timing{HolderPoll: 100 * time.Millisecond, Keep: 2 * time.Second, File: 3 * time.Second},
		holderWait: 10 * time.Second,
		portRetry:  2 * time.Second, answer: 5 * time.Second, drain: 5 * time.Second, silence: 200 * time.Millisecond, rest: 500 * time.Millisecond,
		settle: 200 * time.Millisecond, settleMost: 2 * time.Second, poll: 10 * time.Second, missing: 5 * time.Second,
		retry: 10 * time.Second, retryMost: time.Minute,
	}
}
