package awskms

import (
	"cmp"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/identity"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
)

// Reply is what the caller keeps of its deadline, so that an answer still
// reaches it instead of its own time-out.
const Reply = 300 * time.Millisecond

// Timing is how long a Client waits for what. A field that is zero has the time that its
// comment says. Those of connections are [Connections.Timing].
type Timing struct {
	Reply time.Duration // what is left of a caller's deadline when a call ends; 0: [Reply]
	Fair  time.Duration // what a caller has to give for a time-out to be KMS's fault; 0: 1 second
	// FairSlack is what a limit of this program's own may have lost on its way here.
	// 0: 50 milliseconds
	FairSlack time.Duration
	// Backoff and BackoffJitter are the time before a second attempt: the SDK's own first
	// waits are up to a second, which the API server's deadline does not have.
	// 0: 20 milliseconds, and up to 200 more
	Backoff, BackoffJitter time.Duration
	Question               time.Duration // bounds the questions who is calling, and with what; 0: 15 seconds

	Identity identity.Timing
	Settings settings.Timing
}

func (t Timing) orUsual() Timing {
	return Timing{
		Reply:         cmp.Or(t.Reply, Reply),
		Fair:          cmp.Or(t.Fair, time.Second),
		FairSlack:     cmp.Or(t.FairSlack, 50*time.Millisecond),
		Backoff:       cmp.Or(t.Backoff, 20*time.Millisecond),
		BackoffJitter: cmp.Or(t.BackoffJitter, 200*time.Millisecond),
		Question:      cmp.Or(t.Question, 15*time.Second),

		Identity: t.Identity,
		Settings: t.Settings,
	}
}
