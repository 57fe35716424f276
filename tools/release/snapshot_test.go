package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"
)

func checkSums(t *testing.T, dir string) {
	t.Helper()
	files := readAll(t, dir)
	lines := strings.Split(strings.TrimSpace(string(files["SHA256SUMS"])), "\n")
	if len(lines) != len(files)-1 {
		t.Errorf("%d lines for %d files", len(lines), len(files)-1)
	}
	for _, line := range lines {
		sum, name, _ := strings.Cut(line, "  ")
		got := sha256.Sum256(files[name])
		if files[name] == nil || hex.EncodeToString(got[:]) != sum {
			t.Errorf("%q: the file has %x", line, got)
		}
	}
}

// checkArchives unpacks each archive, looks at what the program says of itself
// and runs those of this machine.
func checkArchives(t *testing.T, dir string, c checkout) {
	t.Helper()
	for _, target := range []target{daemonFor("amd64", false), daemonFor("arm64", false), daemonFor(runtime.GOARCH, true)} {
		b := binary{target: target, version: testVersion}
		into := t.TempDir()
		untar(t, filepath.Join(dir, artifact(b, ".tar.gz")), into)
		inside := filepath.Join(into, artifact(b, ""))
		for _, name := range []string{"LICENSE", thirdPartyFile, "README.md", "CHANGELOG.md", program + ".spdx.json", program + ".service", program + ".socket"} {
			if info, err := os.Stat(filepath.Join(inside, name)); err != nil || info.Size() == 0 {
				t.Errorf("%s: %v of %d bytes in the archive for %s", name, err, info.Size(), target)
			}
		}
		checkDocumentation(t, inside)
		checkUnits(t, inside, published+"/systemd.md")
		path := filepath.Join(inside, program)
		checkPackaged(t, filepath.Join(dir, artifact(b, ".deb")), path, unpackDeb)
		checkPackaged(t, filepath.Join(dir, artifact(b, ".rpm")), path, unpackRPM)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if settings["-trimpath"] != "true" || settings["CGO_ENABLED"] != "0" || settings["GOARCH"] != target.arch ||
			settings["vcs.revision"] != c.commit || settings["vcs.modified"] != "false" || info.Main.Version != testVersion {
			t.Errorf("%s: version %s, settings %v", target, info.Main.Version, settings)
		}
		if got := strings.HasPrefix(settings["GOFIPS140"], "v1."); got != target.fips {
			t.Errorf("%s: GOFIPS140 is %q", target, settings["GOFIPS140"])
		}
		if got := strings.Contains(settings["DefaultGODEBUG"], "fips140=on"); got != target.fips {
			t.Errorf("%s: DefaultGODEBUG is %q", target, settings["DefaultGODEBUG"])
		}
		if target.arch == runtime.GOARCH {
			out, err := exec.CommandContext(t.Context(), path, "version").CombinedOutput()
			if err != nil || !strings.Contains(string(out), testVersion) || !strings.Contains(string(out), c.commit) {
				t.Errorf("%s: version says %q, %v", target, out, err)
			}
			checkLinks(t, path)
			checkGeneratedImage(t, path, "localhost/"+program+":"+defaultTag(b))
		}
	}
}

// checkDocumentation demands the pages, and alerts that link to them.
func checkDocumentation(t *testing.T, dir string) {
	t.Helper()
	pages, err := documentation(filepath.Join("..", ".."), published, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "docs/errors.md", "docs/kms-down.md", "docs/runbooks/EncryptionProviderDown.md", "deploy/observability/dashboard.json"} {
		if len(pages[name]) == 0 {
			t.Errorf("%s is not among the documentation", name)
		}
	}
	for _, name := range []string{"deploy/observability/alerts.yaml", "deploy/observability/prometheusrule.yaml"} {
		if url := "runbook_url: '" + published + "/runbooks/EncryptionProviderDown.md'"; !strings.Contains(string(pages[name]), url) {
			t.Errorf("%s has no %s", name, url)
		}
	}
	for name, want := range pages {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", filepath.Join(dir, name), len(got), err, len(want))
		}
	}
}

