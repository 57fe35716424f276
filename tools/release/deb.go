package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
)

// debian is a package of the program, its units and its configuration for Debian
// and what comes of it. Nothing is started by it before somebody has named a key.
//
// https://www.debian.org/doc/debian-policy/ch-maintainerscripts.html
func debian(source string, p publisher, b binary, l licences, document []byte) ([]byte, error) {
	return packaged(source, p, b, l, document, debPackage)
}

// A packageFormat makes a package of what lies at the places of Debian's.
type packageFormat func(deploy string, p publisher, b binary, contents files.Contents) ([]byte, error)

// packaged collects what packages install, and has one made of it. Every format has
// the same contents, so that none lacks what another has.
func packaged(source string, p publisher, b binary, l licences, document []byte, format packageFormat) ([]byte, error) {
	work, err := os.MkdirTemp("", "package-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(work) }()

	made := func(name string, data []byte) string {
		path := filepath.Join(work, name)
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		return path
	}
	doc := "/usr/share/doc/" + debName(b) + "/"
	deploy := filepath.Join(source, "deploy")
	contents := files.Contents{
		{Source: made(program, b.file), Destination: "/usr/bin/" + program, FileInfo: &files.ContentFileInfo{Mode: 0o755}},
		{Source: filepath.Join(deploy, "deb", "config.yaml"), Destination: "/etc/" + program + "/config.yaml", Type: files.TypeConfig},
		{Source: made("copyright", debCopyright(l)), Destination: doc + "copyright"},
		{Source: made(thirdPartyFile, l.others()), Destination: doc + thirdPartyFile},
		{Source: made("sbom", document), Destination: doc + program + ".spdx.json"},
		{Source: filepath.Join(source, "CHANGELOG.md"), Destination: doc + "NEWS.md"},
	}
	pages, missing := documentation(source, p.docs)
	if missing != nil {
		return nil, missing
	}
	for i, name := range slices.Sorted(maps.Keys(pages)) {
		contents = append(contents, &files.Content{Source: made(fmt.Sprintf("page%d", i), pages[name]), Destination: doc + name})
	}
	for _, shell := range slices.Sorted(maps.Keys(completions())) {
		contents = append(contents, &files.Content{Source: filepath.Join(deploy, "completion", shell), Destination: completions()[shell]})
	}
	for _, name := range unitFiles() {
		unit, missing := p.unit(source, name, doc)
		if missing != nil {
			return nil, missing
		}
		contents = append(contents, &files.Content{Source: made(name, unit), Destination: "/usr/lib/systemd/system/" + name})
	}
	if err != nil {
		return nil, err
	}
	for _, c := range contents {
		if c.FileInfo == nil {
			c.FileInfo = &files.ContentFileInfo{Mode: 0o644}
		}
		c.FileInfo.MTime = b.time
	}
	return format(deploy, p, b, contents)
}

func debPackage(deploy string, p publisher, b binary, contents files.Contents) ([]byte, error) {
	var packed bytes.Buffer
	if err := deb.Default.Package(nfpm.WithDefaults(debInfo(deploy, p, b, contents)), &packed); err != nil {
		return nil, fmt.Errorf("package for %s: %w", b.target, err)
	}
	return packed.Bytes(), nil
}

// completions are the scripts of deploy/completion by the places where shells of
// Debian look for those of packages.
func completions() map[string]string {
	return map[string]string{
		"bash": "/usr/share/bash-completion/completions/" + program,
		"zsh":  "/usr/share/zsh/vendor-completions/_" + program,
		"fish": "/usr/share/fish/vendor_completions.d/" + program + ".fish",
	}
}

// unitFiles are the names of the units in deploy/systemd.
func unitFiles() []string { return []string{program + ".service", program + ".socket"} }

func debInfo(deploy string, p publisher, b binary, contents files.Contents) *nfpm.Info {
	info := &nfpm.Info{
		Name: debName(b), Arch: b.arch, Platform: "linux",
		Version: debVersion(b.version), VersionSchema: "none",
		Section: "admin", Priority: "optional",
		Maintainer:  p.contact(),
		Homepage:    p.project,
		Description: "Kubernetes KMS provider over AWS KMS\nkube-apiserver encrypts what it stores in etcd; this service wraps its keys\nwith AWS KMS, over a unix socket, by KMS v2 and v1.",
		MTime:       b.time,
	}
	info.Contents = contents
	info.DisableGlobbing = true
	info.Umask = 0o002
	info.Recommends = []string{"ca-certificates"} // or AWS_CA_BUNDLE
	info.Scripts = nfpm.Scripts{
		PostInstall: filepath.Join(deploy, "deb", "postinst"),
		PreRemove:   filepath.Join(deploy, "deb", "prerm"),
		PostRemove:  filepath.Join(deploy, "deb", "postrm"),
	}
	// Two names, so that no upgrade takes FIPS 140-3 away unasked.
	other := b
	other.fips = !b.fips
	info.Conflicts, info.Replaces = []string{debName(other)}, []string{debName(other)}
	if b.fips {
		info.Provides = []string{debName(other)}
	}
	return info
}

func debName(b binary) string {
	if b.fips {
		return program + "-" + strings.TrimPrefix(fipsSuffix, "_")
	}
	return program
}

// debVersion is the version in Debian's order, in which only a tilde comes before
// nothing: v1.2.3-rc.1 is before v1.2.3.
//
// https://www.debian.org/doc/debian-policy/ch-controlfields.html#version
func debVersion(version string) string {
	if version == develVersion {
		return "0~" + version
	}
	return strings.ReplaceAll(strings.TrimPrefix(version, "v"), "-", "~")
}

// debCopyright is what Debian's tools read as the licence.
func debCopyright(l licences) []byte {
	return fmt.Appendf(nil, "The licences of what is linked into the program are in %s.\n\n%s", thirdPartyFile, l.own)
}
