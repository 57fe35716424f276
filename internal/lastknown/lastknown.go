// Package lastknown keeps in a small file what one provider knew last, so that a
// process that starts in an outage of KMS can answer Status as the process before
// would have.
//
// The file holds nothing secret: the key_id, the key's ARN and material, a digest
// of the provider's configuration, and when the key last worked. It decides
// nothing about data: no Encrypt and no Decrypt reads it.
//
// What a file says counts only for the same configuration, and only where the
// machine's boot clock and the wall clock have moved alike since it was written:
// after a reboot, or a step of the clock, nobody can tell how old it is.
//
// The file is for its user alone. It is opened without following links, and one
// that others own or may write is not read. It is replaced by rename, so a reader
// finds the old or the new one, and never a part.
package lastknown

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	version = 1
	// maxSize bounds what is read. A key_id has at most 1,024 bytes.
	maxSize = 16 << 10
	// drift is how far the two clocks may have moved apart.
	drift = 5 * time.Second
	// maxName bounds each text in the file, as KMS v2 bounds a key_id.
	maxName = 1024
)

// A State is what a provider knew.
type State struct {
	KeyID    string   // that callers were told last
	KeyARN   string   // of the key that writes
	Material string   // of the key that writes; "": KMS names none
	Left     []string // material of that key before this one
	LeftKeys []LeftKey
	Config   string // digest of the provider's configuration
	LastOK   time.Time
}

// A LeftKey is one that the provider's alias left a short while before.
type LeftKey struct {
	Key string
	At  time.Time
}

// A Clock tells the time twice. It is a struct so that a test can step either.
type Clock struct {
	Wall func() time.Time
	Boot func() time.Duration // since the machine's start, suspends included
}

// SystemClock is the machine's. Boot is CLOCK_BOOTTIME.
//
// https://man7.org/linux/man-pages/man2/clock_gettime.2.html
func SystemClock() Clock {
	return Clock{Wall: time.Now, Boot: func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			return 0 // it never moves, so that no file counts
		}
		return time.Duration(ts.Nano())
	}}
}

// A File is where one provider's state is kept. Its methods must not run at the
// same time.
type File struct {
	Path  string
	Clock Clock
}

// document is the file's content.
type document struct {
	Version  int      `json:"version"`
	KeyID    string   `json:"key_id"`
	KeyARN   string   `json:"key_arn"`
	Material string   `json:"material,omitempty"`
	Left     []string `json:"left_material,omitempty"`
	LeftKeys []left   `json:"left_keys,omitempty"`
	Config   string   `json:"configuration"`
	LastOK   moment   `json:"last_ok"`
}

type left struct {
	Key string `json:"key"`
	At  moment `json:"at"`
}

// A moment is one instant by both clocks, in nanoseconds.
type moment struct {
	Wall int64 `json:"wall"`
	Boot int64 `json:"boot"`
}

// at is a time of this process's clock as a moment.
func (c Clock) at(t time.Time) moment {
	now, boot := c.Wall(), c.Boot()
	age := now.Sub(t)
	return moment{Wall: now.Add(-age).UnixNano(), Boot: int64(boot - age)}
}

// Why a file's state does not count. None of them is an operator's concern.
var (
	ErrOtherConfig = errors.New("it is of another configuration")
	ErrOtherTime   = errors.New("the machine was restarted since, or its clock was set")
)

// Read returns the state that was written last. The error is [fs.ErrNotExist]
// where none was, [ErrOtherConfig] or [ErrOtherTime] where it does not count, and
// otherwise says what is wrong with the file. LastOK is by this process's clock.
func (f *File) Read(config string) (State, error) {
	data, err := read(f.Path)
	if err != nil {
		return State{}, err
	}
	d, err := parse(data)
	if err != nil {
		return State{}, fmt.Errorf("reading %s: %w", f.Path, err)
	}
	now, boot := f.Clock.Wall(), f.Clock.Boot()
	age := boot - time.Duration(d.LastOK.Boot)
	moved := now.Sub(time.Unix(0, d.LastOK.Wall))
	switch {
	case d.Config != config:
		return State{}, ErrOtherConfig
	case age < 0, (moved - age).Abs() > drift, boot == 0:
		return State{}, ErrOtherTime
	}
	s := State{KeyID: d.KeyID, KeyARN: d.KeyARN, Material: d.Material, Left: d.Left, Config: d.Config, LastOK: now.Add(-age)}
	for _, l := range d.LeftKeys {
		s.LeftKeys = append(s.LeftKeys, LeftKey{l.Key, now.Add(time.Duration(l.At.Boot) - boot)})
	}
	return s, nil
}

// parse reads a file's content strictly: a file that holds anything else was not
// written by this program.
func parse(data []byte) (document, error) {
	var d document
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return document{}, err
	}
	if decoder.More() {
		return document{}, errors.New("more than one document")
	}
	if d.Version != version {
		return document{}, fmt.Errorf("version %d, want %d", d.Version, version)
	}
	for _, text := range []string{d.KeyID, d.KeyARN, d.Config} {
		if text == "" || !plain(text) {
			return document{}, errors.New("a name is missing, too long, or has characters that no name has")
		}
	}
	for _, l := range d.LeftKeys {
		if l.Key == "" || !plain(l.Key) {
			return document{}, errors.New("a key that was left has no name, or one that no key has")
		}
	}
	for _, id := range append(d.Left, d.Material) {
		if !plain(id) {
			return document{}, errors.New("key material has characters that none has, or is too long")
		}
	}
	return d, nil
}

// plain reports whether a text may stand in a key_id: printable ASCII, and short.
func plain(text string) bool {
	for _, c := range []byte(text) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(text) <= maxName
}

// read reads a file that is this user's alone.
func read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() { _ = file.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 || st.Nlink != 1 {
		return nil, fmt.Errorf("%s is not a file of this user alone", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxSize)
	}
	return data, err
}

// Write replaces the file. The state's times must be of this process's clock.
func (f *File) Write(s State) error {
	var keys []left
	for _, l := range s.LeftKeys {
		keys = append(keys, left{l.Key, f.Clock.at(l.At)})
	}
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false) // a key_id has an ampersand, and people read it
	err := encoder.Encode(document{
		Version: version, KeyID: s.KeyID, KeyARN: s.KeyARN, Material: s.Material, Left: s.Left, LeftKeys: keys, Config: s.Config,
		LastOK: f.Clock.at(s.LastOK),
	})
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.Path, err)
	}
	next := f.Path + ".new"
	// One that is there was left by a process that was killed, or was put there: O_EXCL
	// neither follows it nor takes it over.
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := write(next, data.Bytes()); err != nil {
		return errors.Join(err, removed(next))
	}
	if err := os.Rename(next, f.Path); err != nil {
		return errors.Join(err, removed(next))
	}
	return nil
}

func write(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

// Erase removes the file, where it is there.
func (f *File) Erase() error { return removed(f.Path) }

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Beside returns the path of the file of a socket's provider, in the socket's
// directory, and "" for a socket without a file.
func Beside(socket string) string {
	if socket == "" || socket[0] == '@' {
		return ""
	}
	return filepath.Join(filepath.Dir(socket), "."+filepath.Base(socket)+".state")
}
