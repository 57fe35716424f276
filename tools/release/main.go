// Command release builds what this project ships, the daemon and the operator's tool:
// container images as OCI layouts, archives, packages, their SBOMs and checksums. It
// needs Go, make and a checkout; no Docker, no daemon, no base image.
//
//	release image    [flags] an image, as a layout and as one tar
//	release snapshot [flags] archives, packages, SBOMs, the images' tars, checksums
//	release push     [flags] an image of either, to a registry
//	release rebuild  [flags] a tag, compared with checksums that somebody published
//
// Two runs on one commit with one Go give the same bytes: all times are the
// commit's, entries are sorted, and the version is what the built program's
// build info says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// A request is a command line.
type request struct {
	source, out string
	replace     string // a directory that is made empty, where it is the one to write to
	name, tag   string // of the image; "": the program's and the version's
	publisher   publisher
	targets     []target
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) == 0 {
		return errors.New("say image, snapshot, push or rebuild")
	}
	switch args[0] {
	case "push":
		return push(ctx, args[1:], out, progress)
	case "rebuild":
		return rebuild(ctx, args[1:], out, progress)
	}
	command := args[0]
	r, err := parse(command, args[1:], progress)
	if err != nil {
		return err
	}
	if err := prepare(r.out, r.replace); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	built, err := build(ctx, r, work, progress)
	if err != nil {
		return err
	}
	for _, p := range products() {
		ours := slices.DeleteFunc(slices.Clone(built), func(b binary) bool { return b.program != p.name })
		if len(ours) == 0 {
			continue
		}
		licences, err := readLicences(ctx, filepath.Join(r.source, filepath.FromSlash(p.module)), r.source, ours)
		if err != nil {
			return err
		}
		if command == "image" {
			return writeImage(r, ours, licences, filepath.Join(r.out, "oci"), out)
		}
		if err := writeProduct(r, ours, licences, filepath.Join(work, "oci-"+p.name), out); err != nil {
			return err
		}
	}
	return writeChecksums(r.out, out)
}

func parse(command string, args []string, progress io.Writer) (request, error) {
	if command != "image" && command != "snapshot" {
		return request{}, fmt.Errorf("no command %q: say image, snapshot, push or rebuild", command)
	}
	var r request
	var targets string
	what := program
	set := flag.NewFlagSet("release "+command, flag.ContinueOnError)
	set.SetOutput(progress)
	set.StringVar(&r.source, "source", ".", "`DIR` of the checkout")
	set.StringVar(&r.out, "out", "", "`DIR` to write to, which must be empty or absent")
	set.StringVar(&r.replace, "replace", "", "`DIR` whose content goes where it is the one of --out; any other stays")
	set.StringVar(&r.name, "name", "", "`NAME` of the image, registry included; default: the program's at localhost")
	set.StringVar(&r.tag, "tag", "", "`TAG` of the image; default: the version")
	if command == "image" {
		set.StringVar(&what, "product", what, "`PROGRAM` that the image is of, "+tool+" or "+program)
	}
	r.publisher.flags(set)
	set.StringVar(&targets, "targets", "", "`LIST` of what to build for: ARCH or ARCH_fips140 for the daemon, "+tool+"_OS_ARCH for the tool; default: all that a release has")
	if err := set.Parse(args); err != nil {
		return request{}, err
	}
	if r.out == "" || set.NArg() > 0 {
		return request{}, errors.New("--out is required, and there are no arguments beside flags")
	}
	if err := r.publisher.check(); err != nil {
		return request{}, err
	}
	var err error
	if r.source, err = filepath.Abs(r.source); err != nil {
		return request{}, err
	}
	if r.targets, err = targetsOf(command, what, targets); err != nil {
		return request{}, err
	}
	return r, r.checkName()
}

// targetsOf are those of a list, or where that is empty, of all products or of one's image.
func targetsOf(command, what, list string) ([]target, error) {
	p, err := productOf(what)
	if err != nil {
		return nil, err
	}
	targets := p.ofImage()
	if command == "snapshot" {
		targets = nil
		for _, p := range products() {
			targets = append(targets, p.targets...)
		}
	}
	if list != "" {
		if targets, err = parseTargets(strings.Split(list, ",")); err != nil {
			return nil, err
		}
	}
	if command == "snapshot" {
		return targets, nil
	}
	for _, t := range targets {
		if t.program != what || t.os != linux {
			return nil, fmt.Errorf("an image of %s has no %s: it has one of %s", what, t, strings.Join(names(p.ofImage()), ", "))
		}
	}
	if len(platforms(targets)) < len(targets) {
		return nil, errors.New("an image has one program for each platform: take only plain targets or only those of FIPS 140-3")
	}
	return targets, nil
}

// checkName refuses one name for two images.
func (r request) checkName() error {
	if r.name != "" && slices.ContainsFunc(r.targets, func(t target) bool { return t.program != r.targets[0].program }) {
		return errors.New("--name is of one image, and these targets have two: say --targets of one program")
	}
	return nil
}

// platforms are the architectures of the targets.
func platforms(targets []target) map[string]bool {
	archs := map[string]bool{}
	for _, t := range targets {
		archs[t.arch] = true
	}
	return archs
}

// prepare makes an empty directory: what an earlier run left would be mixed
// with what this one writes. It takes the content of replace away, and of no other.
func prepare(dir, replace string) error {
	if replace != "" && filepath.Clean(dir) == filepath.Clean(replace) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", dir)
	}
	return nil
}
