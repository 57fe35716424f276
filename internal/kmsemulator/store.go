package kmsemulator

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A store holds the current world, the earlier ones that some connection still
// sees, and the file that survives the process.
type store struct {
	latest  atomic.Pointer[world]
	usages  *usages
	durable bool // there is a file, until close
	keep    time.Duration

	mu      sync.Mutex // held through a change, its write to disk included
	file    *stateFile // nil: in memory only, or closed; guarded by mu
	history []*world   // oldest first, the latest last; guarded by mu
}

func openStore(dir string, keep time.Duration, now time.Time) (*store, error) {
	s := &store{keep: keep, usages: &usages{since: now, last: map[keyRef]usage{}}}
	w := emptyWorld()
	if dir != "" {
		file, err := openStateFile(dir)
		if err != nil {
			return nil, err
		}
		if w, err = file.load(s.usages); err != nil {
			_ = file.close()
			return nil, err
		}
		s.file, s.durable = file, true
	}
	w.setWake()
	s.publishLocked(w)
	return s, nil
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	var err error
	if s.usages.unsavedSince(time.Time{}) {
		err = s.saveLocked(s.latest.Load())
	}
	file := s.file
	s.file = nil
	return errors.Join(err, file.close())
}

func (s *store) publishLocked(w *world) {
	s.latest.Store(w)
	if s.keep == 0 {
		return
	}
	s.history = append(s.history, w)
	// A world that was followed more than keep ago is seen by nobody.
	for len(s.history) > 1 && s.history[1].since.Before(w.since.Add(-s.keep)) {
		s.history = s.history[1:]
	}
}

// now returns the latest world, after whatever time has changed in it.
func (s *store) now(now time.Time) (*world, error) {
	w := s.latest.Load()
	if s.durable && s.usages.unsavedSince(now.Add(-usageDelay)) {
		s.saveUsages()
	}
	if w.wake.IsZero() || w.wake.After(now) {
		return w, nil
	}
	if err := s.change(now, func(*world) error { return nil }); err != nil {
		return nil, err
	}
	return s.latest.Load(), nil
}

// seen returns the world that a connection with this delay sees.
func (s *store) seen(now time.Time, delay time.Duration) (*world, error) {
	latest, err := s.now(now)
	if err != nil || delay <= 0 || s.keep == 0 {
		return latest, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	then := now.Add(-delay)
	for i := len(s.history) - 1; i > 0; i-- {
		if !s.history[i].since.After(then) {
			return s.history[i], nil
		}
	}
	return s.history[0], nil
}

// settle forgets the earlier worlds.
func (s *store) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.history); n > 0 {
		s.history = append([]*world(nil), s.history[n-1])
	}
}

// change applies an edit to a fork of the latest world and publishes it once
// it is on disk. Where edit or the disk fails, nothing has happened.
func (s *store) change(now time.Time, edit func(*world) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.latest.Load().fork(now)
	w.pass(now)
	if err := edit(w); err != nil {
		return err
	}
	w.setWake()
	if err := s.saveLocked(w); err != nil {
		return err
	}
	s.publishLocked(w)
	return nil
}

// saveUsages puts the last uses on disk. Where it fails, it is tried again a
// minute later: no call fails by it.
func (s *store) saveUsages() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.saveLocked(s.latest.Load())
}

// saveLocked puts a world and the last uses on disk, if there is one.
func (s *store) saveLocked(w *world) error {
	if s.file == nil {
		return nil
	}
	last, undo := s.usages.take()
	if err := s.file.save(w, s.usages.since, last); err != nil {
		undo()
		return err
	}
	return nil
}
