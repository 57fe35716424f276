package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// A unit leads to the pages that its package installs, and first to published ones. One
// in an archive, which may be unpacked anywhere, leads to published ones alone.
func TestUnitsLeadToPagesThatAreThere(t *testing.T) {
	for name, c := range map[string]struct {
		docs, directory, want string
	}{
		"a package":                   {"", installedDocs, "file:/usr/share/doc/aws-encryption-provider/docs/systemd.md"},
		"the other package":           {"", "/usr/share/doc/other/", "file:/usr/share/doc/other/docs/systemd.md"},
		"a package, pages published":  {published, installedDocs, published + "/systemd.md file:/usr/share/doc/aws-encryption-provider/docs/systemd.md"},
		"an archive":                  {"", "", ""},
		"an archive, pages published": {published, "", published + "/systemd.md"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, unit := range daemon().units {
				text, err := publisher{docs: c.docs}.unit(filepath.Join("..", ".."), unit, c.directory)
				if err != nil {
					t.Fatal(err)
				}
				if got := documentationOf(text); got != c.want {
					t.Errorf("%s: Documentation=%s, want %q", unit, got, c.want)
				}
				if lines := strings.Count(string(text), "\n[Unit]\nDescription="); lines != 1 {
					t.Errorf("%s is damaged:\n%s", unit, text)
				}
			}
		})
	}
	if _, err := (publisher{}).unit(t.TempDir(), program+".service", ""); err == nil {
		t.Error("a unit that is not there is taken")
	}
}

// documentationOf is what systemctl status shows of a unit; "" for none.
func documentationOf(unit []byte) string {
	found := regexp.MustCompile(`(?m)^Documentation=(.*)$`).FindSubmatch(unit)
	if found == nil {
		return ""
	}
	return string(found[1])
}

// Packages say who publishes them, and where nobody says so, nobody else.
func TestPackagesNameTheirPublisher(t *testing.T) {
	for name, c := range map[string]struct {
		p               publisher
		contact, origin string
	}{
		"nobody": {publisher{}, "The builder of this package", ""},
		"a team": {publisher{project: project, maintainer: maintainer}, maintainer, project},
	} {
		t.Run(name, func(t *testing.T) {
			b := built(daemonFor(runtime.GOARCH, false), testVersion)
			dir, source := t.TempDir(), filepath.Join("..", "..")
			deb, err := debian(source, c.p, b, licences{own: []byte("a licence\n")}, []byte("{}\n"))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "a.deb")
			if err := os.WriteFile(path, deb, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--show", "--showformat=${Maintainer}|${Homepage}", path).CombinedOutput()
			if want := c.contact + "|" + c.origin; err != nil || string(out) != want {
				t.Errorf("dpkg-deb shows %q, %v; want %q", out, err, want)
			}
			rpm := rpmInfo(filepath.Join(source, "deploy"), c.p, b, nil)
			if rpm.Maintainer != c.contact || rpm.Homepage != c.origin {
				t.Errorf("the rpm has %q and %q, want %q and %q", rpm.Maintainer, rpm.Homepage, c.contact, c.origin)
			}
			labels := annotations(b, c.p)
			for _, label := range []string{"source", "url"} {
				if got, there := labels["org.opencontainers.image."+label]; got != c.origin || there != (c.origin != "") {
					t.Errorf("the image's %s is %q, %t; want %q", label, got, there, c.origin)
				}
			}
		})
	}
}

// The predecessor's people have not built this and cannot help with it: nothing that is
// installed, and no policy of this repository, leads there.
func TestNothingShippedLeadsToThePredecessor(t *testing.T) {
	theirs := regexp.MustCompile(`https?://sigs\.k8s\.io/aws-encryption-provider|github\.com/kubernetes-sigs/aws-encryption-provider|The Kubernetes Authors`)
	root := filepath.Join("..", "..")
	checked := 0
	look := func(name string, text []byte) {
		checked++
		if found := theirs.Find(text); found != nil {
			t.Errorf("%s leads to %s", name, found)
		}
	}
	err := fs.WalkDir(os.DirFS(root), "deploy", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(root, name))
		look(name, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"SECURITY.md", "CONTRIBUTING.md", "Makefile", ".github/workflows/release.yml"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		look(name, data)
	}
	for _, target := range []target{daemonFor("amd64", false), toolHere()} {
		b := built(target, testVersion)
		look("the image", []byte(fmt.Sprint(annotations(b, publisher{}))))
		look("the packages", []byte(fmt.Sprintf("%+v", debInfo("", publisher{}, b, nil))))
	}
	if checked < 20 {
		t.Errorf("looked at %d files: the test is wrong", checked)
	}
}

// What make is told reaches the packages and a rebuild as it is, blanks and quotes too.
func TestMakeHandsThePublisherOn(t *testing.T) {
	p := publisher{docs: published, project: project, maintainer: maintainer}
	for _, goal := range []string{"image", "release-snapshot", "rebuild"} {
		cmd := exec.CommandContext(t.Context(), "make", append([]string{"--dry-run", "--always-make", goal}, p.variables()...)...)
		cmd.Dir, cmd.Env = filepath.Join("..", ".."), ownEnvironment()
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		_, flags, _ := strings.Cut(lines[len(lines)-1], "--docs-url")
		said, err := exec.CommandContext(t.Context(), "sh", "-c", `printf '<%s>' --docs-url`+flags).CombinedOutput()
		if want := "<--docs-url><" + published + "><--project-url><" + project + "><--maintainer><" + maintainer + ">"; err != nil || string(said) != want {
			t.Errorf("make %s gives %s, %v; want %s", goal, said, err, want)
		}
	}
}
