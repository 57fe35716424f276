package unixsocket

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// makeDirs makes the directories that are missing, each with the mode, whatever the
// umask, and returns those that it made, also where it fails.
func (f Files) makeDirs(dir string, mode fs.FileMode) (made []string, err error) {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if made, err = f.makeDirs(parent, mode); err != nil {
			return made, err
		}
	}
	err = f.Mkdir(dir, 0o700) // until it is the right one
	switch {
	case errors.Is(err, fs.ErrExist): // somebody was faster, or it is a dangling link: opening it will tell
		return made, nil
	case err != nil:
		return made, err
	}
	return append(made, dir), f.Secure(dir, mode)
}