// checkUnits demands units that lead to where the pages are.
func checkUnits(t *testing.T, dir, want string) {
	t.Helper()
	for _, name := range daemon().units {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if got := documentationOf(text); err != nil || got != want {
			t.Errorf("%s: Documentation=%s, %v; want %s", filepath.Join(dir, name), got, err, want)
		}
	}
}

// checkGeneratedImage demands that the program's own manifests name the image that make
// image makes of it: whoever imports that into a node need say no name.
func checkGeneratedImage(t *testing.T, path, image string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), path, "generate", "static-pod", "--key="+keyARN).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "image: "+image+"\n") {
		t.Errorf("generate static-pod names no image %s: %v\n%s", image, err, out)
	}
}

// checkLinks demands that what the program finds links to where its docs are, and that
// it explains a code by itself.
func checkLinks(t *testing.T, path string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, "doctor", "--key="+keyARN, "--kms-endpoint=http://127.0.0.1:1", "--output=json")
	cmd.Env = []string{"AWS_EC2_METADATA_DISABLED=true", "HOME=" + t.TempDir()}
	out, err := cmd.Output()
	if failed, is := errors.AsType[*exec.ExitError](err); !is || failed.ExitCode() != 3 {
		t.Fatalf("doctor: %v\n%s", err, out)
	}
	found := regexp.MustCompile(`"link": "([^"]*)"`).FindAllSubmatch(out, -1)
	for _, link := range found {
		if !strings.HasPrefix(string(link[1]), published+"/errors.md#kms0") && !strings.HasPrefix(string(link[1]), published+"/doctor-codes.md#kms0") {
			t.Errorf("doctor links to %q", link[1])
		}
	}
	if len(found) == 0 {
		t.Errorf("doctor links nowhere:\n%s", out)
	}
	if out, err := exec.CommandContext(t.Context(), path, "explain", "KMS0204").Output(); err != nil || !strings.Contains(string(out), "No connection to KMS") {
		t.Errorf("explain KMS0204: %v\n%s", err, out)
	}
}

func unpackDeb(t *testing.T, pkg, into string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--extract", pkg, into).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb --extract %s: %v\n%s", pkg, err, out)
	}
}

// checkPackaged demands that a package installs the archive's program and its pages.
func checkPackaged(t *testing.T, pkg, path string, unpack func(t *testing.T, pkg, into string)) {
	t.Helper()
	into := t.TempDir()
	unpack(t, pkg, into)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(filepath.Base(pkg), "_"+testVersion)
	if strings.Contains(pkg, fipsSuffix) {
		name += strings.ReplaceAll(fipsSuffix, "_", "-")
	}
	checkDocumentation(t, filepath.Join(into, "usr", "share", "doc", name))
	checkUnits(t, filepath.Join(into, "usr", "lib", "systemd", "system"), published+"/systemd.md file:/usr/share/doc/"+name+"/docs/systemd.md")
	if got, err := os.ReadFile(filepath.Join(into, "usr", "bin", program)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s has a program of %d bytes, %v; the archive's has %d", pkg, len(got), err, len(want))
	}
}

// readSBOM reads a valid SBOM that describes one program.
func readSBOM(t *testing.T, path string, name common.ElementID) *spdx.Document {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	described, err := spdxlib.GetDescribedPackageIDs(doc)
	if err != nil || len(described) != 1 || described[0] != name {
		t.Errorf("the document describes %q, %v", described, err)
	}
	return doc
}

