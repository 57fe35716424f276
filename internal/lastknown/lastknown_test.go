package lastknown_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/lastknown"
)

// machine is a computer whose two clocks a test moves.
type machine struct {
	wall time.Time
	boot time.Duration
}

func newMachine() *machine {
	return &machine{wall: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), boot: 26 * time.Hour}
}

func (m *machine) pass(d time.Duration) { m.wall, m.boot = m.wall.Add(d), m.boot+d }

func (m *machine) file(path string) *lastknown.File {
	return &lastknown.File{Path: path, Clock: lastknown.Clock{
		Wall: func() time.Time { return m.wall },
		Boot: func() time.Duration { return m.boot },
	}}
}

func (m *machine) state() lastknown.State {
	return lastknown.State{
		KeyID:  "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?material=m1",
		KeyARN: "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", Material: "m1",
		Left: []string{"m0"}, LeftKeys: []lastknown.LeftKey{{Key: "arn:aws:kms:us-west-2:111122223333:key/0", At: m.wall.Add(-time.Minute)}}, Config: "sha256:00", LastOK: m.wall.Add(-10 * time.Second),
	}
}

// kept returns a machine and its file, in which a state was written.
func kept(t *testing.T) (*machine, *lastknown.File) {
	t.Helper()
	m := newMachine()
	f := m.file(filepath.Join(t.TempDir(), ".s.state"))
	if err := f.Write(m.state()); err != nil {
		t.Fatal(err)
	}
	return m, f
}

func TestReadsWhatWasWritten(t *testing.T) {
	t.Parallel()
	m, f := kept(t)
	want := m.state()
	m.pass(time.Hour)
	got, err := f.Read("sha256:00")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	info, err := os.Lstat(f.Path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if err := f.Erase(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read("sha256:00"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Erase: %v", err)
	}
	if err := f.Erase(); err != nil {
		t.Errorf("Erase of what is not there: %v", err)
	}
}

func TestCountsOnlyForTheSameConfigurationAndTime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		happen func(m *machine)
		want   error
	}{
		"time passes":                 {"sha256:00", func(m *machine) { m.pass(24 * time.Hour) }, nil},
		"the clock drifts a little":   {"sha256:00", func(m *machine) { m.pass(time.Hour); m.wall = m.wall.Add(4 * time.Second) }, nil},
		"another configuration":       {"sha256:01", func(*machine) {}, lastknown.ErrOtherConfig},
		"the clock is set forward":    {"sha256:00", func(m *machine) { m.wall = m.wall.Add(time.Hour) }, lastknown.ErrOtherTime},
		"the clock is set back":       {"sha256:00", func(m *machine) { m.pass(time.Minute); m.wall = m.wall.Add(-6 * time.Second) }, lastknown.ErrOtherTime},
		"the machine restarts":        {"sha256:00", func(m *machine) { m.pass(time.Minute); m.boot = 20 * time.Second }, lastknown.ErrOtherTime},
		"it restarts and runs longer": {"sha256:00", func(m *machine) { m.pass(48 * time.Hour); m.boot = 47 * time.Hour }, lastknown.ErrOtherTime},
		"there is no boot clock":      {"sha256:00", func(m *machine) { m.boot = 0; m.wall = m.wall.Add(-26 * time.Hour) }, lastknown.ErrOtherTime},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, f := kept(t)
			c.happen(m)
			if _, err := f.Read(c.config); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestRefusesAFileThatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"a link": func(path string) error {
			return errors.Join(os.Rename(path, path+".there"), os.Symlink(path+".there", path))
		},
		"a second name":     func(path string) error { return os.Link(path, path+".too") },
		"others may read":   func(path string) error { return os.Chmod(path, 0o604) },
		"a group may write": func(path string) error { return os.Chmod(path, 0o620) },
		"a directory":       func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"too long":          func(path string) error { return os.WriteFile(path, []byte(strings.Repeat(" ", 1<<20)), 0o600) },
		"empty":             func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"half":              func(path string) error { return os.WriteFile(path, []byte(`{"version":1,"key_id":"a"`), 0o600) },
		"a key without a name": func(path string) error {
			return replace(path, `"key":"arn:aws:kms:us-west-2:111122223333:key/0"`, `"key":""`)
		},
		"a later version":            func(path string) error { return replace(path, `"version":1`, `"version":2`) },
		"an unknown field":           func(path string) error { return replace(path, `"version":1`, `"version":1,"plaintext":"x"`) },
		"two documents":              func(path string) error { return replace(path, "}}", "}}{}") },
		"no key_id":                  func(path string) error { return replace(path, `"key_id":"arn`, `"key_id":"","key":"arn`) },
		"a line break in the key_id": func(path string) error { return replace(path, `"key_id":"arn`, `"key_id":"\narn`) },
		"a long key_id": func(path string) error {
			return replace(path, `"key_id":"arn`, `"key_id":"`+strings.Repeat("a", 1024)+"arn")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, f := kept(t)
			if err := spoil(f.Path); err != nil {
				t.Fatal(err)
			}
			got, err := f.Read("sha256:00")
			if err == nil || errors.Is(err, fs.ErrNotExist) || !reflect.DeepEqual(got, lastknown.State{}) {
				t.Errorf("got %+v, %v, want nothing, and why", got, err)
			}
			if name == "a directory" {
				return
			}
			if err := f.Write(m.state()); err != nil {
				t.Fatalf("it cannot be written again: %v", err)
			}
			if _, err := f.Read("sha256:00"); err != nil {
				t.Errorf("after a write: %v", err)
			}
		})
	}
}

