package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
)

// roleVariable makes this binary one of the processes beside the plugin.
const roleVariable = "BENCH_ROLE"

// service is the name under which a role's methods are called.
const service = "Role"

// None stands for arguments and results that do not exist. It has a field
// because gob demands one.
type None struct{ Nothing bool }

// runRole serves one role's methods over stdin and stdout until stdin ends,
// which it does when the parent dies.
func runRole(role string, in io.ReadCloser, out io.WriteCloser, complaints io.Writer) int {
	receiver, err := newRole(role)
	if err == nil {
		server := rpc.NewServer()
		if err = server.RegisterName(service, receiver); err == nil {
			server.ServeConn(stdio{in, out})
			return 0
		}
	}
	fmt.Fprintf(complaints, "bench as %s: %v\n", role, err)
	return 1
}

func newRole(role string) (any, error) {
	switch role {
	case "emulator":
		return newEmulator()
	case "bare":
		return &Bare{}, nil
	case "sdk":
		return &SDK{}, nil
	case "callers":
		return &Callers{}, nil
	}
	return nil, errors.New("there is no such role")
}

type stdio struct {
	io.ReadCloser
	io.WriteCloser
}

// Close closes both directions.
func (s stdio) Close() error { return errors.Join(s.ReadCloser.Close(), s.WriteCloser.Close()) }

// A child is a process in a role. Its methods are called one at a time or side
// by side.
type child struct {
	*rpc.Client

	cmd *exec.Cmd
}

// start starts this binary in a role.
func start(ctx context.Context, role string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self) // ends with its stdin
	cmd.Env = append(environment(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = childAttr()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", role, err)
	}
	return &child{Client: rpc.NewClient(stdio{out, in}), cmd: cmd}, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// call calls a method of the role.
func (c *child) call(method string, args, result any) error {
	if err := c.Call(service+"."+method, args, result); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// end ends the process and waits for it.
func (c *child) end() {
	_ = c.Close() // its stdin ends
	_ = c.cmd.Wait()
}

// environment is what every child gets: credentials that the emulator takes, and
// nothing of the user's AWS settings.
func environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull,
		"AWS_ACCESS_KEY_ID=" + accessKeyID, "AWS_SECRET_ACCESS_KEY=" + secretAccessKey, "AWS_REGION=" + region,
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull, "AWS_EC2_METADATA_DISABLED=true",
	}
}
