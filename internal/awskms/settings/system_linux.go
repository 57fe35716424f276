package settings

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// What follows is Linux's alone, where the program runs. The operator's tool runs
// elsewhere too.

// mayRead asks the kernel whether this user may read a file, and opens nothing.
func mayRead(path string) error {
	return unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS)
}

// isNull knows /dev/null, by whatever name.
func isNull(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Rdev == unix.Mkdev(1, 3)
}

// ownGroup gives a program a process group of its own, and returns what kills all of it.
func ownGroup(cmd *exec.Cmd) (kill func() error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
