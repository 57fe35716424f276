package unixsocket

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// precious makes a file that somebody would have us change, with a mode of its own.
func precious(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "precious")
	if err := os.WriteFile(path, []byte("p"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

// whoever can write to the directory puts something in the socket's place.
func replacements(t *testing.T) map[string]func(path, precious string) error {
	t.Helper()
	return map[string]func(path, precious string) error{
		"a symbolic link": func(path, precious string) error { return os.Symlink(precious, path) },
		"a hard link":     func(path, precious string) error { return os.Link(precious, path) },
		"a hard link to a socket": func(path, precious string) error {
			if err := os.Remove(precious); err != nil {
				return err
			}
			l, err := listenUnix(context.Background(), precious, 0o640)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
			return os.Link(precious, path)
		},
	}
}

func TestSocketThatIsReplacedAsItIsMadeChangesNothingElse(t *testing.T) {
	for name, replace := range replacements(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testkit.Directory(t)
			path, other := filepath.Join(dir, "s"), precious(t, dir)
			ops := System()
			ops.Listen = func(ctx context.Context, path string, mode uint32) (net.Listener, error) {
				l, err := listenUnix(ctx, path, mode)
				if err == nil {
					err = os.Remove(path)
				}
				if err == nil {
					err = replace(path, other)
				}
				return l, err
			}
			o := options(path, &testkit.LogBook{})
			o.Files, o.Access = ops, Access{Mode: 0o666, Group: testkit.OtherGroup(t)}
			_, err := claim(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), "something else has taken the place of "+path) {
				t.Errorf("claim: %v, want what is wrong", err)
			}
			if mode, gid := testkit.Permissions(t, other), testkit.GroupOf(t, other); mode != 0o640 || gid != os.Getegid() {
				t.Errorf("the other file has mode %04o and group %d now, want them as before", mode, gid)
			}
		})
	}
}

func TestSocketThatIsReplacedLaterChangesNothingElse(t *testing.T) {
	for name, replace := range replacements(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testkit.Directory(t)
			path, other := filepath.Join(dir, "s"), precious(t, dir)
			s := mustClaim(t, path)
			file, err := identify(path)
			if err == nil {
				err = os.Remove(path)
			}
			if err == nil {
				err = replace(path, other)
			}
			if err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{
				"chmod": s.files.Chmod(path, file, 0o666), "chown": s.files.Chown(path, file, testkit.OtherGroup(t)),
			} {
				if err == nil {
					t.Errorf("%s: no error", what)
				}
			}
			if mode, gid := testkit.Permissions(t, other), testkit.GroupOf(t, other); mode != 0o640 || gid != os.Getegid() {
				t.Errorf("the other file has mode %04o and group %d now, want them as before", mode, gid)
			}
		})
	}
}

func TestDirectoryThatIsReplacedAsItIsMadeChangesNothingElse(t *testing.T) {
	t.Parallel()
	dir := testkit.Directory(t)
	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	ops := System()
	ops.Mkdir = func(path string, _ fs.FileMode) error { return os.Symlink(other, path) }
	if _, err := ops.makeDirs(filepath.Join(dir, "d"), 0o700); err == nil {
		t.Error("no error")
	}
	if got := testkit.Permissions(t, other); got != 0o755 {
		t.Errorf("what a link leads to has mode %04o now, want 0755 as before", got)
	}
}

// Older kernels cannot change the mode of a descriptor that only names a file.
func TestModeIsChangedOnOlderKernelsToo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testkit.Directory(t), "s")
	mustClaim(t, path)
	o, err := openOwn(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.close() }()
	if err := o.chmodByProc(0o666); err != nil {
		t.Fatal(err)
	}
	if got := testkit.Permissions(t, path); got != 0o666 {
		t.Errorf("mode %04o, want 0666", got)
	}
}
