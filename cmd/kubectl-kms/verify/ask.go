package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// workers is how many DEKs are asked for at once. The rate bounds them further.
	workers = 4
	// tries is how often one is asked for that may work in a moment.
	tries = 4
	// firstWait is between the first two tries; each later wait is twice as long.
	firstWait = time.Second
	// inARow is after how many DEKs that nobody could be asked for the others are left.
	inARow = 8
	// keySize is that of each DEK and seed (k8s.io/apiserver, envelope and kmsv2).
	keySize = 32
)

// An asker has DEKs and seeds unwrapped.
type asker struct {
	o     Options
	inRow atomic.Int64 // that failed by what may pass by itself
}

// all asks for each source that a sample does not leave out. The error is ctx's.
func (a *asker) all(ctx context.Context, list []*source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan *source)
	var wait sync.WaitGroup
	for range workers {
		wait.Go(func() {
			for s := range todo {
				if err := a.one(ctx, s); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, s := range list {
		if !s.left && ctx.Err() == nil {
			todo <- s
		}
	}
	close(todo)
	wait.Wait()
	return context.Cause(ctx)
}

// one asks for a source, again where that may help. The error is ctx's.
func (a *asker) one(ctx context.Context, s *source) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if a.o.Opener == nil || a.inRow.Load() >= inARow {
		return nil
	}
	for try := 1; ; try++ {
		u, err := a.o.Opener.Open(ctx, s.wrapped)
		if ctx.Err() != nil {
			u.Secret.Clear()
			return ctx.Err()
		}
		refusal := (*Refusal)(nil)
		if err != nil && !errors.As(err, &refusal) {
			return err
		}
		if refusal != nil && refusal.Again && try < tries {
			if err := pause(ctx, firstWait<<(try-1)); err != nil {
				return err
			}
			continue
		}
		a.note(s, u, refusal)
		return nil
	}
}

func (a *asker) note(s *source, u Unwrapped, refusal *Refusal) {
	if refusal == nil && len(u.Secret) != keySize {
		refusal = &Refusal{State: Damaged, Text: fmt.Sprintf("%d bytes were wrapped, and a DEK or a seed has %d: this is none of kube-apiserver's", len(u.Secret), keySize)}
	}
	s.asked, s.by, s.wrong = true, u.Key, refusal
	if a.o.Open && refusal == nil {
		s.plain = u.Secret
	} else {
		u.Secret.Clear()
	}
	if refusal != nil && !refusal.State.Refuses() {
		a.inRow.Add(1)
	} else {
		a.inRow.Store(0)
	}
	a.o.Progress.done.Add(1)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
