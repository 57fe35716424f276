// Package scripttest has the commands that scripts of [testscript] need to say what a
// program answers.
package scripttest

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
)

// Commands are those of a program's scripts:
//
//	exits CODE ARGUMENT ...   runs the program, which has to exit with the code
//	narrow FILE ...           fails for a line that has over 80 columns
//
// wide, where it is not nil, reports whether a line may be longer.
func Commands(program string, wide func(line string) bool) map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits":  func(ts *testscript.TestScript, neg bool, args []string) { exits(ts, program, neg, args) },
		"narrow": func(ts *testscript.TestScript, neg bool, args []string) { narrow(ts, wide, neg, args) },
	}
}

func exits(ts *testscript.TestScript, program string, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARGUMENT ...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(program, args[1:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func narrow(ts *testscript.TestScript, wide func(string) bool, neg bool, args []string) {
	const columns = 80
	for _, name := range args {
		for i, line := range strings.Split(ts.ReadFile(name), "\n") {
			n := utf8.RuneCountInString(line)
			if over := n > columns && (wide == nil || !wide(line)); over != neg {
				ts.Fatalf("%s:%d has %d columns: %s", name, i+1, n, line)
			}
		}
	}
}
