package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"
)

// An address is given out free, and belongs to nobody while its server is down
// between two lives. Whoever takes it then holds it for a moment, or, with an
// outgoing connection, until a minute after that has ended.
const (
	addressLimit = 2 * time.Minute // for which a server waits for its address
	addressPause = time.Second     // between two tries
)

// Ports of which the servers' are chosen, where the kernel leaves as many as
// enoughPorts of them alone.
const (
	firstPort   = 5000
	lastPort    = 65535
	enoughPorts = 2000
)

// A portRange is both ends and what lies between.
type portRange struct{ first, last int }

func (r portRange) size() int { return max(0, r.last-r.first+1) }

// outgoing is the range out of which the kernel serves connections that go out
// and listeners that name no port.
func outgoing() portRange {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if r, ok := parsePortRange(text); err == nil && ok {
		return r
	}
	return portRange{32768, lastPort} // Linux' and IANA's together
}

func parsePortRange(text []byte) (r portRange, ok bool) {
	_, err := fmt.Fscan(bytes.NewReader(text), &r.first, &r.last)
	return r, err == nil && r.first > 0 && r.size() > 0 && r.last <= lastPort
}

// portsBeside are those that the kernel gives to nobody of its own accord, or
// all of them where these are too few.
func portsBeside(taken portRange) []int {
	var beside, all []int
	for port := firstPort; port <= lastPort; port++ {
		all = append(all, port)
		if port < taken.first || port > taken.last {
			beside = append(beside, port)
		}
	}
	if len(beside) < enoughPorts {
		return all
	}
	return beside
}

// Address returns a free address of the form 127.0.0.1:PORT and gives it out
// only once.
func (h *Host) Address(ctx context.Context) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	const tries = 100
	for range tries {
		port := h.ports[rand.IntN(len(h.ports))] //nolint:gosec // a port is no secret
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
	return "", fmt.Errorf("no free one of %d ports from %d on in %d tries", len(h.ports), h.ports[0], tries)
}

// listen waits for the address where it is in use.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var l net.Listener
	var failed error // by something that does not pass
	err := Poll(ctx, startPoll, addressLimit, nil, func(ctx context.Context) (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			failed, err = err, nil
		}
		return err
	})
	return l, errors.Join(err, failed)
}

// serve starts the program and waits until ready returns nil. A program that
// ends because its address is in use is started again, as an operator's machine
// would do it; every other end is an error.
func (p *Program) serve(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	giveUp := time.Now().Add(addressLimit)
	for {
		if err := p.Start(); err != nil {
			return err
		}
		err := Poll(ctx, startPoll, limit, p.Exited(), ready)
		if err == nil || p.Running() || !p.addressInUse() || time.Now().After(giveUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(addressPause):
		}
	}
}

// addressInUse reports whether the present or last life has complained of that.
func (p *Program) addressInUse() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, err := os.ReadFile(p.Log)
	return err == nil && bytes.Contains(data[min(p.born, len(data)):], []byte(syscall.EADDRINUSE.Error()))
}
