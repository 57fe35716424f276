package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

const (
	fipsSuffix   = "_fips140"
	develVersion = "devel" // where no repository could say one
)

// A target is what the program is built for, on Linux.
type target struct {
	arch string
	fips bool // with the certified version of Go's FIPS 140-3 module, switched on
}

// String is the form of --targets and of file names.
func (t target) String() string {
	if t.fips {
		return t.arch + fipsSuffix
	}
	return t.arch
}

func parseTargets(names []string) ([]target, error) {
	var targets []target
	for _, name := range names {
		arch, fips := strings.CutSuffix(name, fipsSuffix)
		t := target{arch: arch, fips: fips}
		if arch != "amd64" && arch != "arm64" {
			return nil, fmt.Errorf("no target %q: amd64 and arm64, each also with %s", name, fipsSuffix)
		}
		if slices.Contains(targets, t) {
			return nil, fmt.Errorf("target %q twice", name)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// A binary is the program, built for a target, and what it says of itself.
type binary struct {
	target

	file    []byte
	deps    []*debug.Module
	goVer   string
	version string // v1.2.3, or develVersion
	commit  string // may be empty
	time    time.Time
}

// build has make build the program for each target, so that what is shipped is
// built by the flags that everybody builds with.
func build(ctx context.Context, r request, work string, progress io.Writer) ([]binary, error) {
	var built []binary
	for _, t := range r.targets {
		path := filepath.Join(work, t.String())
		cmd := exec.CommandContext(ctx, "make", "build", "PROGRAM="+path, "DOCS_URL="+r.publisher.docs)
		cmd.Dir, cmd.Env = r.source, environment(t)
		cmd.Stdout, cmd.Stderr = progress, progress
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("make build for %s: %w", t, err)
		}
		b, err := inspect(t, path)
		if err != nil {
			return nil, err
		}
		if len(built) > 0 && (b.version != built[0].version || b.commit != built[0].commit) {
			return nil, fmt.Errorf("%s is %s of commit %q and %s is %s of commit %q: the checkout changed meanwhile",
				built[0].target, built[0].version, built[0].commit, b.target, b.version, b.commit)
		}
		built = append(built, b)
	}
	return built, nil
}

// environment is this process's, without what would make another binary of the
// same commit or have make do something else.
func environment(t target) []string {
	fips := "off"
	if t.fips {
		fips = "certified"
	}
	return append(os.Environ(),
		"GOOS=linux", "GOARCH="+t.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140="+fips,
		"GOFLAGS=", "GOEXPERIMENT=", "GODEBUG=", "GOWORK=off",
		"MAKEFLAGS=", "MFLAGS=", "MAKELEVEL=")
}

// inspect reads the binary and its build info.
func inspect(t target, path string) (binary, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return binary{}, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return binary{}, err
	}
	b := binary{target: t, file: file, deps: info.Deps, goVer: info.GoVersion, version: info.Main.Version, time: time.Unix(0, 0).UTC()}
	if b.version == "" || b.version == "(devel)" {
		b.version = develVersion
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.commit = s.Value
		case "vcs.time":
			if b.time, err = time.Parse(time.RFC3339Nano, s.Value); err != nil {
				return binary{}, err
			}
			b.time = b.time.UTC()
		}
	}
	return b, nil
}
