package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/generate"
)

// output is where a command puts files.
type output struct {
	dir   string // "": they are printed
	force bool
}

func (o *output) define(set *pflag.FlagSet) {
	set.StringVar(&o.dir, "out", "", "`DIR` that the files go to; default: all to standard output")
	set.BoolVar(&o.force, "force", false, "write over files that are there")
}

// write makes all files, or none where one is there already. One that several kinds
// have in common may be, if it says the same.
func (o *output) write(s Streams, files []generate.File) error {
	if !o.force {
		for _, file := range files {
			name := filepath.Join(o.dir, file.Name)
			if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) && !(file.Common && says(name, file.Text)) {
				return fmt.Errorf("%s is there already: --force writes over it", name)
			}
		}
	}
	for _, file := range files {
		if err := o.writeFile(file); err != nil {
			return fmt.Errorf("writing files: %w", err)
		}
		fmt.Fprintln(s.Out, filepath.Join(o.dir, file.Name))
	}
	return nil
}

// says tells whether a file has this text already.
func says(name, text string) bool {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(text)) {
		return false
	}
	data, err := os.ReadFile(name) //nolint:gosec // the operator names it
	return err == nil && string(data) == text
}

// writeFile never leaves half a file, nor the mode of the one before.
func (o *output) writeFile(file generate.File) error {
	name := filepath.Join(o.dir, file.Name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil { //nolint:gosec // as those of /etc
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(next.Name()) //nolint:errcheck // gone when all went well
	mode := fs.FileMode(0o644)
	if file.Secret {
		mode = 0o600
	}
	_, err = next.WriteString(file.Text)
	if err := errors.Join(err, next.Chmod(mode), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), name)
}
