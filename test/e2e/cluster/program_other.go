//go:build !linux

package cluster

import "syscall"

// childAttr puts a child into a process group of its own, so that Ctrl-C at a
// terminal reaches the parent alone.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
