package cluster

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// tiny makes a module that builds in no time and stands for a server's.
func tiny(t *testing.T) (root string, s server) {
	t.Helper()
	root = t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(root, "cache"))
	t.Setenv("GOCACHE", goEnv(t, "GOCACHE")) // not below the other
	t.Setenv("TINY", "")
	for name, text := range map[string]string{
		"go.mod":  "module tiny\n\ngo 1.26.0\n",
		"go.sum":  "",
		"main.go": "package main\n\nfunc main() { println(\"tiny\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root, server{name: "tiny", env: "TINY", module: ".", of: "tiny", typical: "a second"}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestFindBuildsOnce: of many that look at once one builds, all get the same
// binary, and it runs; a change of the module is another binary.
func TestFindBuildsOnce(t *testing.T) {
	root, s := tiny(t)
	var progress [4]bytes.Buffer
	var paths [4]string
	var all sync.WaitGroup
	for i := range paths {
		all.Go(func() {
			var err error
			if paths[i], err = s.find(t.Context(), root, &progress[i]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	built := 0
	for i := range paths {
		built += strings.Count(progress[i].String(), "built tiny")
		if paths[i] != paths[0] {
			t.Errorf("one found %s, another %s", paths[0], paths[i])
		}
	}
	if built != 1 {
		t.Errorf("%d of %d built it, want 1", built, len(paths))
	}
	if out, err := exec.CommandContext(t.Context(), paths[0]).CombinedOutput(); err != nil || string(out) != "tiny\n" {
		t.Errorf("it printed %q, %v", out, err)
	}

	if err := os.WriteFile(filepath.Join(root, "go.sum"), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := s.find(t.Context(), root, &progress[0])
	if err != nil || other == paths[0] {
		t.Errorf("with another go.sum find returned %s, %v; want another file than %s", other, err, paths[0])
	}
}

// TestFindLeavesNothingHalfBuilt: a build that was interrupted is no binary for
// the next one that looks.
func TestFindLeavesNothingHalfBuilt(t *testing.T) {
	root, s := tiny(t)
	ctx, cancel := context.WithCancel(t.Context())
	interrupt := writerFunc(func([]byte) { cancel() }) // as soon as it says that it builds
	if path, err := s.find(ctx, root, interrupt); err == nil {
		t.Fatalf("an interrupted build returned %s", path)
	}
	var progress bytes.Buffer
	path, err := s.find(t.Context(), root, &progress)
	if err != nil || !strings.Contains(progress.String(), "built tiny") {
		t.Errorf("after an interrupted build find returned %s, %v and said %q; want a build", path, err, &progress)
	}
}

// TestFindTakesAReadyOne: the environment names a binary, and a wrong name is
// an error and not a build.
func TestFindTakesAReadyOne(t *testing.T) {
	root, s := tiny(t)
	ready, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{
		ready:                         true,
		filepath.Join(root, "gone"):   false,
		filepath.Join(root, "go.mod"): false, // not executable
		root:                          false,
	} {
		t.Setenv("TINY", path)
		var progress bytes.Buffer
		got, err := s.find(t.Context(), root, &progress)
		if (err == nil) != ok || ok && got != path || progress.Len() != 0 {
			t.Errorf("TINY=%s: %s, %v, and it said %q; want success: %t", path, got, err, &progress, ok)
		}
		if !ok && err != nil && !strings.Contains(err.Error(), "TINY") {
			t.Errorf("TINY=%s: %v; want the variable's name in it", path, err)
		}
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// TestAnOlderAPIServerHasAModuleOfItsOwn: KUBERNETES names one of those that are
// there, and a wrong one is told what there is.
func TestAnOlderAPIServerHasAModuleOfItsOwn(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	usual, err := apiServer(root, "")
	if err != nil || usual.module != "test/cluster/apiserver" || usual.main != "" {
		t.Errorf("without a version: %+v, %v, want the module that CI builds", usual, err)
	}
	older, err := apiServer(root, "1.35.4")
	if err != nil || older.module != "test/cluster/apiserver/1.35" || older.main == "" {
		t.Errorf("1.35.4: %+v, %v, want its own module and Kubernetes' own main", older, err)
	}
	_, err = apiServer(root, "1.35")
	if err == nil || !strings.Contains(err.Error(), "1.33.5, 1.35.4, 1.37") {
		t.Errorf("1.35: %v, want the versions that are there", err)
	}
}
