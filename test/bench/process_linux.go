package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what a process has used, user and system together, to the
// nanosecond: /proc shows hundredths of a second.
//
// https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
func cpuTime(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|scheduled, &ts); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// residentBytes is the memory that a process has, the pages of its binary
// included, and how much of it is its own.
func residentBytes(pid int) (all, own int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	of := map[string]int{}
	for line := range strings.Lines(string(text)) {
		name, kB, _ := strings.Cut(line, ":")
		if n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kB), " kB")); err == nil {
			of[name] = n << 10
		}
	}
	if of["VmRSS"] == 0 || of["RssAnon"] == 0 {
		return 0, 0, fmt.Errorf("no VmRSS and RssAnon of process %d", pid)
	}
	return of["VmRSS"], of["RssAnon"], nil
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // a machine may not tell
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// childAttr has the kernel kill a child whose parent dies, however that happens.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
