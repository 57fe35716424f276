package inquiry_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
)

// The way goes through what links lead to, as the kernel's does.
func TestWayFollowsLinks(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(daemontest.Directory(t))
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.MkdirAll(in("a/b"), 0o750), os.MkdirAll(in("c"), 0o701),
		os.Symlink("a", in("relative")), os.Symlink(in("c"), in("a/b/absolute")), os.Symlink("../a/./b", in("c/up")), os.Symlink("loop", in("loop")),
		os.Symlink("b/s", in("a/direct")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", in("a/b/s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for path, want := range map[string]struct {
		way []string // below dir
		err error
	}{
		"a/b/s":                   {[]string{"a", "a/b", "a/b/s"}, nil},
		"relative/b/s":            {[]string{"a", "a/b", "a/b/s"}, nil},
		"relative/direct":         {[]string{"a", "a/b", "a/b/s"}, nil},
		"a/b/absolute/up/s":       {[]string{"a", "a/b", "c", "a/b/s"}, nil},
		"c/../a/b/s":              {[]string{"a", "a/b", "a/b/s"}, nil}, // cleaned, as by the daemon
		"a/none/s":                {[]string{"a"}, unix.ENOENT},
		"loop/s":                  {nil, unix.ELOOP},
		"a/b/s/../../../relative": {[]string{"a"}, nil},
	} {
		way, err := inquiry.LookAtWay(in(path))
		var got []string
		for _, s := range way.Steps() {
			if below, err := filepath.Rel(dir, s.Path); err == nil && filepath.IsLocal(below) && below != "." {
				got = append(got, below)
			}
			if s.Socket != (s.Path == in("a/b/s")) {
				t.Errorf("%s: %+v", path, s)
			}
		}
		if !slices.Equal(got, want.way) || !errors.Is(err, want.err) {
			t.Errorf("%s: %q, %v; want %q, %v", path, got, err, want.way, want.err)
		}
		way.Close()
	}
}
