package unixsocket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"
)

// Access says who may open a socket's file.
type Access struct {
	Mode  fs.FileMode
	Group int // -1: the process's own
}

// directory is the mode of directories that are made for the socket: whom the socket
// lets in can reach it.
func (a Access) directory() fs.FileMode {
	if a.Mode&0o077 != 0 {
		return 0o755
	}
	return 0o700
}

// adopt gives a new file its group, then its mode: in the other order, a group
// that is not meant could come in between.
func (s *Socket) adopt(listener net.Listener) error {
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
	if want.Group >= 0 {
		if err := s.giveGroup(file, want.Group); err != nil {
			return err
		}
	}
	if err := s.files.Chmod(s.path, file, want.Mode); err != nil {
		return err
	}
	return s.take(listener, file, born, true)
}

func (s *Socket) giveGroup(file FileID, gid int) error {
	err := s.files.Chown(s.path, file, gid)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("giving it the group of %s: %w; run the process in group %d: in a pod by supplementalGroups, under systemd by SupplementaryGroups=%d and SystemCallFilter=@chown "+
			"in a drop-in of its service, or give the socket a ListenStream= and a SocketGroup= in its socket unit; do that on one node after the other, and while KMS answers", s.words.Group, err, gid, gid)
	}
	return fmt.Errorf("giving it the group of %s: %w", s.words.Group, err)
}

// setAccess changes who may open the file, now where it is there and else when
// it is made, and returns who might before. After an error all is as before.
func (s *Socket) setAccess(next Access) (before Access, err error) {
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

func (s *Socket) wants() Access {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want
}

// warnOfAccess says where the file of a socket that was handed over lets in others
// than this process's own settings would.
func (s *Socket) warnOfAccess(want Access, st unix.Stat_t) {
	mode := fs.FileMode(st.Mode & 0o777)
	if mode == want.Mode && (want.Group < 0 || want.Group == int(st.Gid)) {
		return
	}
	s.log.Warn("the socket was handed over with another mode or group than is configured here: its socket unit decides, by SocketMode=, SocketUser= and SocketGroup=",
		"socket", s.path, "mode", fmt.Sprintf("%#o", mode), "group", st.Gid, "configured_mode", fmt.Sprintf("%#o", want.Mode), "configured_group", want.Group)
}

// change never lets in, in between, whom neither the old nor the new Access does.
func (s *Socket) change(file FileID, from, to Access, born int) error {
	if from.Group != to.Group {
		if err := s.files.Chmod(s.path, file, from.Mode&to.Mode); err != nil {
			return err
		}
		gid := to.Group
		if gid < 0 {
			gid = born
		}
		if err := s.giveGroup(file, gid); err != nil {
			return err
		}
	}
	return s.files.Chmod(s.path, file, to.Mode)
}