func replace(path, old, with string) error {
	data, err := os.ReadFile(path)
	if err == nil && !strings.Contains(string(data), old) {
		err = errors.New("nothing to replace")
	}
	return errors.Join(err, os.WriteFile(path, []byte(strings.Replace(string(data), old, with, 1)), 0o600))
}

// A named pipe must not keep a start waiting.
func TestNeverWaitsForAFile(t *testing.T) {
	t.Parallel()
	m := newMachine()
	f := m.file(filepath.Join(t.TempDir(), "pipe"))
	if err := unix.Mkfifo(f.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read("sha256:00"); err == nil {
		t.Error("a named pipe was read")
	}
}

// What a write finds in the place of its new file is not followed, and a write
// that fails leaves the old file and nothing else.
func TestWriteFollowsNoLinkAndLeavesNoPart(t *testing.T) {
	t.Parallel()
	m, f := kept(t)
	precious := filepath.Join(filepath.Dir(f.Path), "precious")
	if err := errors.Join(os.WriteFile(precious, []byte("p"), 0o600), os.Symlink(precious, f.Path+".new")); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(m.state()); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "p" {
		t.Errorf("a link was followed: %q, %v", data, err)
	}
	if err := errors.Join(os.Remove(f.Path), os.Mkdir(f.Path, 0o700), os.WriteFile(filepath.Join(f.Path, "x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(m.state()); err == nil {
		t.Error("a directory was replaced")
	}
	if _, err := os.Lstat(f.Path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part of a write stays: %v", err)
	}
}

func TestBesideASocket(t *testing.T) {
	t.Parallel()
	for socket, want := range map[string]string{
		"/var/run/kmsplugin/socket.sock": "/var/run/kmsplugin/.socket.sock.state",
		"s":                              ".s.state",
		"@abstract":                      "",
		"":                               "",
	} {
		if got := lastknown.Beside(socket); got != want {
			t.Errorf("Beside(%q) is %q, want %q", socket, got, want)
		}
	}
}

// Whatever a file holds, reading it fails or yields names that may be shown and
// that a write keeps.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	m := newMachine()
	seed := m.file(filepath.Join(dir, "seed"))
	if err := seed.Write(m.state()); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(seed.Path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"key_id":"k","key_arn":"a","configuration":"sha256:00","last_ok":{"wall":1,"boot":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMachine()
		file := m.file(filepath.Join(t.TempDir(), "f"))
		if err := os.WriteFile(file.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := file.Read("sha256:00")
		if err != nil {
			return
		}
		for _, text := range append(got.Left, got.KeyID, got.KeyARN, got.Material) {
			if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) || len(text) > 1024 {
				t.Errorf("%q was read", text)
			}
		}
		if err := file.Write(got); err != nil {
			t.Fatal(err)
		}
		if again, err := file.Read("sha256:00"); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
	})
}
