package daemon

import (
	"log/slog"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/healthport"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

const (
	// enoughDescriptors is what Linux gives a process where nobody says otherwise.
	enoughDescriptors = 1024
	// ownDescriptors are for standard streams, listeners, watches and the look-ups of
	// credentials.
	ownDescriptors = 32
)

// warnOfFewDescriptors says at the start what a low limit suffices for. Go has
// raised the soft limit to the hard one by then.
func warnOfFewDescriptors(limit uint64, sockets int, log *slog.Logger) {
	if limit >= enoughDescriptors {
		return
	}
	const fixed = ownDescriptors + healthport.MaxConnections
	left := 0
	if limit > fixed {
		left = int(limit) - fixed
	}
	log.Warn("few file descriptors: raise the limit, by LimitNOFILE= of the unit or the container's ulimit; what comes beyond it waits",
		"limit", limit, "enough", enoughDescriptors,
		"most_at_sockets", sockets*unixsocket.MaxConnections, "most_at_kms", awskms.MaxIdle, "most_at_health_port", healthport.MaxConnections, "of_its_own", ownDescriptors,
		"left_for_sockets_and_kms", left)
}

// descriptorLimit returns how many descriptors the process may have.
func descriptorLimit() (uint64, error) {
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return limit.Cur, err
}
