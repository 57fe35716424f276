package unixsocket

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
)

// Handed are the listening sockets that a service manager gave the process at its
// start. It gives them once and keeps them itself, so that callers who come while
// no process runs wait for the next one instead of being refused. They stay open
// here too, whether a configuration uses them or not: a later one may.
//
// https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
type Handed struct {
	mu      sync.Mutex
	sockets []*handedSocket
}

type handedSocket struct {
	path string // or @name, as the kernel has it
	file *os.File
	used bool // one of this process's sockets listens on it
}

// NewHanded looks at what was given. What is no listening unix socket is said and
// left alone.
func NewHanded(files []*os.File, log *slog.Logger) *Handed {
	h := &Handed{}
	for _, f := range files {
		l, err := listenerOf(f)
		if err != nil {
			log.Error("what the service manager handed over is no socket to serve on: give its unit a ListenStream= with a path", "descriptor", f.Name(), "error", err.Error())
			continue
		}
		h.sockets = append(h.sockets, &handedSocket{path: l.Addr().String(), file: f})
		_ = l.Close()
	}
	return h
}

// listenerOf returns a listener of its own on a socket that listens already.
// Closing it leaves the socket and its file as they are.
func listenerOf(f *os.File) (*net.UnixListener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok || l.Addr().Network() != "unix" {
		_ = l.Close()
		return nil, fmt.Errorf("it listens on %s %s", l.Addr().Network(), l.Addr())
	}
	return listener, nil
}

// take returns the listener that was handed over for a path, nil where none was.
func (h *Handed) take(path string) (*net.UnixListener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sockets {
		switch {
		case !Same(s.path, path):
			continue
		case s.used:
			return nil, &heldError{os.Getpid()}
		}
		l, err := listenerOf(s.file)
		s.used = err == nil
		return l, err
	}
	return nil, nil //nolint:nilnil // the usual case: the process makes its sockets itself
}

// giveBack lets another take the socket of a path.
func (h *Handed) giveBack(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sockets {
		if Same(s.path, path) {
			s.used = false
		}
	}
}

// Unused returns the sockets on which callers wait in vain.
func (h *Handed) Unused() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var paths []string
	for _, s := range h.sockets {
		if !s.used {
			paths = append(paths, s.path)
		}
	}
	return paths
}

// Close is for the end of the process: no socket uses them any more.
func (h *Handed) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sockets {
		_ = s.file.Close()
	}
	h.sockets = nil
}
