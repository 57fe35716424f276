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
	"strings"
	"time"
)

const (
	fipsSuffix   = "_fips140"
	develVersion = "devel" // where no repository could say one
)

// A binary is a program, built for a target, and what it says of itself.
type binary struct {
	target

	product product
	file    []byte
	deps    []*debug.Module // none of this checkout
	goVer   string
	version string // v1.2.3, or develVersion
	commit  string // may be empty
	time    time.Time
}

// executable is the name of the program's file.
func (b binary) executable() string {
	if b.os == windows {
		return b.product.name + ".exe"
	}
	return b.product.name
}

// build has make build the programs for each target, so that what is shipped is built by
// the flags that everybody builds with.
func build(ctx context.Context, r request, work string, progress io.Writer) ([]binary, error) {
	version, err := versionOf(ctx, r.source, progress)
	if err != nil {
		return nil, err
	}
	var built []binary
	for _, t := range r.targets {
		p, err := productOf(t.program)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(work, t.String(), p.name)
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, "make", p.goal, p.output+"="+path, "DOCS_URL="+r.publisher.docs)
		cmd.Dir, cmd.Env = r.source, environment(t)
		cmd.Stdout, cmd.Stderr = progress, progress
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("make %s for %s: %w", p.goal, t, err)
		}
		b, err := inspect(t, p, version, path)
		if err != nil {
			return nil, err
		}
		if b.version != version || len(built) > 0 && b.commit != built[0].commit {
			return nil, fmt.Errorf("%s is %s of commit %q, and the checkout was %s: it changed meanwhile", t, b.version, b.commit, version)
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
		"GOOS="+t.os, "GOARCH="+t.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140="+fips,
		"GOFLAGS=", "GOEXPERIMENT=", "GODEBUG=", "GOWORK=off",
		"MAKEFLAGS=", "MFLAGS=", "MAKELEVEL=")
}

// versionOf is the version that Go gives the checkout, which all products have: Go takes
// that of a module below the root from tags of its own, and no release sets those.
func versionOf(ctx context.Context, source string, progress io.Writer) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(source, "hack", "version.sh"))
	cmd.Env, cmd.Stderr = ownEnvironment(), progress
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("the version of %s: %w", source, err)
	}
	return named(strings.TrimSpace(string(out))), nil
}

// named is a version as names of files have it.
func named(version string) string {
	if version == "" || version == "(devel)" {
		return develVersion
	}
	return version
}

// ofCheckout reports whether a module is a directory of the checkout, put in its place by
// go.mod, in which such a path begins with a dot or a slash.
func ofCheckout(d *debug.Module) bool {
	return d.Replace != nil && (strings.HasPrefix(d.Replace.Path, ".") || filepath.IsAbs(d.Replace.Path))
}

// inspect reads the binary and its build info. The info does not say the version of a
// module below the root.
func inspect(t target, p product, version, path string) (binary, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return binary{}, err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return binary{}, err
	}
	b := binary{target: t, product: p, file: file, goVer: info.GoVersion, version: version, time: time.Unix(0, 0).UTC()}
	if p.module == "." {
		b.version = named(info.Main.Version)
	}
	for _, d := range info.Deps {
		if !ofCheckout(d) {
			b.deps = append(b.deps, d)
		}
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
