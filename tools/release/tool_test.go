package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spdx/tools-golang/spdx"
)

// ofTheTool reports whether only the operator's tool links a module.
func ofTheTool(module string) bool {
	return slices.ContainsFunc([]string{"go.etcd.io/", "k8s.io/client-go", "k8s.io/cli-runtime"}, func(prefix string) bool {
		return strings.HasPrefix(module, prefix)
	})
}

// checkTool demands of a release what it has of the operator's tool for this machine.
func checkTool(t *testing.T, dir string, c checkout) {
	t.Helper()
	b := binary{target: toolHere(), version: testVersion}
	into := t.TempDir()
	untar(t, filepath.Join(dir, artifact(b, ".tar.gz")), into)
	inside := filepath.Join(into, artifact(b, ""))
	t.Run("archive", func(t *testing.T) {
		checkTop(t, inside, map[string]fs.FileMode{
			tool: 0o755, "kubectl_complete-kms": fs.ModeSymlink | 0o777, tool + ".spdx.json": 0o644,
			"LICENSE": 0o644, thirdPartyFile: 0o644, "README.md": 0o644, "CHANGELOG.md": 0o644,
			"docs": fs.ModeDir | 0o755, "deploy": fs.ModeDir | 0o755,
		})
		checkToolPages(t, inside)
		checkToolRuns(t, inside, c)
		checkToolBuild(t, filepath.Join(inside, tool), c)
		if text, err := os.ReadFile(filepath.Join(inside, thirdPartyFile)); err != nil || !strings.HasPrefix(string(text), "What is linked into kubectl-kms, ") || !strings.Contains(string(text), "\ngo.etcd.io/bbolt v") {
			t.Errorf("%s begins with %.60q, %v", thirdPartyFile, text, err)
		}
	})
	for suffix, unpack := range map[string]func(*testing.T, string, string){".deb": unpackDeb, ".rpm": unpackRPM} {
		t.Run(suffix, func(t *testing.T) {
			root := t.TempDir()
			unpack(t, filepath.Join(dir, artifact(b, suffix)), root)
			want, err := os.ReadFile(filepath.Join(inside, tool))
			got, missing := os.ReadFile(filepath.Join(root, "usr", "bin", tool))
			if err := errors.Join(err, missing); err != nil || !bytes.Equal(got, want) {
				t.Errorf("a program of %d bytes, %v; the archive's has %d", len(got), err, len(want))
			}
			checkToolPages(t, filepath.Join(root, "usr", "share", "doc", tool))
		})
	}
	t.Run("SBOM", func(t *testing.T) { checkToolSBOM(t, filepath.Join(dir, artifact(b, ".spdx.json"))) })
	t.Run("image", func(t *testing.T) {
		layoutDir := filepath.Join(shortDir(t), "oci")
		untar(t, filepath.Join(dir, tool+"_"+testVersion+imageSuffix), layoutDir)
		checkImage(t, layoutDir, dir, c, operatorsTool(), []string{"linux/" + runtime.GOARCH})
		checkToolImageRuns(t, layoutDir, c)
	})
}

// checkTop demands the entries of a directory.
func checkTop(t *testing.T, dir string, want map[string]fs.FileMode) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]fs.FileMode{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = info.Mode()
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s has %v, want %v", dir, got, want)
	}
}

