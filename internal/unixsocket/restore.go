package unixsocket

import (
	"context"
	"errors"
	"net"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// Keep puts the socket back whenever its file is gone or its listener is broken,
// until ctx ends. serve is called with each new listener, from this goroutine.
func (s *Socket) Keep(ctx context.Context, serve func(net.Listener)) {
	ticker := time.NewTicker(s.timing.Keep)
	defer ticker.Stop()
	reported := ""
	fresh := make(chan net.Listener, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-fresh:
			serve(l)
			continue
		case <-ticker.C:
		}
		err := s.onFile(ctx, s.keeping, func(ctx context.Context) error {
			return s.restore(ctx, func(l net.Listener) { fresh <- l })
		})
		if ctx.Err() != nil {
			return
		}
		s.noteLoss(err)
		if err != nil && err.Error() != reported {
			what := LossWords(err)
			if what == "socket file is gone" {
				what += " and cannot be put back"
			}
			s.log.Error(what+": trying again", "socket", s.path, "error", err.Error())
		}
		reported = ""
		if err != nil {
			reported = err.Error()
		}
	}
}

// LossWords say why callers may not find the socket.
func LossWords(err error) string {
	if _, ok := errors.AsType[*HungError](err); ok {
		return "socket file cannot be looked at"
	}
	return "socket file is gone"
}

// restore makes the file again where it is not this socket's any more. Where it
// was left behind it may do so late.
func (s *Socket) restore(ctx context.Context, serve func(net.Listener)) error {
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
		s.log.Warn("socket file was removed: put back; restart its socket unit, which knows only the one before, on this node alone and while KMS answers", "socket", s.path)
	}
	serve(s.Current())
	_ = old.Close()
	return nil
}

// owns reports whether the file of that name is the one that this socket made, and
// leads to a listener.
func (s *Socket) owns() bool {
	var file FileID
	var err error
	if !s.abstract() {
		file, err = identify(s.path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && file == s.file && !s.broken
}

// Owns reports whether callers reach this process by the file. It is false where the
// file system does not say so within the limit.
func (s *Socket) Owns(ctx context.Context, limit time.Duration) bool {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	owns, err := bounded.DoIn(limited, s.looking, func(context.Context) (bool, error) { return s.owns(), nil })
	return err == nil && owns
}

// Renounce makes Keep put another socket in the place of one whose listener is
// broken and closed. It returns false where that is not the present one.
func (s *Socket) Renounce(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != l || s.closed {
		return false
	}
	s.broken = true
	return true
}

// noteLoss keeps why callers cannot find the socket, and since when.
func (s *Socket) noteLoss(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lostAt = time.Now()
	}
	s.lost = err
}

// Problem returns why callers cannot find the socket and since when, nil where
// they can.
func (s *Socket) Problem() (since time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lostAt, s.lost
}

// Current returns the listener, nil before the socket is claimed.
func (s *Socket) Current() net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}
