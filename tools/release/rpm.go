package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/files"
	"github.com/goreleaser/nfpm/v2/rpm"
)

// redHat is the package for Amazon Linux 2023, RHEL 8 and later, Fedora and what comes
// of them. It installs what the Debian package does; the daemon's scripts do what systemd's
// own rpm macros do.
//
// https://docs.fedoraproject.org/en-US/packaging-guidelines/Scriptlets/#_systemd
func redHat(source string, p publisher, b binary, l licences, document []byte) ([]byte, error) {
	return packaged(source, p, b, l, document, rpmPackage)
}

func rpmPackage(deploy string, p publisher, b binary, contents files.Contents) ([]byte, error) {
	var packed bytes.Buffer
	if err := rpm.DefaultRPM.Package(nfpm.WithDefaults(rpmInfo(deploy, p, b, contents)), &packed); err != nil {
		return nil, fmt.Errorf("rpm for %s: %w", b.target, err)
	}
	return packed.Bytes(), nil
}

func rpmInfo(deploy string, p publisher, b binary, contents files.Contents) *nfpm.Info {
	info := debInfo(deploy, p, b, rpmContents(b, contents))
	info.Section, info.Priority = "", ""
	info.License = licenceID
	info.RPM.BuildHost = "localhost" // else this machine's name
	if b.product.scripts {
		scripts := filepath.Join(deploy, "rpm")
		info.Scripts = nfpm.Scripts{
			PostInstall: filepath.Join(scripts, "post"),
			PreRemove:   filepath.Join(scripts, "preun"),
			PostRemove:  filepath.Join(scripts, "postun"),
		}
		info.RPM.Scripts.PostTrans = filepath.Join(scripts, "posttrans")
	}
	// rpm's Obsoletes, which Replaces becomes, would have dnf put one build in the other's
	// place unasked. Conflicts alone keep them apart; `dnf install --allowerasing` swaps.
	info.Replaces, info.Provides = nil, nil
	return info
}

// rpmContents puts Debian's contents where Fedora's packages have them, and says of each
// what it is: configuration that stays as edited, a licence, documentation.
func rpmContents(b binary, contents files.Contents) files.Contents {
	doc, licence := "/usr/share/doc/"+debName(b)+"/", "/usr/share/licenses/"+debName(b)+"/"
	places := map[string]string{
		doc + "copyright":    licence + "LICENSE",
		doc + thirdPartyFile: licence + thirdPartyFile,
	}
	for _, c := range contents {
		if place, ok := places[c.Destination]; ok {
			c.Destination = place
		}
		c.Destination = strings.Replace(c.Destination, "/zsh/vendor-completions/", "/zsh/site-functions/", 1)
		switch {
		case c.Type == files.TypeConfig:
			c.Type = files.TypeConfigNoReplace
		case strings.HasPrefix(c.Destination, licence):
			c.Type = files.TypeRPMLicence
		case strings.HasPrefix(c.Destination, doc):
			c.Type = files.TypeRPMDoc
		}
	}
	return append(contents, ownDirectories(b, contents)...)
}

// ownDirectories are those that no other package has. rpm leaves at a removal what no
// package owns.
func ownDirectories(b binary, contents files.Contents) (dirs files.Contents) {
	var paths []string
	for _, c := range contents {
		for dir := path.Dir(c.Destination); strings.Contains(dir, "/"+b.product.name); dir = path.Dir(dir) {
			paths = append(paths, dir)
		}
	}
	slices.Sort(paths)
	for _, dir := range slices.Compact(paths) {
		dirs = append(dirs, &files.Content{
			Destination: dir, Type: files.TypeDir,
			FileInfo: &files.ContentFileInfo{Mode: fs.ModeDir | 0o755, MTime: b.time},
		})
	}
	return dirs
}
