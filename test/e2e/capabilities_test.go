package e2e

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// TestRunsAsTheGeneratedPod: without a capability and with no way to new ones,
// as the generated pod has it, the program serves, and can still give its socket
// to a group that it is in (supplementalGroups).
func TestRunsAsTheGeneratedPod(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	group, drop := os.Getgid(), []string{"--no-new-privs", "--inh-caps=-all"}
	if os.Getuid() == 0 {
		group = 2000
		drop = append(drop, "--bounding-set=-all", fmt.Sprintf("--groups=%d", group))
	}
	socket := s.socket("pod.sock")
	p := s.plugin(s.key(), socket, "--socket-mode=0660", fmt.Sprintf("--socket-group=%d", group))
	s.must(p.Kill())
	p.Args = append(append(drop, p.Path), p.Args...)
	p.Path = "setpriv" // of util-linux; it becomes the program
	s.must(p.Start(t.Context()))

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	s.must(err)
	if missing := lacks(string(status), "Name:\taws-encryption", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"); missing != nil {
		t.Errorf("the process lacks %q in\n%s", missing, status)
	}
	info, err := os.Stat(socket)
	s.must(err)
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Gid) != group || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %s, %+v, want mode 0660 and group %d", info.Mode(), info.Sys(), group)
	}
	encryptOnce(t, socket)
}
