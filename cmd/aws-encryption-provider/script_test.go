package main

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sigs.k8s.io/aws-encryption-provider/internal/scripttest"
)

var update = flag.Bool("update", false, "write what the program prints into the scripts")

// TestScripts runs testdata/script: what a person types, and to the word what the
// program answers. Their own commands are
//
//	exits CODE COMMAND ...   runs the program, which has to exit with the code
//	narrow FILE ...          fails for a line that a terminal of 80 columns breaks
func TestScripts(t *testing.T) {
	bin := programDirectory(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv(asProgram, "1")
			return nil
		},
		Cmds: scripttest.Commands("aws-encryption-provider", nil),
	})
}

// programDirectory has the test binary in it under the program's name.
func programDirectory(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(exe, filepath.Join(dir, "aws-encryption-provider")); err != nil {
		t.Fatal(err)
	}
	return dir
}
