package daemon

import (
	"context"
	"net"

	"github.com/fsnotify/fsnotify"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/lastknown"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// files are the operations of the system that the process needs: those on files, and
// those that make connections. Only tests have others than usualFiles, to make the n-th
// one fail, or to have no system below them.
type files struct {
	unixsocket.Files

	read   func(path string) ([]byte, error) // a file of --config
	follow func(path string)                 // the directories of a socket
	notify func() (*fsnotify.Watcher, error)
	accept func(net.Listener) (net.Conn, error)
	listen func(ctx context.Context, network, address string) (net.Listener, error) // for the health port
	dial   func(ctx context.Context, network, address string) (net.Conn, error)     // of KMS; nil: the SDK's own
	clock  lastknown.Clock                                                          // of what outlives the process
}

func usualFiles() files {
	return files{
		Files: unixsocket.System(), read: config.ReadFile, notify: fsnotify.NewWatcher, accept: net.Listener.Accept,
		listen: (&net.ListenConfig{}).Listen, clock: lastknown.SystemClock(),
		follow: func(path string) { unixsocket.Canonical(path) },
	}
}
