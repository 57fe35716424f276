package kmsemulator

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A FaultKind says how a call fails.
type FaultKind string

// The kinds of [Fault].
const (
	Latency      FaultKind = "latency"       // the answer comes Delay later, and is right
	Throttle     FaultKind = "throttle"      // ThrottlingException, with HTTP 400 as KMS has it
	Internal     FaultKind = "internal"      // KMSInternalException, HTTP 500
	Unavailable  FaultKind = "unavailable"   // HTTP 503 with a body that is no JSON, as from a load balancer
	Hang         FaultKind = "hang"          // no answer until the client leaves or the fault is removed
	Reset        FaultKind = "reset"         // the connection is reset
	Garbage      FaultKind = "garbage"       // HTTP 200 with a body that is no JSON
	ExpiredToken FaultKind = "expired_token" // ExpiredTokenException
	Error        FaultKind = "error"         // the error that Code, Message and Status describe
)

// A Fault makes calls fail. Its zero fields ask for everything: a Fault with a
// Kind alone hits every KMS call.
type Fault struct {
	Operation string // KMS's name for it, "" for each one of KMS; STS' only by name
	Key       string // id or ARN of the key that the call concerns, "" for any
	Kind      FaultKind
	Delay     time.Duration // of Latency

	// Code, Message and Status are the answer of Error. Status 0 is 400.
	Code, Message string
	Status        int

	Rate  float64 // share of the matching calls that are hit; 0 means all
	Skip  int     // matching calls that pass first
	Count int     // matching calls to hit after those; 0 means all the rest
}

// An injected fault is at work until its channel is closed.
type injected struct {
	Fault
	removed chan struct{}
	once    sync.Once
	seen    int // matching calls so far; guarded by faults.mu
	hit     int // calls that it has hit; guarded by faults.mu
}

type faults struct {
	chance func(rate float64) bool

	mu     sync.Mutex
	active []*injected // in order of injection; the first that hits wins
}

// Inject makes calls fail as f says, until remove is called; remove can be
// called more than once, and lets calls that hang go on. Of several faults,
// the one injected first is asked first, and a call is hit by at most one,
// except that Latency adds to any other.
func (e *Emulator) Inject(f Fault) (remove func()) {
	in := &injected{Fault: f, removed: make(chan struct{})}
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	e.faults.active = append(e.faults.active, in)
	return func() { in.once.Do(func() { e.faults.remove(in) }) }
}

func (fs *faults) remove(in *injected) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.active = slices.DeleteFunc(fs.active, func(o *injected) bool { return o == in })
	close(in.removed)
}

// choose returns the faults that hit a call: at most one, after any latencies.
// The key is looked up only where a fault asks for one.
func (fs *faults) choose(operation string, ofKMS bool, lookUp func() *key) []*injected {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var hits []*injected
	var k *key
	looked := false
	for _, in := range fs.active {
		if in.Operation != operation && (in.Operation != "" || !ofKMS) {
			continue
		}
		if in.Key != "" {
			if !looked {
				k, looked = lookUp(), true
			}
			if k == nil || !k.is(in.Key) {
				continue
			}
		}
		if !in.hitsLocked(fs.chance) {
			continue
		}
		hits = append(hits, in)
		if in.Kind != Latency {
			break
		}
	}
	return hits
}

func (in *injected) hitsLocked(chance func(float64) bool) bool {
	in.seen++
	if in.seen <= in.Skip || in.Count > 0 && in.hit >= in.Count || !chance(in.Rate) {
		return false
	}
	in.hit++
	return true
}

// disturb carries out the faults that hit a request. It returns nil when the
// request goes on as if nothing had happened.
func (e *Emulator) disturb(w http.ResponseWriter, r *http.Request, operation, region string, p params) error {
	lookUp := func() *key { return e.concerned(region, p) }
	for _, in := range e.faults.choose(operation, p != nil, lookUp) {
		if err := in.strike(w, r); err != nil {
			return err
		}
	}
	return nil
}

func (in *injected) strike(w http.ResponseWriter, r *http.Request) error {
	switch in.Kind {
	case Latency:
		return in.delay(r)
	case Hang:
		return in.hang(r)
	case Throttle:
		return refuse("ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
	case Internal:
		return internal()
	case ExpiredToken:
		return refuse("ExpiredTokenException", expiredTokenText)
	case Unavailable:
		writeText(w, http.StatusServiceUnavailable, "<html><body><h1>503 Service Unavailable</h1></body></html>\n")
	case Garbage:
		writeText(w, http.StatusOK, "<html>This is not the KMS you are looking for.\n")
	case Reset:
		reset(w)
	case Error:
		e := refuse(in.Code, "%s", in.Message)
		if in.Status != 0 {
			e.status = in.Status
		}
		return e
	}
	return errAnswered
}

func (in *injected) delay(r *http.Request) error {
	timer := time.NewTimer(in.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		return errAnswered
	}
}

func (in *injected) hang(r *http.Request) error {
	select {
	case <-in.removed:
		return nil
	case <-r.Context().Done():
		return errAnswered
	}
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// reset ends the request's connection with a TCP RST.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // no TCP underneath: the nearest to a reset
	}
	raw := conn
	if t, ok := conn.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = raw.Close()
}

// concerned finds the key that a request is about, nil where it names none
// that exists. It serves faults only and judges nothing.
func (e *Emulator) concerned(region string, p params) *key {
	var in struct {
		KeyId, SourceKeyId, DestinationKeyId, TargetKeyId, AliasName *string
		CiphertextBlob                                               []byte
	}
	if err := p.decode(&in); err != nil {
		return nil
	}
	w := e.store.latest.Load()
	c := &call{Emulator: e, caller: caller{principal: e.arn("iam", "", "root"), region: region}, view: w}
	for _, name := range []*string{in.KeyId, in.SourceKeyId, in.TargetKeyId, in.AliasName} {
		if name != nil {
			k, _ := c.anyKey(*name)
			return k
		}
	}
	if b, err := parseBlob(in.CiphertextBlob); err == nil {
		if m := w.handles[b.handle]; m != nil {
			return w.keys[keyRef{region, m.keyID}]
		}
	}
	if in.DestinationKeyId != nil {
		k, _ := c.anyKey(strings.TrimSpace(*in.DestinationKeyId))
		return k
	}
	return nil
}
