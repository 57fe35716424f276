package unixsocket

import (
	"path/filepath"
	"strings"
)

// Same reports whether two paths are the same socket, by whatever links they
// lead there: /var/run is one on most systems.
func Same(a, b string) bool {
	return a == b || Canonical(a) == Canonical(b)
}

// Canonical is a socket's path without links in it, as far as it is there.
func Canonical(path string) string {
	if strings.HasPrefix(path, "@") {
		return path
	}
	path = filepath.Clean(path)
	dir, rest := filepath.Split(path)
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		if there, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(there, rest)
		}
		if dir == filepath.Dir(dir) {
			return path
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}
