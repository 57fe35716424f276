package transport

import (
	"cmp"
	"time"
)

// Timing is how long connections wait for what. A field that is zero has the time that
// its comment says.
type Timing struct {
	Dial time.Duration // of a connection, and of its TLS handshake; 0: 2 seconds
	// Proxy is the time for a proxy to open a connection. net/http goes on with it when
	// the request has ended: a minute with a proxy that does not answer CONNECT, and
	// without any limit with a SOCKS proxy. 0: 4 seconds
	Proxy time.Duration
	// Idle keeps connections through the quiet of a v2 cluster, whose next burst is its
	// cold start. KMS closes them when it likes. 0: 15 minutes
	Idle time.Duration
	// OpenAheadPause is the time between tries to open connections ahead while the host
	// cannot be reached, and between two times that connections are replaced because
	// some were silent. 0: 30 seconds
	OpenAheadPause time.Duration
	// LeastHang is what a kept connection has to answer in before the others are
	// suspected too: a caller in a hurry must not close what works. 0: 100 milliseconds
	LeastHang time.Duration
	Close     time.Duration // of goroutines that end when they are told; 0: 1 second
}

func (t Timing) orUsual() Timing {
	return Timing{
		Dial:           cmp.Or(t.Dial, 2*time.Second),
		Proxy:          cmp.Or(t.Proxy, 4*time.Second),
		Idle:           cmp.Or(t.Idle, 15*time.Minute),
		OpenAheadPause: cmp.Or(t.OpenAheadPause, 30*time.Second),
		LeastHang:      cmp.Or(t.LeastHang, 100*time.Millisecond),
		Close:          cmp.Or(t.Close, time.Second),
	}
}
