package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// change makes a configuration the one that is served: all of it, or nothing
// after an error.
func (d *Daemon) change(ctx context.Context, cfg *config.Config) (changes, error) {
	before := d.current.Load()
	if err := d.reach(ctx, before, cfg); err != nil {
		return changes{}, err
	}
	next := d.next(before, cfg) //nolint:contextcheck // what it reads has a limit of its own
	undo, err := d.prepare(ctx, before, next)
	if err == nil {
		err = d.swap(ctx, before, next)
	}
	if err != nil {
		for _, step := range slices.Backward(undo) {
			step()
		}
		d.discard(before, next) //nolint:contextcheck // it outlives ctx
		return changes{}, err
	}
	return compare(before, next), nil
}

// reach follows the directories of all sockets, as the comparison of their names
// does, and fails where a file system does not answer.
func (d *Daemon) reach(ctx context.Context, before *generation, cfg *config.Config) error {
	var paths []string
	for _, s := range before.providers {
		paths = append(paths, s.at.path)
	}
	for _, p := range cfg.Providers {
		paths = append(paths, p.Listen)
	}
	limited, cancel := context.WithTimeout(ctx, d.time.File)
	defer cancel()
	err := bounded.RunIn(limited, d.reaching, func(context.Context) error {
		for _, path := range paths {
			d.files.follow(path)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		return &unixsocket.HungError{What: "looking at the directories of sockets", Limit: d.time.File}
	}
	return err
}

// prepare does all that can fail. What it returns takes it back.
func (d *Daemon) prepare(ctx context.Context, before, next *generation) (undo []func(), err error) {
	if err := d.verify(ctx, before, next); err != nil {
		return nil, err
	}
	if err := next.allMissing(); err != nil { // nothing would be served any more
		return nil, &socketError{err}
	}
	_, fresh := next.without(before)
	for _, e := range fresh {
		if err := e.socket.Claim(ctx, 0); err != nil {
			return undo, &socketError{err} // what the claim has made goes with the endpoint
		}
	}
	want := unixsocket.Access{Mode: next.cfg.Socket.Mode, Group: next.cfg.Socket.Group}
	for _, s := range next.providers {
		if !before.hasEndpoint(s.at) {
			continue
		}
		was, err := s.at.socket.ChangeAccess(ctx, want)
		if err != nil {
			return undo, err
		}
		undo = append(undo, func() {
			if _, err := s.at.socket.ChangeAccess(context.WithoutCancel(ctx), was); err != nil {
				d.log.Error("mode and group of a socket are not as they were", "socket", s.at.path, "error", err.Error())
			}
		})
	}
	return undo, nil
}

// verify checks each key that would write under a key_id of which it has not written
// before, in parallel. Each check sets its own time limit.
//
// A raised epoch is another key_id of the same key: an API server that hears of it
// makes a new DEK seed, and where Encrypt fails its writes stop three minutes later
// (rotateDEKOnKeyIDChange in
// staging/src/k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go).
func (d *Daemon) verify(ctx context.Context, before, next *generation) error {
	errs := make([]error, len(next.providers))
	var checks sync.WaitGroup
	for i, s := range next.providers {
		act, other := "may write", "put another key first that all nodes list"
		if was := before.writer(s.keys[0]); was != nil {
			if was.cfg.Epoch == s.cfg.Epoch {
				continue
			}
			act, other = "writes under another epoch", "leave epoch as it was"
		}
		checks.Go(func() {
			if err := s.provider.Verify(ctx); err != nil {
				errs[i] = fmt.Errorf("provider %s: its first key has to encrypt and decrypt before it %s: %w; mend that, or %s", s.cfg.Name, act, err, other)
			}
		})
	}
	checks.Wait()
	return errors.Join(errs...)
}

// writer returns the provider of g whose first key this is, nil where it is none's.
func (g *generation) writer(k *key) *served {
	for _, s := range g.providers {
		if s.keys[0] == k {
			return s
		}
	}
	return nil
}

// discard ends what a generation that never served would have added.
func (d *Daemon) discard(before, next *generation) {
	instances, endpoints := next.without(before)
	for _, e := range endpoints {
		e.discard()
	}
	ctx, cancel := d.until(d.time.drain)
	defer cancel()
	for _, r := range instances {
		r.end(ctx, d.time.rest, d.ending)
	}
}

// swap makes next the current generation, unless the process ends. Sockets that
// both have change hands while they serve; new ones begin to answer; what is left
// of before ends in the background.
func (d *Daemon) swap(ctx context.Context, before, next *generation) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if d.final || ctx.Err() != nil {
		return errEnds
	}
	oldInstances, gone := before.without(next)
	newInstances, _ := next.without(before)
	d.moveMemories(next, oldInstances)
	for _, r := range newInstances {
		r.start(ctx)
	}
	for _, s := range next.providers {
		s.at.allowed.Store(&next.cfg.Socket.AllowUIDs)
		s.at.server.Set(s.target)
		if before.hasInstance(s.instance) {
			s.provider.ForgetBad()
		}
	}
	for _, s := range next.providers {
		if !before.hasEndpoint(s.at) {
			s.at.serve(ctx)
		}
	}
	for _, e := range gone {
		e.close() //nolint:contextcheck // it outlives ctx
	}
	d.keepHistories(next)
	d.drain(oldInstances, gone) //nolint:contextcheck // it outlives ctx
	d.current.Store(next)       // after that: who sees next may wait for what it replaced
	d.noteSettled()
	for _, s := range next.providers {
		s.at.tryAgain()
	}
	return nil
}

// errEnds is why a generation that is ready does not serve.
var errEnds = errors.New("the process ends")

// keepHistories keeps what callers of each provider were told: one that is removed
// and configured again later does not lead them back. A provider that is renamed
// takes its history along.
func (d *Daemon) keepHistories(next *generation) {
	for _, s := range next.providers {
		maps.DeleteFunc(d.histories, func(_ string, h *provider.History) bool { return h == s.provider.History() })
	}
	for _, s := range next.providers {
		d.histories[s.cfg.Name] = s.provider.History()
	}
}

// moveMemories makes what is known follow the sockets of a new generation, and be
// forgotten with providers that are gone.
func (d *Daemon) moveMemories(next *generation, gone []*instance) {
	paths := map[string]bool{}
	for _, p := range next.cfg.Providers {
		paths[d.memoryPath(p)] = true
	}
	for _, r := range gone {
		r.gone = r.memory != nil && !paths[r.memory.path()]
	}
	for i, s := range next.providers {
		if path := d.memoryPath(next.cfg.Providers[i]); s.memory != nil && path != "" {
			s.memory.move(path, paths[s.memory.path()])
		}
	}
}
