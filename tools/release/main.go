// Command release builds what this project ships: the container image as an OCI
// layout, archives of the program, packages, their SBOMs and checksums. It
// needs Go, make and a checkout; no Docker, no daemon, no base image.
//
//	release image    [flags] the image, as a layout and as one tar
//	release snapshot [flags] archives, packages, SBOMs, the image's tar, checksums
//	release push     [flags] the image of either, to a registry
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
	"strings"
)

const program = "aws-encryption-provider"

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
	name, tag   string // of the image
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
	licences, err := readLicences(ctx, r.source, built)
	if err != nil {
		return err
	}
	if command == "image" {
		return writeImage(r, built, licences, filepath.Join(r.out, "oci"), out)
	}
	return writeSnapshot(r, built, licences, filepath.Join(work, "oci"), out)
}

func parse(command string, args []string, progress io.Writer) (request, error) {
	targets := map[string]string{
		"image":    "amd64,arm64",
		"snapshot": "amd64,arm64,amd64_fips140,arm64_fips140",
	}[command]
	if targets == "" {
		return request{}, fmt.Errorf("no command %q: say image, snapshot, push or rebuild", command)
	}
	var r request
	set := flag.NewFlagSet("release "+command, flag.ContinueOnError)
	set.SetOutput(progress)
	set.StringVar(&r.source, "source", ".", "`DIR` of the checkout")
	set.StringVar(&r.out, "out", "", "`DIR` to write to, which must be empty or absent")
	set.StringVar(&r.replace, "replace", "", "`DIR` whose content goes where it is the one of --out; any other stays")
	set.StringVar(&r.name, "name", "localhost/"+program, "`NAME` of the image, registry included")
	set.StringVar(&r.tag, "tag", "", "`TAG` of the image; default: the version")
	r.publisher.flags(set)
	set.StringVar(&targets, "targets", targets, "`LIST` of architectures, each of Linux, with _fips140 behind it for Go's FIPS 140-3 module")
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
	if r.targets, err = parseTargets(strings.Split(targets, ",")); err != nil {
		return request{}, err
	}
	if command == "image" && len(platforms(r.targets)) < len(r.targets) {
		return request{}, errors.New("an image has one program for each platform: take only plain targets or only those of FIPS 140-3")
	}
	return r, nil
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
