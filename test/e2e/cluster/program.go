package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Program is a child process that can be stopped, killed and started again
// with the same command line, as an operator's machine would do it. The output
// of all its lives goes to one log file.
//
// Fill in the exported fields, then call Start; do not change them while it
// runs. The child dies with the process that started it.
type Program struct {
	Name string   // how messages call it
	Path string   // the binary
	Args []string // without the name
	Dir  string   // where it runs; empty: where its parent does
	Env  []string // the whole environment, nothing is inherited
	Log  string   // file that stdout and stderr are appended to

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended; nil before the first Start
	err    error         // how cmd ended; read it after exited is closed
	born   int           // length of the log when this life began
}

// Start runs the program. It returns as soon as the process exists.
func (p *Program) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runningLocked() {
		return fmt.Errorf("%s runs already, pid %d", p.Name, p.cmd.Process.Pid)
	}
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	before, err := log.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "+ %s %s\n", p.Path, strings.Join(p.Args, " "))

	cmd := exec.Command(p.Path, p.Args...) //nolint:noctx // it outlives the call that starts it
	cmd.Env, cmd.Dir = p.Env, p.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited, p.err, p.born = cmd, exited, nil, int(before.Size())
	go func() { // ends with the process
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(exited)
	}()
	return nil
}

func (p *Program) runningLocked() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Running reports whether the process lives.
func (p *Program) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runningLocked()
}

// PID is the process id of the present or last life, 0 before the first.
func (p *Program) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Exited is closed when the present life ends. It is nil before the first.
func (p *Program) Exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// ExitError says how the last life ended: nil for exit code 0.
func (p *Program) ExitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends sig to the process.
func (p *Program) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runningLocked() {
		return fmt.Errorf("%s does not run", p.Name)
	}
	return p.cmd.Process.Signal(sig)
}

// Kill ends the process by SIGKILL and waits for its end. It is no error where
// the process is gone already.
func (p *Program) Kill() error {
	if err := p.Signal(os.Kill); err != nil && p.Running() && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	if exited := p.Exited(); exited != nil {
		<-exited
	}
	return nil
}

// Stop ends the process by SIGTERM. When it lives on for longer than limit it
// is killed, which is an error, as is an exit code other than 0.
func (p *Program) Stop(limit time.Duration) error {
	if !p.Running() {
		return nil
	}
	if err := p.Signal(syscall.SIGTERM); err != nil && p.Running() {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.Exited():
	case <-time.After(limit):
		if err := p.Kill(); err != nil {
			return err
		}
		return fmt.Errorf("%s still ran %v after SIGTERM and was killed; its log ends:\n%s", p.Name, limit, p.Tail(20))
	}
	if err := p.ExitError(); err != nil {
		return fmt.Errorf("%s after SIGTERM: %w; its log ends:\n%s", p.Name, err, p.Tail(20))
	}
	return nil
}

// Tail returns the last lines of the log, for failure messages.
func (p *Program) Tail(lines int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  " + string(bytes.Join(all, []byte("\n  ")))
}
