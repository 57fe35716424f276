package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// TestDemo runs the demo as a newcomer does: it shows ciphertext and says that
// it is ready, what it printed works, and Ctrl-C leaves nothing behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	binary := filepath.Join(dir, "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/demo").CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/demo: %v\n%s", err, out)
	}
	temp, err := os.MkdirTemp("", "kms-e2e-") // t.TempDir is too long a path for the demo's socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	demo := &cluster.Program{
		Name: "demo",
		Path: binary,
		Env: append(os.Environ(), "TMPDIR="+temp, "KUBE_APISERVER="+host.Bin.APIServer,
			"ETCD="+host.Bin.Etcd, "PLUGIN="+host.Bin.Plugin),
		Log: filepath.Join(dir, "demo.log"),
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = demo.Kill() })
	var text string
	err = cluster.Poll(t.Context(), pollInterval, 3*time.Minute, demo.Exited(), func(context.Context) error {
		log, err := os.ReadFile(demo.Log)
		text = string(log)
		if err == nil && !strings.Contains(text, "\nready:") {
			err = errors.New("no ready line")
		}
		return err
	})
	if err != nil {
		t.Fatalf("demo: %v; it printed:\n%s", err, demo.Tail(60))
	}
	if missing := lacks(text, "|k8s:enc:kms:v2:a|", "The plaintext is not in it", `The API returns: "nobody should find this in etcd"`); missing != nil {
		t.Errorf("the demo printed nothing of %q:\n%s", missing, text)
	}

	kubeconfig := printed(t, text, `(?m)^kubeconfig +(\S+)$`)
	config, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatalf("the kubeconfig it printed: %v", err)
	}
	url := printed(t, text, `curl -sk .* (https://\S+)`)
	if server := printed(t, string(config), `server: (\S+)`); !strings.HasPrefix(url, server) {
		t.Errorf("kubeconfig names %s, the curl line %s", server, url)
	}
	// As its curl line says, -k included.
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // what curl -k does
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+printed(t, text, `Bearer (\S+)'`))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET %s is %s, want 200", url, resp.Status)
	}

	children := childrenOf(t, demo.PID())
	if len(children) != 3 {
		t.Errorf("the demo runs %v, want kube-apiserver, etcd and the plugin", children)
	}
	if err := demo.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-demo.Exited():
	case <-time.After(time.Minute):
		t.Fatalf("the demo still runs a minute after Ctrl-C; it printed:\n%s", demo.Tail(30))
	}
	if err := demo.ExitError(); err != nil {
		t.Errorf("after Ctrl-C: %v; it printed:\n%s", err, demo.Tail(30))
	}
	for pid, name := range children {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("%s, pid %d, is still there", name, pid)
		}
	}
	err = filepath.WalkDir(temp, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != temp {
			err = fmt.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// printed returns what the expression's group matches in text.
func printed(t *testing.T, text, expression string) string {
	t.Helper()
	match := regexp.MustCompile(expression).FindStringSubmatch(text)
	if match == nil {
		t.Fatalf("nothing matches %s in:\n%s", expression, text)
	}
	return match[1]
}

// childrenOf returns the names of a process's children, from /proc.
func childrenOf(t *testing.T, parent int) map[int]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil || len(files) == 0 {
		t.Fatalf("no processes in /proc: %v", err)
	}
	children := map[int]string{}
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			fields[key] = strings.TrimSpace(value)
		}
		if pid, err := strconv.Atoi(fields["Pid"]); err == nil && fields["PPid"] == strconv.Itoa(parent) {
			children[pid] = fields["Name"]
		}
	}
	return children
}
