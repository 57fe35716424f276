package testkit

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// roleVariable makes a test binary another process of a test: a holder of a socket, or
// a caller with a pid and a uid of its own.
const roleVariable = "AEP_TEST_ROLE"

// Play plays the role that the process was started for by [Another], and reports
// whether there was one. TestMain calls it first.
func Play[R interface{ Play(in *bufio.Scanner) }]() bool {
	text := os.Getenv(roleVariable)
	if text == "" {
		return false
	}
	var r R
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		panic(err)
	}
	r.Play(bufio.NewScanner(os.Stdin))
	return true
}

// Say answers the process of the test: with done, or the error.
func Say(err error, done string) {
	if err != nil {
		done = "error: " + err.Error()
	}
	_, _ = fmt.Fprintln(os.Stdout, done)
}

// A Process is the other process of a test. It answers on its standard output, a line
// at a time, and ends with its standard input.
type Process struct {
	t   testing.TB
	cmd *exec.Cmd
	in  interface{ Close() error }
	ask func(string)
	out *bufio.Scanner
}

// Another starts the test binary once more to play a role, which becomes JSON on the
// way, as the user uid where that is not this one's. It ends with the test.
func Another(t testing.TB, role any, uid int) *Process {
	t.Helper()
	text, err := json.Marshal(role)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe") // by this name any user may run it
	cmd.Env = append(os.Environ(), roleVariable+"="+string(text), "GORACE=log_path=/dev/null", "GOCOVERDIR="+os.DevNull)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != os.Getuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)} //nolint:gosec // a test's uid is small
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out), ask: func(line string) { _, _ = fmt.Fprintln(in, line) }}
	t.Cleanup(p.Kill)
	return p
}

// Ask writes a line to the process.
func (p *Process) Ask(line string) { p.ask(line) }

// Line returns the next line that the process writes.
func (p *Process) Line() string {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("the other process has ended without an answer: %v", p.out.Err())
	}
	return p.out.Text()
}

// Expect asks for something, where that is not "", and fails the test unless the answer
// is want.
func (p *Process) Expect(ask, want string) {
	p.t.Helper()
	if ask != "" {
		p.ask(ask)
	}
	if got := p.Line(); got != want {
		p.t.Fatalf("the other process, asked %q, said %q, want %q", ask, got, want)
	}
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Leave ends the process in good order.
func (p *Process) Leave() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// Kill kills the process.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
