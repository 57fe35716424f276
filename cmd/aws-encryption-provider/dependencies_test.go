package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// foreign are what only the operator's tool needs: the daemon neither links them, nor
// does its module name them.
func foreign(path string) bool {
	return slices.ContainsFunc([]string{
		"k8s.io/client-go", "k8s.io/cli-runtime", "k8s.io/api", "go.etcd.io", "golang.org/x/crypto",
		"sigs.k8s.io/aws-encryption-provider/internal/stored", "sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms",
	}, func(not string) bool { return path == not || strings.HasPrefix(path, not+"/") })
}

// TestTheDaemonLinksNothingOfTheTool: its memory and its attack surface are those of a
// daemon that talks to a socket and to KMS.
func TestTheDaemonLinksNothingOfTheTool(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "grpcnotrace", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	for _, p := range packages {
		if foreign(p) {
			t.Errorf("the daemon links %s", p)
		}
	}
	if !slices.Contains(packages, "sigs.k8s.io/aws-encryption-provider/internal/daemon") {
		t.Errorf("%d packages, and not the daemon: the test is wrong", len(packages))
	}
}

// TestTheModuleNamesNothingOfTheTool: who builds the daemon downloads none of it.
func TestTheModuleNamesNothingOfTheTool(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", "../../go.mod").Output()
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for line := range strings.Lines(string(out)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), `"Path": "`)
		if !ok {
			continue
		}
		if named++; foreign(strings.TrimSuffix(strings.TrimSuffix(path, ","), `"`)) {
			t.Errorf("go.mod names %s", path)
		}
	}
	if named < 10 {
		t.Errorf("%d modules: the test is wrong", named)
	}
}
