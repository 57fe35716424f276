package main

import (
	"fmt"
	"slices"
	"strings"
)

const (
	program = "aws-encryption-provider" // the daemon's name
	tool    = "kubectl-kms"             // the operator's tool's

	linux, darwin, windows = "linux", "darwin", "windows"

	// rootUser is the image's for the daemon: the static pods of the predecessor let the
	// kubelet make the socket's directory, which then is root's.
	rootUser    = "0:0"
	nonrootUser = "65532:65532"
)

// A product is a program that is shipped, and what is shipped with it. Archives,
// packages, SBOMs and images of all products are made in one way, of this.
type product struct {
	name    string // of the program, and what the names of its files and packages begin with
	goal    string // of make, which builds it
	output  string // make's variable with the path that the goal builds to
	module  string // directory of its Go module in the checkout, by slashes
	targets []target

	summary string // one line for packages
	about   string // more of them
	label   string // one line for the image

	aliases []string // other names by which the program is run, links beside it
	units   []string // in deploy/systemd
	config  string   // in deploy, what packages install as configuration; "": none
	scripts bool     // packages have those of deploy/deb and deploy/rpm
	shells  string   // directory of the scripts for completion
	pages   []string // patterns of what is shipped to be read besides the documentation

	user   string // of the image
	ports  []string
	digest string // file with the image's digest
}

// products are all that a release has.
func products() []product { return []product{daemon(), operatorsTool()} }

func daemon() product {
	return product{
		name: program, goal: "build", output: "PROGRAM", module: ".",
		targets: []target{
			{program: program, os: linux, arch: "amd64"},
			{program: program, os: linux, arch: "arm64"},
			{program: program, os: linux, arch: "amd64", fips: true},
			{program: program, os: linux, arch: "arm64", fips: true},
		},
		summary: "Kubernetes KMS provider over AWS KMS",
		about:   "kube-apiserver encrypts what it stores in etcd; this service wraps its keys\nwith AWS KMS, over a unix socket, by KMS v2 and v1.",
		label:   "Wraps kube-apiserver's encryption keys with AWS KMS",
		units:   []string{program + ".service", program + ".socket"},
		config:  "deb/config.yaml",
		scripts: true,
		shells:  "completion",
		user:    rootUser,
		ports:   []string{"8080/tcp"},
		digest:  "image-digest.txt",
	}
}

// operatorsTool runs where kubectl does, which is on more systems than the daemon.
func operatorsTool() product {
	return product{
		name: tool, goal: "build-kubectl-kms", output: "KUBECTL_KMS", module: "cmd/kubectl-kms",
		targets: []target{
			{program: tool, os: linux, arch: "amd64"},
			{program: tool, os: linux, arch: "arm64"},
			{program: tool, os: darwin, arch: "amd64"},
			{program: tool, os: darwin, arch: "arm64"},
			{program: tool, os: windows, arch: "amd64"},
		},
		summary: "kubectl kms: what etcd holds under which key",
		about:   "Counts what a cluster's etcd, or a snapshot of it, holds under which key,\nproves that the keys open it, and rewrites what is stale.",
		label:   "Says what a cluster's etcd holds under which key, and rewrites what is stale",
		aliases: []string{"kubectl_complete-kms"},
		shells:  "completion/kubectl-kms",
		pages:   []string{"deploy/kubectl-kms-*.schema.json"},
		user:    nonrootUser,
		digest:  tool + "-image-digest.txt",
	}
}

// productOf returns the product of a name.
func productOf(name string) (product, error) {
	var names []string
	for _, p := range products() {
		if p.name == name {
			return p, nil
		}
		names = append(names, p.name)
	}
	return product{}, fmt.Errorf("no product %q: say %s", name, strings.Join(names, " or "))
}

// ofImage are the targets of which the image has a platform each.
func (p product) ofImage() []target {
	return slices.DeleteFunc(slices.Clone(p.targets), func(t target) bool { return t.os != linux || t.fips })
}

// A target is a program and what it is built for.
type target struct {
	program  string
	os, arch string
	fips     bool // with the certified version of Go's FIPS 140-3 module, switched on
}

// String is the form of --targets. What runs on Linux alone has no system there.
func (t target) String() string { return targetName(t.program, t.system()) }

// system is what names of files say of it.
func (t target) system() string { return t.os + "_" + t.processor() }

func (t target) processor() string {
	if t.fips {
		return t.arch + fipsSuffix
	}
	return t.arch
}

// targetName is the form of --targets for a program and a system.
func targetName(name, system string) string {
	if name == program {
		return strings.TrimPrefix(system, linux+"_")
	}
	return name + "_" + system
}

// names are the forms of --targets.
func names(targets []target) []string {
	var names []string
	for _, t := range targets {
		names = append(names, t.String())
	}
	return names
}

// parseTargets returns the targets of their names.
func parseTargets(asked []string) ([]target, error) {
	known, all := map[string]target{}, []string{}
	for _, p := range products() {
		for _, t := range p.targets {
			known[t.String()] = t
			all = append(all, t.String())
		}
	}
	var targets []target
	for _, name := range asked {
		t, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("no target %q: there are %s", name, strings.Join(all, ", "))
		}
		if slices.Contains(targets, t) {
			return nil, fmt.Errorf("target %q twice", name)
		}
		targets = append(targets, t)
	}
	return targets, nil
}
