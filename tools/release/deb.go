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

// debian is a package of the program and what goes with it, for Debian and its
// derivatives. Nothing is started by it before somebody has named a key.
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
	name, doc := b.product.name, "/usr/share/doc/"+debName(b)+"/"
	deploy := filepath.Join(source, "deploy")
	contents := files.Contents{
		{Source: made(name, b.file), Destination: "/usr/bin/" + name, FileInfo: &files.ContentFileInfo{Mode: 0o755}},
		{Source: made("copyright", debCopyright(l)), Destination: doc + "copyright"},
		{Source: made(thirdPartyFile, l.others()), Destination: doc + thirdPartyFile},
		{Source: made("sbom", document), Destination: doc + name + ".spdx.json"},
		{Source: filepath.Join(source, "CHANGELOG.md"), Destination: doc + "NEWS.md"},
	}
	if b.product.config != "" {
		contents = append(contents, &files.Content{Source: filepath.Join(deploy, filepath.FromSlash(b.product.config)), Destination: "/etc/" + name + "/config.yaml", Type: files.TypeConfig})
	}
	for _, alias := range b.product.aliases {
		contents = append(contents, &files.Content{Source: name, Destination: "/usr/bin/" + alias, Type: files.TypeSymlink})
	}
	pages, missing := documentation(source, p.docs, b.product.pages)
	if missing != nil {
		return nil, missing
	}
	for i, name := range slices.Sorted(maps.Keys(pages)) {
		contents = append(contents, &files.Content{Source: made(fmt.Sprintf("page%d", i), pages[name]), Destination: doc + name})
	}
	places := completions(name)
	for _, shell := range slices.Sorted(maps.Keys(places)) {
		contents = append(contents, &files.Content{Source: filepath.Join(deploy, filepath.FromSlash(b.product.shells), shell), Destination: places[shell]})
	}
	for _, name := range b.product.units {
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

// completions are the places where shells of Debian look for a package's scripts.
func completions(name string) map[string]string {
	return map[string]string{
		"bash": "/usr/share/bash-completion/completions/" + name,
		"zsh":  "/usr/share/zsh/vendor-completions/_" + name,
		"fish": "/usr/share/fish/vendor_completions.d/" + name + ".fish",
	}
}

func debInfo(deploy string, p publisher, b binary, contents files.Contents) *nfpm.Info {
	info := &nfpm.Info{
		Name: debName(b), Arch: b.arch, Platform: b.os,
		Version: debVersion(b.version), VersionSchema: "none",
		Section: "admin", Priority: "optional",
		Maintainer:  p.contact(),
		Homepage:    p.project,
		Description: b.product.summary + "\n" + b.product.about,
		MTime:       b.time,
	}
	info.Contents = contents
	info.DisableGlobbing = true
	info.Umask = 0o002
	info.Recommends = []string{"ca-certificates"} // or AWS_CA_BUNDLE
	if b.product.scripts {
		info.Scripts = nfpm.Scripts{
			PostInstall: filepath.Join(deploy, "deb", "postinst"),
			PreRemove:   filepath.Join(deploy, "deb", "prerm"),
			PostRemove:  filepath.Join(deploy, "deb", "postrm"),
		}
	}
	if !slices.ContainsFunc(b.product.targets, func(t target) bool { return t.fips }) {
		return info
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
		return b.product.name + "-" + strings.TrimPrefix(fipsSuffix, "_")
	}
	return b.product.name
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
