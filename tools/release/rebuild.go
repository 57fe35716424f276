package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A rebuildRequest is the command line of rebuild.
type rebuildRequest struct {
	source    string    // a checkout or an address that git clones
	version   string    // a tag of it
	checksums string    // file of published sums, as sha256sum writes it
	publisher publisher // the one whose release it is
}

// rebuild builds a tag in a clean clone, by the clone's own Makefile, and compares with
// the sums that somebody published. It builds what they list and no more.
func rebuild(ctx context.Context, args []string, out, progress io.Writer) error {
	r, err := parseRebuild(args, progress)
	if err != nil {
		return err
	}
	published, err := readSums(r.checksums)
	if err != nil {
		return err
	}
	targets, err := targetsIn(r, published)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "rebuild-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	here, err := r.build(ctx, work, targets, progress)
	if err != nil {
		return err
	}
	differing := compareSums(published, here, out)
	if len(differing) > 0 {
		return fmt.Errorf("%d of %d files are not what %s says: %s\nThe Go here is %s. The same bytes need the release's own, which its SBOM names in sourceInfo "+
			"(GOTOOLCHAIN=go1.X.Y takes another), and its DOCS_URL, PROJECT_URL and MAINTAINER; see docs/releasing.md",
			len(differing), len(published), r.checksums, strings.Join(differing, ", "), runtime.Version())
	}
	fmt.Fprintf(out, "all %d files of %s are the same bytes, built by %s\n", len(published), r.version, runtime.Version())
	return nil
}

func parseRebuild(args []string, progress io.Writer) (rebuildRequest, error) {
	var r rebuildRequest
	set := flag.NewFlagSet("release rebuild", flag.ContinueOnError)
	set.SetOutput(progress)
	set.StringVar(&r.source, "source", ".", "`DIR` of the checkout, or an address that git clones")
	set.StringVar(&r.version, "version", "", "`TAG` to build, such as v1.2.3")
	set.StringVar(&r.checksums, "checksums", "", "`FILE` with the published sums, SHA256SUMS of the release")
	r.publisher.flags(set)
	if err := set.Parse(args); err != nil {
		return rebuildRequest{}, err
	}
	if r.version == "" || r.checksums == "" || set.NArg() > 0 {
		return rebuildRequest{}, errors.New("rebuild wants the release's tag and its checksums: make rebuild VERSION=v1.2.3 CHECKSUMS=SHA256SUMS")
	}
	return r, r.publisher.check()
}

// readSums reads what sha256sum writes: name to sum.
func readSums(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		sum, file, _ := strings.Cut(strings.TrimRight(line, "\r"), " ")
		file = strings.TrimLeft(file, " *")
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 || file == "" {
			return nil, fmt.Errorf("%s:%d: %q is no SHA-256 sum and name, as sha256sum writes them", path, i+1, line)
		}
		sums[file] = sum
	}
	return sums, nil
}

// targetsIn are the targets whose files are listed. An image has all plain ones of Linux.
func targetsIn(r rebuildRequest, published map[string]string) ([]string, error) {
	var targets []string
	for file := range published {
		for _, p := range products() {
			system, ours := strings.CutPrefix(file, p.name+"_"+r.version+"_")
			system, _, _ = strings.Cut(system, ".")
			switch {
			case file == p.digest || ours && strings.HasSuffix(file, imageSuffix):
				targets = append(targets, names(p.ofImage())...)
			case ours:
				targets = append(targets, targetName(p.name, system))
			}
		}
	}
	slices.Sort(targets)
	targets = slices.Compact(targets)
	if _, err := parseTargets(targets); err != nil {
		return nil, fmt.Errorf("%s: %w", r.checksums, err)
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("%s lists no file of %s: is it another version's?", r.checksums, r.version)
	}
	return targets, nil
}

// build builds the tag in a clone below work and returns the sums.
func (r rebuildRequest) build(ctx context.Context, work string, targets []string, progress io.Writer) (map[string]string, error) {
	clone, built := filepath.Join(work, "clone"), filepath.Join(work, "built")
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdout, cmd.Stderr, cmd.Env = progress, progress, ownEnvironment()
		return cmd.Run()
	}
	if err := run("git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--branch", r.version, r.source, clone); err != nil {
		return nil, fmt.Errorf("cannot clone %s of %s: %w; is there such a tag? git fetch --tags brings those of the publisher", r.version, r.source, err)
	}
	if err := run("git", "-C", clone, "show-ref", "--quiet", "--verify", "refs/tags/"+r.version); err != nil {
		return nil, fmt.Errorf("%s has %s, but not as a tag: %w", r.source, r.version, err)
	}
	args := append([]string{"-C", clone, "release-snapshot", "ARGS=--out " + built + " --targets " + strings.Join(targets, ",")}, r.publisher.variables()...)
	err := run("make", args...)
	if err != nil {
		return nil, fmt.Errorf("make release-snapshot of %s: %w", r.version, err)
	}
	return readSums(filepath.Join(built, "SHA256SUMS"))
}

// ownEnvironment is this process's, without what would have git or make do something
// else than they do for somebody who types the command.
func ownEnvironment() []string {
	env := slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "GIT_") })
	return append(env, "GOFLAGS=", "GOEXPERIMENT=", "GODEBUG=", "GOWORK=off", "MAKEFLAGS=", "MFLAGS=", "MAKELEVEL=")
}

// compareSums writes a line for each published file and returns those that differ or
// were not built.
func compareSums(published, here map[string]string, out io.Writer) (differing []string) {
	for _, file := range slices.Sorted(maps.Keys(published)) {
		switch sum, built := here[file]; {
		case !built:
			fmt.Fprintf(out, "NOT BUILT  %s\n", file)
		case sum != published[file]:
			fmt.Fprintf(out, "DIFFERS    %s\n           published %s\n           here      %s\n", file, published[file], sum)
		default:
			fmt.Fprintf(out, "same       %s\n", file)
			continue
		}
		differing = append(differing, file)
	}
	return differing
}
