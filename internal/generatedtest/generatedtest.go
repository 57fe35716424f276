// Package generatedtest holds generated files of the checkout to what they are
// generated from. Only tests import it.
package generatedtest

import (
	"os"
	"testing"
)

// Current fails the test where a file does not say what is generated for it. With
// write it writes the file first, which `make generate` does.
func Current(t testing.TB, path, want string, write bool) {
	t.Helper()
	if write {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil { //nolint:gosec // a page of the checkout, for all to read
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path) //nolint:gosec // the test names it
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale: run make generate", path)
	}
}
