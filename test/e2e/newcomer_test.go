package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestNewcomersCommandsWorkFromACleanClone runs `make run` and `make demo` as
// somebody does who has just cloned the project, with nothing built before. Only
// the two servers are taken ready-made, which has a test of its own.
func TestNewcomersCommandsWorkFromACleanClone(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kms-new-") // t.TempDir is too long a path for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	clone := filepath.Join(dir, "clone")
	if out, err := exec.CommandContext(t.Context(), "git", "clone", "--quiet", "--local", "../..", clone).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v\n%s", err, out)
	}
	for _, c := range []struct{ target, ready string }{
		{"run", "\nCtrl-C ends it."},
		{"demo", "\nready:"},
	} {
		began := time.Now()
		command := startMake(t, clone, dir, c.target)
		text := command.await(t, c.ready)
		t.Logf("make %s: ready after %s", c.target, time.Since(began).Round(time.Second))
		switch c.target {
		case "run":
			encryptOnce(t, printed(t, text, `(?m)^  socket +(\S+)$`))
		case "demo":
			if missing := lacks(text, "k8s:enc:kms:v2:", "The plaintext is not in it"); missing != nil {
				t.Errorf("make demo printed nothing of %q:\n%s", missing, text)
			}
		}
		command.interrupt(t)
	}
}

// A makeRun is a running make with all that it started, in a process group of
// its own, as a terminal has it.
type makeRun struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func startMake(t *testing.T, clone, dir, target string) *makeRun {
	t.Helper()
	m := &makeRun{log: filepath.Join(dir, target+".log"), done: make(chan struct{})}
	out, err := os.Create(m.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	// Nice to the tests beside it: it compiles everything there is.
	m.cmd = exec.Command("nice", "-n", "15", "make", "-C", clone, target) //nolint:noctx // ended as a group, by interrupt
	m.cmd.Env = append(os.Environ(), "TMPDIR="+dir, "GOCACHE="+filepath.Join(dir, "gocache"),
		"KUBE_APISERVER="+host.Bin.APIServer, "ETCD="+host.Bin.Etcd, "MAKEFLAGS=", "MFLAGS=", "PLUGIN=")
	m.cmd.Stdout, m.cmd.Stderr = out, out
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with make
		defer close(m.done)
		_ = m.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
		<-m.done
	})
	return m
}

// await returns what was printed once the line is there.
func (m *makeRun) await(t *testing.T, line string) string {
	t.Helper()
	var text string
	err := cluster.Poll(t.Context(), pollInterval, 20*time.Minute, m.done, func(context.Context) error {
		log, err := os.ReadFile(m.log)
		text = string(log)
		if err == nil && !strings.Contains(text, line) {
			err = errors.New("not ready yet")
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v: %v; it printed:\n%s", m.cmd.Args, err, text)
	}
	return text
}

// interrupt is Ctrl-C: everything of the group hears it, and ends.
func (m *makeRun) interrupt(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.done:
	case <-time.After(time.Minute):
		t.Fatalf("%v still runs a minute after Ctrl-C", m.cmd.Args)
	}
}

// encryptOnce makes one call over a socket, as an API server does.
func encryptOnce(t *testing.T, socket string) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sealed, err := v2.NewKeyManagementServiceClient(conn).Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("0123456789abcdef0123456789abcdef"), Uid: "newcomer"})
	if err != nil || len(sealed.GetCiphertext()) == 0 {
		t.Fatalf("encrypting over %s: %v", socket, err)
	}
}