// checkSBOMs reads each SBOM with the SPDX project's own parser.
func checkSBOMs(t *testing.T, dir string) {
	t.Helper()
	for _, target := range []target{daemonFor("amd64", false), daemonFor("arm64", false), daemonFor(runtime.GOARCH, true)} {
		b := binary{target: target, version: testVersion}
		doc := readSBOM(t, filepath.Join(dir, artifact(b, ".spdx.json")), program)
		if doc.SPDXVersion != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" {
			t.Errorf("%s under %s", doc.SPDXVersion, doc.DataLicense)
		}
		versions := map[string]string{}
		for _, p := range doc.Packages {
			versions[p.PackageName] = p.PackageVersion
			if p.PackageLicenseConcluded == noAssertion {
				t.Errorf("%s: the licence of %s is not known to licenceOf", target, p.PackageName)
			}
			if ofTheTool(p.PackageName) {
				t.Errorf("%s: %s is the operator's tool's", target, p.PackageName)
			}
		}
		for _, name := range []string{"stdlib", "google.golang.org/grpc", "github.com/aws/aws-sdk-go-v2/service/kms"} {
			if versions[name] == "" {
				t.Errorf("%s: %s is missing", target, name)
			}
		}
		if len(doc.Relationships) != len(doc.Packages) {
			t.Errorf("%s: %d relationships for %d packages", target, len(doc.Relationships), len(doc.Packages))
		}
	}
}

// A scanner that reads the predecessor's module or repository in an SBOM takes its
// advisories for this program's.
func TestSBOMNamesThisProgramAlone(t *testing.T) {
	b := built(daemonFor("amd64", false), "v1.2.3+dirty")
	b.file, b.goVer, b.commit = []byte("a"), "go1.26.8", "abc"
	data, err := sbom(b, licences{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sigs.k8s.io", "kubernetes-sigs", "cpe:", "cpe2"} {
		if bytes.Contains(data, []byte(name)) {
			t.Errorf("the SBOM has %q:\n%s", name, data)
		}
	}
	const sum = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // of "a"
	for _, want := range []string{
		`"pkg:generic/aws-encryption-provider@v1.2.3%2Bdirty?checksum=sha256:` + sum + `"`,
		`"built by go1.26.8 for linux/amd64 of commit abc"`,
		`"https://spdx.org/spdxdocs/aws-encryption-provider_v1.2.3+dirty_linux_amd64-` + sum + `"`,
	} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("the SBOM has no %s:\n%s", want, data)
		}
	}
}

func TestLicencesAreKnownByTheirWords(t *testing.T) {
	const redistribution = "Redistribution and use in source\nand binary forms, with or without"
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004": "Apache-2.0",
		redistribution: "BSD-2-Clause",
		redistribution + " Neither the name of Google":                                 "BSD-3-Clause",
		"Permission is hereby granted, free of charge, to any person obtaining a copy": "MIT",
		"Permission to use, copy, modify, and distribute this software":                "ISC",
		"Mozilla Public License, version 2.0":                                          "MPL-2.0",
		"covered by two\nPermission is hereby granted, free of charge, to any person obtaining a copy\nLicensed under the Apache License, Version 2.0": "Apache-2.0 AND MIT",
		"All rights reserved.": noAssertion,
	} {
		if got := licenceOf(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

// untar unpacks a tar, compressed or not, and demands of its entries what makes
// it the same each time.
func untar(t *testing.T, path, into string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var plain io.Reader = bytes.NewReader(data)
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(plain)
		if err != nil {
			t.Fatal(err)
		}
		if !z.ModTime.IsZero() || z.Name != "" {
			t.Errorf("%s: gzip's header has time %s and name %q", path, z.ModTime, z.Name)
		}
		plain = z
	}
	unpack(t, plain, into)
}

func unpack(t *testing.T, r io.Reader, into string) {
	t.Helper()
	before := ""
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= before || !filepath.IsLocal(h.Name) {
			t.Fatalf("entry %q after %q", h.Name, before)
		}
		if got := h.ModTime.UTC().Format("2006-01-02T15:04:05Z"); got != commitTime && h.ModTime.Unix() != 0 {
			t.Errorf("entry %q is of %s", h.Name, got)
		}
		before = h.Name
		writeEntry(t, in, h, filepath.Join(into, filepath.Clean(h.Name)))
	}
}

func writeEntry(t *testing.T, in io.Reader, h *tar.Header, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if h.Typeflag == tar.TypeSymlink {
		if err := os.Symlink(h.Linkname, path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if h.Typeflag == tar.TypeDir {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	} else {
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		if err := os.Lchown(path, h.Uid, h.Gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, h.FileInfo().Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}
