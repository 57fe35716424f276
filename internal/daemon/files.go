package daemon

import (
	"context"
	"io/fs"
	"net"
	"os"

	"github.com/fsnotify/fsnotify"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// files are the operations on files that sockets and reloads need. Only tests
// have others than usualFiles, to make the n-th one fail.
type files struct {
	read   func(path string) ([]byte, error) // a file of --config
	follow func(path string)                 // the directories of a socket
	notify func() (*fsnotify.Watcher, error)
	mkdir  func(path string, mode fs.FileMode) error
	lock   func(ctx context.Context, path string) (unlock func(), err error) // the name of a socket
	listen func(ctx context.Context, path string, mode uint32) (*net.UnixListener, error)
	accept func(net.Listener) (net.Conn, error)
	chown  func(path string, file fileID, gid int) error          // of a socket
	chmod  func(path string, file fileID, mode fs.FileMode) error // of a socket
	secure func(dir string, mode fs.FileMode) error               // of a directory that was just made
	remove func(path string) error
}

func usualFiles() files {
	return files{
		read: config.ReadFile, follow: func(path string) { canonical(path) }, notify: fsnotify.NewWatcher, mkdir: os.Mkdir, lock: lock, listen: listenUnix,
		accept: net.Listener.Accept,
		chown:  chownFile, chmod: chmodFile, secure: chmodDirectory, remove: os.Remove,
	}
}
