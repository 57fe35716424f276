package faults

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// Codes of internal/cause, as an operator reads them.
const (
	disabledCause  = "KMS0101"
	resetCause     = "KMS0204"
	noContactCause = "KMS0210"
)

// A fault is a way in which KMS fails, and what has to follow from it.
type fault struct {
	name   string
	inject kmsemulator.Fault
	cause  string     // its code in every text
	code   codes.Code // of the call that met it
	retry  bool       // a second attempt is made: once is never seen
}

// refused reports whether the key's owner or IAM said no.
func (f fault) refused() bool { return f.code == codes.FailedPrecondition }

func faults() []fault {
	kind := func(k kmsemulator.FaultKind) kmsemulator.Fault { return kmsemulator.Fault{Kind: k} }
	says := func(code, message string) kmsemulator.Fault {
		return kmsemulator.Fault{Kind: kmsemulator.Error, Code: code, Message: message}
	}
	return []fault{
		{"throttle", kind(kmsemulator.Throttle), "KMS0201", codes.Unavailable, true},
		{"5xx", kind(kmsemulator.Internal), "KMS0202", codes.Unavailable, true},
		{"503 no JSON", kind(kmsemulator.Unavailable), "KMS0202", codes.Unavailable, true},
		{"hang", kind(kmsemulator.Hang), "KMS0203", codes.Unavailable, true},
		{"reset", kind(kmsemulator.Reset), resetCause, codes.Unavailable, true},
		{"garbage", kind(kmsemulator.Garbage), "KMS0207", codes.Unavailable, false},
		{"key store", says("KMSInvalidStateException", "The custom key store cannot be reached."), "KMS0208", codes.Unavailable, false},
		{"expired token", kind(kmsemulator.ExpiredToken), "KMS0302", codes.Unauthenticated, false},
		{"denied", says("AccessDeniedException", "User: arn:aws:iam::111122223333:user/tester is not authorized to perform: kms:Encrypt"), "KMS0104", codes.FailedPrecondition, false},
		{"not found", says("NotFoundException", "Key does not exist"), "KMS0103", codes.FailedPrecondition, false},
	}
}

// An injection is a fault at work from KMS's n-th call on.
type injection struct {
	skip, count int // count 0: all the rest
	calls       func() int
	before      int // calls at the time of injection
	take        func()

	watching sync.WaitGroup
	quit     chan struct{}

	mu        sync.Mutex
	seen      int
	firstHit  time.Time // zero: none yet
	lastFault time.Time // of the last call that was hit; for good: of the removal
}

// hitsEvery is how often an injection is looked at: the error of its times.
const hitsEvery = 20 * time.Millisecond

// inject makes the n-th call from now fail, or all from the n-th on.
func (m *machine) inject(f fault, n int, once bool) *injection {
	in := &injection{skip: n - 1, calls: func() int { return m.kms.Calls("*") }, quit: make(chan struct{})}
	if once {
		in.count = 1
	}
	f.inject.Skip, f.inject.Count = in.skip, in.count
	in.before = in.calls()
	in.take = m.kms.Inject(f.inject)
	in.watching.Go(func() { // ends with remove
		tick := time.NewTicker(hitsEvery)
		defer tick.Stop()
		for {
			select {
			case <-in.quit:
				return
			case <-tick.C:
				in.hits()
			}
		}
	})
	m.t.Cleanup(func() { in.remove() })
	return in
}

// hits returns how many calls have failed so far.
func (in *injection) hits() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.take == nil {
		return in.seen
	}
	hit := max(0, in.calls()-in.before-in.skip)
	if in.count > 0 {
		hit = min(hit, in.count)
	}
	if hit > in.seen {
		in.seen, in.lastFault = hit, time.Now()
		if in.firstHit.IsZero() {
			in.firstHit = in.lastFault
		}
	}
	return hit
}

// remove ends the fault and returns how many calls it has hit. It can be called
// again.
func (in *injection) remove() int {
	hits := in.hits()
	in.mu.Lock()
	take := in.take
	in.take = nil
	in.mu.Unlock()
	if take == nil {
		return hits
	}
	close(in.quit)
	in.watching.Wait()
	take()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.count == 0 || in.lastFault.IsZero() {
		in.lastFault = time.Now()
	}
	return hits
}

// times returns when the first call failed (zero: none did) and when the last.
func (in *injection) times() (firstHit, lastFault time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.firstHit, in.lastFault
}
