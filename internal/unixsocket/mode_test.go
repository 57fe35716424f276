package unixsocket

import (
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// Without CAP_CHOWN a process gives files only to groups that it is in.
func TestGroupThatTheProcessIsNotInIsExplained(t *testing.T) {
	o := options(filepath.Join(testkit.Directory(t), "s"), &testkit.LogBook{})
	o.Access = Access{0o660, 65534}
	o.Files.Chown = func(path string, _ FileID, _ int) error {
		return &fs.PathError{Op: "chown", Path: path, Err: syscall.EPERM}
	}
	_, err := claim(t.Context(), o)
	if err == nil {
		t.Fatal("claimed")
	}
	for _, want := range []string{"the group of --socket-group: chown " + o.Path + ": operation not permitted", "SupplementaryGroups=65534 and SystemCallFilter=@chown", "supplementalGroups", "SocketGroup="} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("claim: %v, want in it %q", err, want)
		}
	}
	if testkit.Exists(o.Path) {
		t.Error("the socket is there, with another group than was asked for")
	}
}
