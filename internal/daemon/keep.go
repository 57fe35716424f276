package daemon

import (
	"context"
	"errors"
	"net"
	"time"
)

// keep puts the socket back whenever its file is gone or its listener is broken,
// until ctx ends. serve is
// called with each new listener.
func (s *socket) keep(ctx context.Context, serve func(net.Listener)) {
	ticker := time.NewTicker(s.time.keep)
	defer ticker.Stop()
	reported := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := s.restore(ctx, serve)
		s.noteLoss(err)
		if err != nil && err.Error() != reported {
			s.log.Error("socket file is gone and cannot be put back: trying again", "socket", s.path, "error", err.Error())
		}
		reported = ""
		if err != nil {
			reported = err.Error()
		}
	}
}

func (s *socket) restore(ctx context.Context, serve func(net.Listener)) error {
	if s.owns() {
		return nil
	}
	s.mu.Lock()
	old, own, broken := s.listener, s.own, s.broken
	s.mu.Unlock()
	err := s.bind(ctx)
	switch {
	case errors.Is(err, net.ErrClosed):
		return nil
	case err != nil:
		return err
	}
	switch {
	case broken:
		s.log.Warn("another socket is in the place of the broken one", "socket", s.path)
	case own:
		s.log.Warn("socket file was removed: put back", "socket", s.path)
	default:
		s.log.Warn("socket file was removed: put back; restart its socket unit, which knows only the one before", "socket", s.path)
	}
	serve(s.current())
	_ = old.Close()
	return nil
}

// owns says whether the file of that name is the one that this socket made, and
// leads to a listener.
func (s *socket) owns() bool {
	var file fileID
	var err error
	if !s.abstract() {
		file, err = identify(s.path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && file == s.file && !s.broken
}

// renounce makes keep put another socket in the place of one whose listener is
// broken and closed. It returns false where that is not the present one.
func (s *socket) renounce(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != l || s.closed {
		return false
	}
	s.broken = true
	return true
}

// noteLoss keeps why callers cannot find the socket, and since when.
func (s *socket) noteLoss(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lostAt = time.Now()
	}
	s.lost = err
}

// problem returns why callers cannot find the socket and since when, nil where
// they can.
func (s *socket) problem() (since time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lostAt, s.lost
}

func (s *socket) current() net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}
