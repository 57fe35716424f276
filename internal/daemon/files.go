package daemon

import (
	"net"

	"github.com/fsnotify/fsnotify"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// files are the operations on files that sockets and reloads need. Only tests
// have others than usualFiles, to make the n-th one fail.
type files struct {
	unixsocket.Files

	read   func(path string) ([]byte, error) // a file of --config
	follow func(path string)                 // the directories of a socket
	notify func() (*fsnotify.Watcher, error)
	accept func(net.Listener) (net.Conn, error)
}

func usualFiles() files {
	return files{
		Files: unixsocket.System(), read: config.ReadFile, notify: fsnotify.NewWatcher, accept: net.Listener.Accept,
		follow: func(path string) { unixsocket.Canonical(path) },
	}
}
