// Package roottest is for tests that only root can run.
package roottest

import (
	"os"
	"testing"
)

// Needs is called by a test that only root can run; why says what for. Where somebody
// else runs the tests it skips this one; in CI it fails, so that nobody takes a test that
// did not run for one that passed.
func Needs(t testing.TB, why string) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatalf("CI has to run this test as root: %s", why)
	default:
		t.Skipf("only root can run this test: %s", why)
	}
}
