package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

const (
	testVersion = "v1.2.3"
	commitTime  = "2026-01-02T03:04:05Z"
	published   = "https://docs.example/kms/docs"
	project     = "https://git.example/team/kms"
	maintainer  = "A Team's Name <team@example.org>"
)

// TestRelease builds everything of one commit in two checkouts and holds both to
// what is promised of them. FIPS 140-3 and the operator's tool are built for this machine
// only.
func TestRelease(t *testing.T) {
	here := newCheckout(t, filepath.Join("..", ".."))
	there := newCheckout(t, here.dir)
	if here.commit != there.commit {
		t.Fatalf("commits %s and %s: the test is wrong", here.commit, there.commit)
	}
	targets := "amd64,arm64," + runtime.GOARCH + fipsSuffix + "," + toolHere().String()
	first, second := here.release(t, "snapshot", targets, "--docs-url", published+"/", "--project-url", project, "--maintainer", maintainer),
		there.release(t, "snapshot", targets, "--docs-url", published, "--project-url", project+"/", "--maintainer", maintainer)

	t.Run("twice the same bytes", func(t *testing.T) { sameFiles(t, first, second) })
	t.Run("names", func(t *testing.T) { checkNames(t, first) })
	t.Run("checksums", func(t *testing.T) { checkSums(t, first) })
	t.Run("archives", func(t *testing.T) { checkArchives(t, first, here) })
	t.Run("SBOMs", func(t *testing.T) { checkSBOMs(t, first) })
	layoutDir := filepath.Join(shortDir(t), "oci")
	untar(t, filepath.Join(first, program+"_"+testVersion+"_oci.tar"), layoutDir)
	t.Run("image", func(t *testing.T) {
		checkImage(t, layoutDir, first, here, daemon(), []string{"linux/amd64", "linux/arm64"})
	})
	fips := t.TempDir()
	untar(t, filepath.Join(first, artifact(binary{target: daemonFor(runtime.GOARCH, true), version: testVersion}, ".tar.gz")), fips)
	t.Run("image runs", func(t *testing.T) { checkImageRuns(t, layoutDir, fips) })
	t.Run("operator's tool", func(t *testing.T) { checkTool(t, first, here) })
}

