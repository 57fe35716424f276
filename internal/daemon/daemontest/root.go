package daemontest

import (
	"os"
	"testing"
)

// NeedsRoot is for a test that acts as several users, which root alone can. Where
// somebody else runs the tests it skips this one; in CI it fails, so that nobody takes
// a test that did not run for one that passed.
func NeedsRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("CI has to run this test as root")
	default:
		t.Skip("only root can act as another user")
	}
}
