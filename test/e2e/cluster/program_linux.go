package cluster

import "syscall"

// childAttr puts a child into a process group of its own, so that Ctrl-C at a
// terminal reaches the parent alone, and has the kernel kill it when the parent
// dies, however that happens.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
