package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"
)

// access says who may open a socket's file.
type access struct {
	mode  fs.FileMode
	group int // -1: the process's own
}

// directory is the mode of directories that are made for the socket: whom the socket
// lets in can reach it.
func (a access) directory() fs.FileMode {
	if a.mode&0o077 != 0 {
		return 0o755
	}
	return 0o700
}

// adopt gives a new file its group, then its mode: in the other order, a group
// that is not meant could come in between.
func (s *socket) adopt(listener *net.UnixListener) error {
	o, err := openOwn(s.path)
	if err != nil {
		return err
	}
	file, born := idOf(o.st), int(o.st.Gid)
	if err := o.close(); err != nil {
		return err
	}
	s.mu.Lock()
	want := s.want
	s.mu.Unlock()
	if want.group >= 0 {
		if err := s.giveGroup(file, want.group); err != nil {
			return err
		}
	}
	if err := s.files.chmod(s.path, file, want.mode); err != nil {
		return err
	}
	return s.take(listener, file, born, true)
}

func (s *socket) giveGroup(file fileID, gid int) error {
	err := s.files.chown(s.path, file, gid)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("giving it the group of %s: %w; run the process in group %d: in a pod by supplementalGroups, under systemd by SupplementaryGroups=%d and SystemCallFilter=@chown "+
			"in a drop-in of its service, or give the socket a ListenStream= and a SocketGroup= in its socket unit; do that on one node after the other, and while KMS answers", s.settings.group, err, gid, gid)
	}
	return fmt.Errorf("giving it the group of %s: %w", s.settings.group, err)
}

// setAccess changes who may open the file, now where it is there and else when
// it is made, and returns who might before. After an error all is as before.
func (s *socket) setAccess(next access) (before access, err error) {
	s.binding.Lock()
	defer s.binding.Unlock()
	s.mu.Lock()
	old, born, file := s.want, s.born, s.file
	s.want = next
	there, own := s.listener != nil && !s.abstract() && !s.closed, s.own
	s.mu.Unlock()
	if old == next || !there {
		return old, nil
	}
	if !own {
		if st, err := lstat(s.path); err == nil {
			s.warnOfAccess(next, st)
		}
		return old, nil
	}
	if !s.owns() {
		return old, nil
	}
	err = s.change(file, old, next, born)
	if err == nil {
		return old, nil
	}
	s.mu.Lock()
	s.want = old
	s.mu.Unlock()
	return old, fmt.Errorf("changing mode and group of %s: %w", s.path, errors.Join(err, s.change(file, next, old, born)))
}

func (s *socket) wants() access {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want
}

// warnOfAccess says where the file of a socket that was handed over lets in others
// than this process's own settings would.
func (s *socket) warnOfAccess(want access, st unix.Stat_t) {
	mode := fs.FileMode(st.Mode & 0o777)
	if mode == want.mode && (want.group < 0 || want.group == int(st.Gid)) {
		return
	}
	s.log.Warn("the socket was handed over with another mode or group than is configured here: its socket unit decides, by SocketMode=, SocketUser= and SocketGroup=",
		"socket", s.path, "mode", fmt.Sprintf("%#o", mode), "group", st.Gid, "configured_mode", fmt.Sprintf("%#o", want.mode), "configured_group", want.group)
}

// change never lets in, in between, whom neither the old nor the new access does.
func (s *socket) change(file fileID, from, to access, born int) error {
	if from.group != to.group {
		if err := s.files.chmod(s.path, file, from.mode&to.mode); err != nil {
			return err
		}
		gid := to.group
		if gid < 0 {
			gid = born
		}
		if err := s.giveGroup(file, gid); err != nil {
			return err
		}
	}
	return s.files.chmod(s.path, file, to.mode)
}