// TestImageTakesNameTagAndFIPS looks at what only the flags of an image change.
func TestImageTakesNameTagAndFIPS(t *testing.T) {
	c := newCheckout(t, filepath.Join("..", ".."))
	out := c.release(t, "image", runtime.GOARCH+fipsSuffix, "--name", "registry.example.com/kms")
	index, err := layout.ImageIndexFromPath(filepath.Join(out, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	got := manifest.Manifests[0].Annotations
	if name := got["io.containerd.image.name"]; name != "registry.example.com/kms:v1.2.3-fips140" {
		t.Errorf("containerd would name the image %q", name)
	}
	if tag := got["org.opencontainers.image.ref.name"]; tag != "v1.2.3-fips140" {
		t.Errorf("the tag is %q", tag)
	}
	untar(t, filepath.Join(out, program+"_v1.2.3-fips140_oci.tar"), t.TempDir())
}

// What lies in bin/release goes only where it makes room for what is written there.
func TestNothingIsReplacedButWhatIsWrittenTo(t *testing.T) {
	for name, c := range map[string]struct {
		out     string
		replace string
		stays   bool
	}{
		"written there":            {"bin/release", "bin/release", false},
		"by another name":          {"./bin//release/", "bin/release", false},
		"written elsewhere":        {"other", "bin/release", true},
		"written below":            {"bin/release/below", "bin/release", true},
		"nothing is said to go":    {"other", "", true},
		"written to what is above": {"bin", "bin/release", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			const old = "bin/release/SHA256SUMS"
			if err := errors.Join(os.MkdirAll("bin/release", 0o755), os.WriteFile(old, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			err := prepare(c.out, c.replace)
			if _, gone := os.Stat(old); (gone == nil) != c.stays {
				t.Errorf("what was there: %v, want it to stay: %t (prepare: %v)", gone, c.stays, err)
			}
		})
	}
	for _, target := range []string{"release-snapshot", "image"} {
		cmd := exec.CommandContext(t.Context(), "make", "--dry-run", target, "ARGS=--out /elsewhere")
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "rm ") || !strings.Contains(string(out), "--replace bin/") {
			t.Errorf("make %s removes by itself: %v\n%s", target, err, out)
		}
	}
}

func TestRefusals(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--docs-url (DOCS_URL)", []string{"image", "--out", t.TempDir(), "--docs-url", "example.org/docs"}},
		{"--docs-url (DOCS_URL)", []string{"image", "--out", t.TempDir(), "--docs-url", "https://example.org/docs?x=y"}},
		{"--docs-url (DOCS_URL)", []string{"image", "--out", t.TempDir(), "--docs-url", "https://example.org/'$(id)'"}},
		{"--project-url (PROJECT_URL)", []string{"snapshot", "--out", t.TempDir(), "--project-url", "git@example.org:team/kms"}},
		{"--maintainer (MAINTAINER)", []string{"snapshot", "--out", t.TempDir(), "--maintainer", "A Team\nDepends: other"}},
		{"--maintainer (MAINTAINER)", []string{"snapshot", "--out", t.TempDir(), "--maintainer", "<team@example.org>"}},
		{"--maintainer (MAINTAINER)", []string{"snapshot", "--out", t.TempDir(), "--maintainer", "A Team <team@example.org"}},
		{"--maintainer (MAINTAINER)", []string{"snapshot", "--out", t.TempDir(), "--maintainer", "$(HOME) <team@example.org>"}},
		{"--project-url (PROJECT_URL)", []string{"rebuild", "--version", testVersion, "--checksums", "SHA256SUMS", "--project-url", "example.org"}},
		{"say image, snapshot, push or rebuild", nil},
		{`no command "publish"`, []string{"publish"}},
		{"--out is required", []string{"image"}},
		{"no arguments", []string{"image", "--out", t.TempDir(), "more"}},
		{"is not empty", []string{"image", "--out", full}},
		{`no target "s390x"`, []string{"image", "--out", t.TempDir(), "--targets", "s390x"}},
		{`target "arm64" twice`, []string{"image", "--out", t.TempDir(), "--targets", "arm64,arm64"}},
		{"one program for each platform", []string{"image", "--out", t.TempDir(), "--targets", "arm64,arm64_fips140"}},
		{"hack/version.sh", []string{"image", "--out", t.TempDir(), "--source", t.TempDir()}},
		{`no target "kubectl-kms_linux_s390x"`, []string{"snapshot", "--out", t.TempDir(), "--targets", "kubectl-kms_linux_s390x"}},
		{`no target "linux_amd64"`, []string{"snapshot", "--out", t.TempDir(), "--targets", "linux_amd64"}},
		{`no product "kms"`, []string{"image", "--out", t.TempDir(), "--product", "kms"}},
		{"an image of kubectl-kms has no amd64", []string{"image", "--out", t.TempDir(), "--product", tool, "--targets", "amd64"}},
		{"an image of kubectl-kms has no kubectl-kms_darwin_arm64", []string{"image", "--out", t.TempDir(), "--product", tool, "--targets", "kubectl-kms_darwin_arm64"}},
		{"--name is of one image", []string{"snapshot", "--out", t.TempDir(), "--name", "localhost/kms"}},
	} {
		err := run(t.Context(), c.args, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("release %q: %v, want %q", c.args, err, c.want)
		}
	}
}

func TestTooBigAnImageIsRefused(t *testing.T) {
	noise := make([]byte, maxImage)
	for i := range noise { // sums of sums do not compress
		if i%sha256.Size == 0 {
			sum := sha256.Sum256(noise[max(0, i-sha256.Size):i])
			copy(noise[i:], sum[:])
		}
	}
	b := built(daemonFor("amd64", false), "v0.0.0")
	b.file = noise
	_, err := imageIndex([]binary{b}, licences{}, publisher{}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "at most 20000000 are allowed") {
		t.Errorf("an image of %d bytes: %v", len(noise), err)
	}
}

// TestRootsAreMozillas: Amazon's own are there, and the constrained are not.
func TestRootsAreMozillas(t *testing.T) {
	text, err := rootsPEM()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		names[c.Subject.CommonName] = true
	}
	if len(names) < 100 {
		t.Errorf("%d authorities, want a hundred or more", len(names))
	}
	for _, name := range []string{"Amazon Root CA 1", "Amazon Root CA 2", "Amazon Root CA 3", "Amazon Root CA 4", "Starfield Services Root Certificate Authority - G2"} {
		if !names[name] {
			t.Errorf("%s is missing: AWS' certificates could not be verified", name)
		}
	}
}