// checkToolPages demands that the links of the tool's guide lead to files that are there.
func checkToolPages(t *testing.T, dir string) {
	t.Helper()
	const guide = "docs/kubectl-kms.md"
	text, err := os.ReadFile(filepath.Join(dir, guide))
	if err != nil {
		t.Fatal(err)
	}
	schemas := 0
	for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`).FindAllSubmatch(text, -1) {
		name := path.Join(path.Dir(guide), string(link[1]))
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s leads to %s: %v", guide, name, err)
		}
		if strings.HasSuffix(name, ".schema.json") {
			schemas++
		}
	}
	if schemas < 4 {
		t.Errorf("%s leads to %d schemas: the test is wrong", guide, schemas)
	}
}

// The predecessor's module has the path of this checkout's, which the tool is built of.
func TestModulesOfTheCheckoutAreNotListed(t *testing.T) {
	for name, c := range map[string]struct {
		replace *debug.Module
		want    bool
	}{
		"a module as it is":            {nil, false},
		"the checkout":                 {&debug.Module{Path: "../..", Version: "(devel)"}, true},
		"the checkout, as Go said it":  {&debug.Module{Path: "../.."}, true},
		"a directory elsewhere":        {&debug.Module{Path: "/src/kms"}, true},
		"another module in its place":  {&debug.Module{Path: "example.org/fork", Version: "v1.0.0"}, false},
		"another version in its place": {&debug.Module{Path: "example.org/kms", Version: "v1.0.1"}, false},
	} {
		if got := ofCheckout(&debug.Module{Path: "example.org/kms", Version: "v1.0.0", Replace: c.replace}); got != c.want {
			t.Errorf("%s is of the checkout: %t, want %t", name, got, c.want)
		}
	}
}

// checkToolRuns runs the tool by both of its names.
func checkToolRuns(t *testing.T, dir string, c checkout) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, tool), "version").CombinedOutput()
	if want := "kubectl-kms " + testVersion + "\ncommit " + c.commit + "\n" + runtime.Version() + "\n"; err != nil || string(out) != want {
		t.Errorf("version says %q, %v; want %q", out, err, want)
	}
	out, err = exec.CommandContext(t.Context(), filepath.Join(dir, "kubectl_complete-kms"), "mig").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "migrate\t") {
		t.Errorf("kubectl would complete mig by %q, %v", out, err)
	}
}

// checkToolBuild demands a static program, built as the daemon is.
func checkToolBuild(t *testing.T, path string, c checkout) {
	t.Helper()
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["-trimpath"] != "true" || settings["CGO_ENABLED"] != "0" || settings["GOARCH"] != runtime.GOARCH || settings["vcs.revision"] != c.commit || settings["vcs.modified"] != "false" {
		t.Errorf("settings %v", settings)
	}
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = program.Close() }()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a loader: it is not static")
		}
	}
}

// checkToolSBOM demands what the tool links, and nothing of this checkout: that has the
// path of the predecessor's module.
func checkToolSBOM(t *testing.T, path string) {
	t.Helper()
	doc := readSBOM(t, path, tool)
	versions := map[string]string{}
	for _, p := range doc.Packages {
		versions[p.PackageName] = p.PackageVersion
		if p.PackageLicenseConcluded == noAssertion {
			t.Errorf("the licence of %s is not known to licenceOf", p.PackageName)
		}
		if strings.HasPrefix(p.PackageName, "sigs.k8s.io/aws-encryption-provider") {
			t.Errorf("it names %s", p.PackageName)
		}
	}
	if versions[tool] != testVersion {
		t.Errorf("it is of %q, want %s", versions[tool], testVersion)
	}
	for _, name := range []string{"stdlib", "go.etcd.io/bbolt", "go.etcd.io/etcd/client/v3", "k8s.io/client-go", "k8s.io/cli-runtime", "github.com/aws/aws-sdk-go-v2/service/kms"} {
		if versions[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	if count := func(p *spdx.Package) bool { return ofTheTool(p.PackageName) }; !slices.ContainsFunc(doc.Packages, count) {
		t.Error("ofTheTool knows none of its modules: the test is wrong")
	}
}

// checkToolImageRuns runs the image as a container runtime would.
func checkToolImageRuns(t *testing.T, layoutDir string, c checkout) {
	t.Helper()
	root := shortDir(t)
	argv := append(unpackImage(t, layoutDir, root), "version")
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = []string{"HOME=/home/nonroot"}
	if os.Getuid() == 0 {
		cmd.Dir = "/home/nonroot"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: nonroot, Gid: nonroot}}
	} else {
		t.Log("not root: the program runs as this process's user, in no root directory of its own")
		cmd.Path = filepath.Join(root, argv[0])
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "kubectl-kms "+testVersion+"\ncommit "+c.commit) {
		t.Errorf("%q says %q, %v", argv, out, err)
	}
	if text, err := os.ReadFile(filepath.Join(root, caFile)); err != nil || !bytes.Contains(text, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("no authorities, by which KMS is known: %v", err)
	}
}

// Where the tool runs is more than where this test does: what is packed for each system
// is told from a program that only has to be there.
func TestToolIsPackedForEverySystem(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, target := range operatorsTool().targets {
		t.Run(target.String(), func(t *testing.T) {
			b := built(target, testVersion)
			files, err := artifacts(root, publisher{}, b, licences{own: []byte("a licence\n")})
			if err != nil {
				t.Fatal(err)
			}
			again, err := artifacts(root, publisher{}, b, licences{own: []byte("a licence\n")})
			if err != nil || !maps.EqualFunc(files, again, bytes.Equal) {
				t.Errorf("twice, and not the same bytes: %v", err)
			}
			got, want := slices.Sorted(maps.Keys(files)), append(suffixes(target), ".spdx.json")
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("it is packed as %q, want %q", got, want)
			}
			entries, name := tarred(t, files[".tar.gz"]), tool
			if target.os == windows {
				entries, name = unzipped(t, files[".zip"]), tool+".exe"
			}
			dir := artifact(b, "/")
			if e := entries[dir+name]; e.mode != 0o755 || !bytes.Equal(e.data, b.file) {
				t.Errorf("%s has mode %v and %d bytes", name, e.mode, len(e.data))
			}
			if link := entries[dir+"kubectl_complete-kms"].link; link != map[string]string{linux: tool, darwin: tool}[target.os] {
				t.Errorf("kubectl_complete-kms is a link to %q", link)
			}
			if e := entries[dir+"docs/kubectl-kms.md"]; e.mode != 0o644 || len(e.data) == 0 {
				t.Errorf("the guide has mode %v and %d bytes", e.mode, len(e.data))
			}
			if want := "for " + target.os + "/" + target.arch; !bytes.Contains(files[".spdx.json"], []byte(want)) {
				t.Errorf("the SBOM does not say %q", want)
			}
		})
	}
}

// An entry is one of an archive.
type entry struct {
	mode fs.FileMode
	data []byte
	link string
}

func tarred(t *testing.T, data []byte) map[string]entry {
	t.Helper()
	entries := map[string]entry{}
	if data == nil {
		return entries
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		entries[h.Name] = entry{h.FileInfo().Mode(), content, h.Linkname}
	}
}

func unzipped(t *testing.T, data []byte) map[string]entry {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]entry{}
	for _, f := range z.File {
		if !f.Modified.Equal(epoch()) {
			t.Errorf("%s is of %v", f.Name, f.Modified)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		entries[f.Name] = entry{mode: f.Mode(), data: content}
	}
	return entries
}

// installedTool is what a package of the tool puts where, but documentation.
func installedTool() map[string]fs.FileMode {
	return map[string]fs.FileMode{
		"/usr/bin/kubectl-kms":                                                0o755,
		"/usr/bin/kubectl_complete-kms":                                       fs.ModeSymlink | 0o777,
		"/usr/share/bash-completion/completions/kubectl-kms":                  0o644,
		"/usr/share/fish/vendor_completions.d/kubectl-kms.fish":               0o644,
		"/usr/share/doc/kubectl-kms/kubectl-kms.spdx.json":                    0o644,
		"/usr/share/doc/kubectl-kms/NEWS.md":                                  0o644,
		"/usr/share/doc/kubectl-kms/docs/kubectl-kms.md":                      0o644,
		"/usr/share/doc/kubectl-kms/deploy/kubectl-kms-migrate.schema.json":   0o644,
		"/usr/share/doc/kubectl-kms/deploy/observability/prometheusrule.yaml": 0o644,
	}
}

// checkInstalled demands files of a machine, and that kubectl finds the completion.
func checkInstalled(t *testing.T, m machine, want map[string]fs.FileMode) {
	t.Helper()
	for path, mode := range want {
		if info, err := os.Lstat(filepath.Join(m.dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, info, err, mode)
		}
	}
	if link, err := os.Readlink(filepath.Join(m.dir, "usr", "bin", "kubectl_complete-kms")); err != nil || link != tool {
		t.Errorf("kubectl_complete-kms leads to %q, %v", link, err)
	}
}

// The tool is installed beside the daemon or without it, and neither touches the other.
func TestToolsPackageComesIsUpgradedAndGoes(t *testing.T) {
	source := filepath.Join("..", "..")
	m := newMachine(t, true)
	m.mustDpkg(t, "--install", pack(t, "v1.2.3", false))
	m.called(t, reload, tryRestart)
	before := m.files(t)

	m.mustDpkg(t, "--install", packed(t, source, built(toolHere(), "v1.2.2"), ".deb"))
	want := installedTool()
	want["/usr/share/doc/kubectl-kms/copyright"], want["/usr/share/doc/kubectl-kms/"+thirdPartyFile] = 0o644, 0o644
	want["/usr/share/zsh/vendor-completions/_kubectl-kms"] = 0o644
	checkInstalled(t, m, want)
	checkCompletion(t, m, tool)
	for _, name := range []string{program, tool} {
		if out := m.mustDpkg(t, "--verify", name); out != "" {
			t.Errorf("dpkg --verify %s: %s", name, out)
		}
	}
	m.mustDpkg(t, "--install", packed(t, source, built(toolHere(), "v1.2.3"), ".deb"))
	if got := m.read(t, "/usr/bin/kubectl-kms"); !strings.Contains(got, "v1.2.3") {
		t.Errorf("after the upgrade the program is %q", got)
	}
	m.mustDpkg(t, "--purge", tool)
	if got := m.files(t); !slices.Equal(got, before) {
		t.Errorf("after the purge there are %q, want %q", got, before)
	}
	m.called(t) // no service is asked anything for it
}

func TestToolsRPMComesIsUpgradedAndGoes(t *testing.T) {
	source := filepath.Join("..", "..")
	m := newRPMMachine(t, true)
	m.must(t, "--install", packRPM(t, "v1.2.3", false))
	m.called(t, preset, reload, tryRestart)
	before := m.ours(t)

	m.must(t, "--install", packed(t, source, built(toolHere(), "v1.2.2"), ".rpm"))
	want := installedTool()
	want["/usr/share/licenses/kubectl-kms/LICENSE"], want["/usr/share/licenses/kubectl-kms/"+thirdPartyFile] = 0o644, 0o644
	want["/usr/share/zsh/site-functions/_kubectl-kms"] = 0o644
	checkInstalled(t, m.machine, want)
	listed := strings.Fields(m.must(t, "--query", "--list", tool))
	for path := range want {
		if !slices.Contains(listed, path) {
			t.Errorf("rpm --query --list has no %s", path)
		}
	}
	if out, err := m.run(t, "--verify", "--nodeps", tool); err != nil {
		t.Errorf("rpm --verify: %v %s", err, out)
	}
	if out := m.must(t, "--query", "--queryformat=%{LICENSE} %{BUILDHOST} [%{CONFLICTS}][%{OBSOLETES}]", tool); out != "Apache-2.0 localhost " {
		t.Errorf("rpm says of it %q", out)
	}
	if out := m.must(t, "--query", "--scripts", tool); out != "" {
		t.Errorf("it has scripts:\n%s", out)
	}
	m.must(t, "--upgrade", packed(t, source, built(toolHere(), "v1.2.3"), ".rpm"))
	if got := m.read(t, "/usr/bin/kubectl-kms"); !strings.Contains(got, "v1.2.3") {
		t.Errorf("after the upgrade the program is %q", got)
	}
	m.must(t, "--erase", tool)
	if got := m.ours(t); !slices.Equal(got, before) {
		t.Errorf("after the removal there are %q, want %q", got, before)
	}
	m.called(t) // no service is asked anything for it
}

// A release has two images, and each goes where it is told.
func TestPushTakesTheImageThatIsNamed(t *testing.T) {
	host := startRegistry(t, nil)
	dir, digest := writtenImage(t)
	var said bytes.Buffer
	err := writeImage(request{out: dir}, []binary{built(toolHere(), testVersion)}, licences{}, filepath.Join(t.TempDir(), "oci"), &said)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args      []string
		platforms []string
	}{
		program: {nil, []string{"linux/amd64", "linux/arm64"}},
		tool:    {[]string{"--product", tool}, []string{"linux/" + runtime.GOARCH}},
	} {
		image := host + "/kms/" + name + ":" + testVersion
		if err := run(t.Context(), append([]string{"push", "--from", dir, "--image", image}, c.args...), io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
		want := digest
		if name == tool {
			text, err := os.ReadFile(filepath.Join(dir, "kubectl-kms-image-digest.txt"))
			if err != nil {
				t.Fatal(err)
			}
			want = strings.TrimSpace(string(text))
		}
		checkPushed(t, image, want, c.platforms)
	}
}

// make image leads each product's image to a directory of its own, from which make push
// takes it.
func TestMakeKeepsImagesApart(t *testing.T) {
	for what, dir := range map[string]string{program: "bin/image", tool: "bin/image-kubectl-kms"} {
		for goal, want := range map[string]string{
			"image": "--product '" + what + "' --out " + dir + " --replace " + dir + " ",
			"push":  "--product '" + what + "' --from '" + dir + "' ",
		} {
			cmd := exec.CommandContext(t.Context(), "make", "--dry-run", goal, "PRODUCT="+what, "IMAGE=registry.example.com/kms:v1")
			cmd.Dir, cmd.Env = filepath.Join("..", ".."), ownEnvironment()
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
				t.Errorf("make %s PRODUCT=%s: %v\n%s\nwant %s", goal, what, err, out, want)
			}
		}
	}
}
