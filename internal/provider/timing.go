package provider

import (
	"cmp"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// Timing is how long a provider waits for what. A field that is zero has the time that
// its comment says.
type Timing struct {
	Check   time.Duration // how old evidence may get while all is well; 0: 30 seconds
	Recheck time.Duration // between checks while something is wrong, give or take Jitter; 0: 5 seconds
	Jitter  time.Duration // 0: 1 second
	Pause   time.Duration // the least time between checks that traffic asks for; 0: 1 second
	// Reopen is how old the evidence may get that what was just encrypted opens, which
	// traffic does not show: longer than between two looks, which do. 0: 75 seconds
	Reopen time.Duration

	// Look is the time between looks at what the write key's name stands for and which
	// material it encrypts with. In an idle process a look comes shortly before a check
	// would be due, and takes its place. 0: 59 seconds
	Look      time.Duration
	FirstLook time.Duration // before the first; 0: 45 seconds
	NewLook   time.Duration // between looks while something new is being watched; 0: 10 seconds

	// FirstContact is how long a Status waits for the first contact with KMS at most:
	// longer than a first check takes, and short enough for an API server that asks its
	// provider entries one after the other. 0: 6 seconds
	FirstContact time.Duration

	Keep      time.Duration // between two writes of what is known, where nothing but the time changes; 0: 30 seconds
	KeepLimit time.Duration // of one write. Where the key_id changes a caller waits for it; 0: 500 milliseconds

	// Rest is how long an alias does not go back to a key that it has left: an answer that
	// names that key meanwhile may be one from before. KMS takes seconds, "in some cases
	// several minutes", to show a change everywhere. 0: 5 minutes
	//
	// https://docs.aws.amazon.com/kms/latest/developerguide/programming-eventual-consistency.html
	Rest time.Duration
	// RestRefusal is the time between two refusals after which the key that such an alias
	// went to is taken for refused, and RestRefusalAge how old the last may be. 0: 5
	// seconds, 2 minutes
	RestRefusal, RestRefusalAge time.Duration

	// Verify is the time that [Provider.Verify] has beside its calls of KMS. 0: 2 seconds
	Verify time.Duration

	Questions kmskey.Intervals // about keys that only read
	Ring      keyring.Timing   // what is remembered of data that does not open
}

func (t Timing) orUsual() Timing {
	return Timing{
		Check:          cmp.Or(t.Check, 30*time.Second),
		Recheck:        cmp.Or(t.Recheck, 5*time.Second),
		Jitter:         cmp.Or(t.Jitter, time.Second),
		Pause:          cmp.Or(t.Pause, time.Second),
		Reopen:         cmp.Or(t.Reopen, 75*time.Second),
		Look:           cmp.Or(t.Look, 59*time.Second),
		FirstLook:      cmp.Or(t.FirstLook, 45*time.Second),
		NewLook:        cmp.Or(t.NewLook, 10*time.Second),
		FirstContact:   cmp.Or(t.FirstContact, 6*time.Second),
		Keep:           cmp.Or(t.Keep, 30*time.Second),
		KeepLimit:      cmp.Or(t.KeepLimit, 500*time.Millisecond),
		Rest:           cmp.Or(t.Rest, 5*time.Minute),
		RestRefusal:    cmp.Or(t.RestRefusal, 5*time.Second),
		RestRefusalAge: cmp.Or(t.RestRefusalAge, 2*time.Minute),
		Verify:         cmp.Or(t.Verify, 2*time.Second),
		Questions:      t.Questions.OrUsual(),
		Ring:           t.Ring,
	}
}