// built is a program that only has to be there, as if it were built for a target.
func built(t target, version string) binary {
	p, err := productOf(t.program)
	if err != nil {
		panic(err)
	}
	return binary{target: t, product: p, file: []byte("#!/bin/sh\necho " + version + "\n"), version: version, time: epoch()}
}

func daemonFor(arch string, fips bool) target {
	return target{program: program, os: linux, arch: arch, fips: fips}
}

// toolHere is the tool for this machine.
func toolHere() target { return target{program: tool, os: linux, arch: runtime.GOARCH} }

// A checkout is a repository with one tagged commit, at a place of its own.
type checkout struct{ dir, commit string }

// newCheckout copies what the program is built of from another. Author, time and message are
// fixed, so that all checkouts have one commit.
func newCheckout(t *testing.T, root string) checkout {
	t.Helper()
	c := checkout{dir: t.TempDir()}
	for _, dir := range []string{"cmd", "deploy", "docs", "hack", "internal"} {
		if err := os.CopyFS(filepath.Join(c.dir, dir), os.DirFS(filepath.Join(root, dir))); err != nil {
			t.Fatal(err)
		}
	}
	// The tool's module names the one of the end-to-end tests.
	for _, name := range []string{"go.mod", "go.sum", "Makefile", "LICENSE", "README.md", "CHANGELOG.md", "test/e2e/go.mod"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(c.dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.git(t, "init", "--quiet")
	c.git(t, "add", ".")
	c.git(t, "commit", "--quiet", "--message", "release")
	c.git(t, "tag", testVersion)
	c.commit = strings.TrimSpace(c.git(t, "rev-parse", "HEAD"))
	return c
}

func (c checkout) git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = c.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "GIT_") })
	cmd.Env = append(cmd.Env,
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE="+commitTime,
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE="+commitTime)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// release runs the tool on the checkout and returns the directory that it wrote.
func (c checkout) release(t *testing.T, command, targets string, more ...string) string {
	t.Helper()
	out := t.TempDir()
	var words bytes.Buffer
	start := time.Now()
	args := append([]string{command, "--source", c.dir, "--out", out, "--targets", targets}, more...)
	if err := run(t.Context(), args, &words, &words); err != nil {
		t.Fatalf("release %q: %v\n%s", args, err, words.Bytes())
	}
	t.Logf("%s of %s in %v:\n%s", command, targets, time.Since(start).Round(100*time.Millisecond), words.Bytes())
	return out
}

// sameFiles demands that two directories hold the same files.
func sameFiles(t *testing.T, one, two string) {
	t.Helper()
	a, b := readAll(t, one), readAll(t, two)
	if len(a) != len(b) || len(a) == 0 {
		t.Fatalf("%d files and %d", len(a), len(b))
	}
	for name, data := range a {
		if !bytes.Equal(data, b[name]) {
			t.Errorf("%s differs: sha256 %x and %x", name, sha256.Sum256(data), sha256.Sum256(b[name]))
		}
	}
}

// readAll returns the files below a directory, by path.
func readAll(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	root := os.DirFS(dir)
	names, err := filesBelow(root)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = fs.ReadFile(root, name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// checkImage demands of the layout what manifests, registries and people expect.
func checkImage(t *testing.T, dir, out string, c checkout, p product, want []string) {
	t.Helper()
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	outer, err := top.IndexManifest()
	if err != nil || len(outer.Manifests) != 1 {
		t.Fatalf("the layout has %v, %v; want one index", outer, err)
	}
	if name := outer.Manifests[0].Annotations["io.containerd.image.name"]; name != "localhost/"+p.name+":"+testVersion {
		t.Errorf("containerd would name the image %q", name)
	}
	digest, err := os.ReadFile(filepath.Join(out, p.digest))
	if err != nil || string(digest) != outer.Manifests[0].Digest.String()+"\n" {
		t.Errorf("%s is %q, %v; the layout has %s", p.digest, digest, err, outer.Manifests[0].Digest)
	}
	index, err := top.ImageIndex(outer.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	checkAnnotations(t, "index", inner.Annotations, c, p)
	var platforms []string
	for _, d := range inner.Manifests {
		platforms = append(platforms, d.Platform.String())
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkPlatformImage(t, d.Platform.Architecture, image, c, p)
	}
	if !slices.Equal(platforms, want) {
		t.Errorf("platforms %q, want %q", platforms, want)
	}
}

func checkPlatformImage(t *testing.T, arch string, image v1.Image, c checkout, p product) {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	checkAnnotations(t, arch, manifest.Annotations, c, p)
	size, err := compressedSize(image)
	if err != nil || size <= 1_000_000 || size >= maxImage {
		t.Errorf("%s has %d bytes compressed, %v; want under %d", arch, size, err, maxImage)
	}
	t.Logf("linux/%s: %d bytes compressed", arch, size)
	f, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if f.OS != "linux" || f.Architecture != arch {
		t.Errorf("config is for %s/%s, want linux/%s", f.OS, f.Architecture, arch)
	}
	if !slices.Equal(f.Config.Entrypoint, []string{"/" + p.name}) || len(f.Config.Cmd) != 0 {
		t.Errorf("entry point %q, command %q; want the program alone, so that args are its flags", f.Config.Entrypoint, f.Config.Cmd)
	}
	if want := map[string]string{program: "0:0", tool: "65532:65532"}[p.name]; f.Config.User != want {
		t.Errorf("user %q, want %s", f.Config.User, want)
	}
	if got, want := len(f.Config.ExposedPorts), map[string]int{program: 1}[p.name]; got != want {
		t.Errorf("%d ports, want %d", got, want)
	}
	checkAnnotations(t, arch+" labels", f.Config.Labels, c, p)
	if got := f.Created.Format(time.RFC3339); got != commitTime {
		t.Errorf("created %s, want the commit's %s", got, commitTime)
	}
}

func checkAnnotations(t *testing.T, where string, got map[string]string, c checkout, p product) {
	t.Helper()
	for name, want := range map[string]string{
		"version": testVersion, "revision": c.commit, "licenses": "Apache-2.0", "created": commitTime,
		"source": project, "url": project, "documentation": published, "title": p.name, "description": p.label,
	} {
		if got := got["org.opencontainers.image."+name]; got != want {
			t.Errorf("%s: org.opencontainers.image.%s is %q, want %q", where, name, got, want)
		}
	}
}

func checkNames(t *testing.T, dir string) {
	t.Helper()
	want := []string{"SHA256SUMS", "image-digest.txt", program + "_v1.2.3_oci.tar", "kubectl-kms-image-digest.txt", "kubectl-kms_v1.2.3_oci.tar"}
	for _, target := range []string{"amd64", "arm64", runtime.GOARCH + "_fips140"} {
		for _, kind := range []string{"tar.gz", "deb", "rpm", "spdx.json"} {
			want = append(want, fmt.Sprintf("%s_v1.2.3_linux_%s.%s", program, target, kind))
		}
	}
	for _, kind := range []string{"tar.gz", "deb", "rpm", "spdx.json"} {
		want = append(want, "kubectl-kms_v1.2.3_linux_"+runtime.GOARCH+"."+kind)
	}
	slices.Sort(want)
	var got []string
	for name := range readAll(t, dir) {
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}
