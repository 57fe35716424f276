package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"
)

const (
	// uid is of the length of those that an API server sends.
	uid = "0b5e8d9c-4f0e-4d3c-9a57-2f6f1a6f2b11"
	// callTimeout is an API server's default.
	callTimeout = 3 * time.Second
)

// seed is what is encrypted: as long as an API server's DEK seed.
func seed() []byte { return bytes.Repeat([]byte{0x5e}, 32) }

// Callers is the role of API servers: callers that share one connection, as
// those of an API server do.
type Callers struct {
	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by socket
}

// What a caller does.
const (
	cryptOp  = "crypt"  // Encrypt, then Decrypt what came, and so on
	statusOp = "status" // Status
)

// A Load is what callers are to do.
type Load struct {
	Socket  string
	Op      string
	Callers int
	For     time.Duration
	Pace    time.Duration // from the start of one call of a caller to its next; 0: none
}

// Run makes calls and tells how they went.
func (c *Callers) Run(l Load, r *Result) error {
	conn, err := c.conn(l.Socket)
	if err != nil {
		return err
	}
	*r = drive(l.Callers, l.For, l.Pace, func() func(context.Context) error {
		if l.Op == statusOp {
			return statusCaller(conn)
		}
		return cryptCaller(conn)
	})
	return nil
}

func (c *Callers) conn(socket string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conns[socket]; conn != nil {
		return conn, nil
	}
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	if c.conns == nil {
		c.conns = map[string]*grpc.ClientConn{}
	}
	c.conns[socket] = conn
	return conn, nil
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func statusCaller(conn *grpc.ClientConn) func(context.Context) error {
	client := v2.NewKeyManagementServiceClient(conn)
	return func(ctx context.Context) error {
		_, err := client.Status(ctx, &v2.StatusRequest{})
		return err
	}
}

func cryptCaller(conn *grpc.ClientConn) func(context.Context) error {
	client := v2.NewKeyManagementServiceClient(conn)
	var sealed *v2.EncryptResponse
	return func(ctx context.Context) (err error) {
		if sealed == nil {
			sealed, err = client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed(), Uid: uid})
			return err
		}
		opened, err := client.Decrypt(ctx, &v2.DecryptRequest{
			Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: uid,
		})
		sealed = nil
		if err == nil && !bytes.Equal(opened.Plaintext, seed()) {
			err = errors.New("what came back is not what went in")
		}
		return err
	}
}

// A Result says how a load went.
type Result struct {
	Calls         int
	Errors        int
	FirstError    string
	Took          time.Duration
	P50, P99, Max time.Duration
}

func (r Result) perSecond() float64 { return float64(r.Calls) / r.Took.Seconds() }

// drive runs callers side by side until the time is over and their last calls
// have ended.
func drive(callers int, span, pace time.Duration, newCaller func() func(context.Context) error) Result {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		r     Result
		times []time.Duration
		start = time.Now()
	)
	for range callers {
		wait.Go(func() {
			call := newCaller()
			var mine []time.Duration
			var failed int
			var first error
			for began := time.Now(); began.Sub(start) < span; began = time.Now() {
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				err := call(ctx)
				cancel()
				took := time.Since(began)
				mine = append(mine, took)
				if err != nil {
					failed++
					first = cmpOr(first, err)
				}
				if took < pace {
					time.Sleep(pace - took)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			r.Errors += failed
			if first != nil && r.FirstError == "" {
				r.FirstError = first.Error()
			}
		})
	}
	wait.Wait()
	r.Took, r.Calls = time.Since(start), len(times)
	r.P50, r.P99, r.Max = quantile(times, .5), quantile(times, .99), quantile(times, 1)
	return r
}

func cmpOr(first, err error) error {
	if first != nil {
		return first
	}
	return err
}

// callers are the role as the parent sees it.
type callers struct{ *child }

func startCallers(ctx context.Context) (callers, error) {
	c, err := start(ctx, "callers")
	return callers{c}, err
}

// load runs a load to its end.
func (c callers) load(l Load) (r Result, err error) {
	return r, c.call("Run", l, &r)
}

// flawless is load where no call may fail.
func (c callers) flawless(l Load) (Result, error) {
	r, err := c.load(l)
	if err == nil && r.Errors > 0 {
		err = fmt.Errorf("%d of %d calls failed: %s", r.Errors, r.Calls, r.FirstError)
	}
	return r, err
}

// recovery is what a key that is well again has until its callers are served: where
// Decrypt was denied, Encrypt waits for the next check, see docs/failures.md.
const recovery = 15 * time.Second

// served waits until callers of a socket are served again.
func (c callers) served(ctx context.Context, socket string) error {
	end := time.Now().Add(recovery)
	for {
		_, err := c.flawless(Load{Socket: socket, Op: cryptOp, Callers: 1, For: 100 * time.Millisecond})
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
	}
}

// A running load can be waited for.
type running struct {
	result Result
	err    error
	done   chan struct{}
}

// begin runs a load beside what follows.
func (c callers) begin(l Load) *running {
	r := &running{done: make(chan struct{})}
	go func() { // ends with the load
		defer close(r.done)
		r.result, r.err = c.load(l)
	}()
	return r
}

func (r *running) wait() (Result, error) {
	<-r.done
	return r.result, r.err
}
