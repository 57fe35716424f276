package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
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

	ports []int // to choose from

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
	return NewHostOf(bin), nil
}

// NewHostOf returns a Host with the programs that bin names. It can start no
// others.
func NewHostOf(bin Binaries) *Host {
	return &Host{
		Bin:      bin,
		starting: make(chan struct{}, maxStarting),
		ports:    portsBeside(outgoing()),
		taken:    map[int]bool{},
	}
}

// environment is what every program gets: enough to run, and nothing of the
// caller's AWS settings or proxies.
func environment(dir string, more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir()}, more...)
}

// replaceFile writes a file in one step.
func replaceFile(path, text string) error {
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
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
