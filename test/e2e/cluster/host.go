package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// Ports come from below the range that kernels give to outgoing connections, so
// that a port stays free while its server is down between two lives.
const (
	firstPort = 20000
	ports     = 10000
)

// maxStarting bounds how many API servers start at once: a start is a second of
// work for a whole core, and its time limits are those of an idle machine.
const maxStarting = 2

// startPoll is how often a program that starts is asked whether it is ready.
const startPoll = 50 * time.Millisecond

// A Host starts programs on this machine. Its methods may be called at once by
// many goroutines.
type Host struct {
	Bin Binaries

	starting chan struct{} // a token for each API server that is starting

	mu    sync.Mutex
	taken map[int]bool // ports given out
}

// NewHost returns a Host with all programs at hand. It builds what is missing
// and says so to progress; plugin and predecessor are put into dir.
func NewHost(ctx context.Context, dir string, progress io.Writer) (*Host, error) {
	bin, err := Build(ctx, dir, progress)
	if err != nil {
		return nil, err
	}
	return &Host{
		Bin:      bin,
		starting: make(chan struct{}, maxStarting),
		taken:    map[int]bool{},
	}, nil
}

// Address returns a free address of the form 127.0.0.1:PORT and gives it out
// only once.
func (h *Host) Address(ctx context.Context) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for range 100 {
		port := firstPort + rand.IntN(ports) //nolint:gosec // a port is no secret
		if h.taken[port] {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return "", err
		}
		h.taken[port] = true
		return address, nil
	}
	return "", fmt.Errorf("no free port between %d and %d in 100 tries", firstPort, firstPort+ports-1)
}

// environment is what every program gets: enough to run, and nothing of the
// caller's AWS settings or proxies.
func environment(dir string, more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir()}, more...)
}

// Poll calls try again and again until it returns nil, and gives up with its
// last error after limit, when ctx ends, or when gone is closed. A nil gone
// never is.
func Poll(ctx context.Context, every, limit time.Duration, gone <-chan struct{}, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err // not the error of a try that the limit cut off
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, last)
		case <-gone:
			return errors.Join(errors.New("the process has ended"), last)
		case <-tick.C:
		}
	}
}
