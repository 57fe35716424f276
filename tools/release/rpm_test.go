package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/goreleaser/nfpm/v2/files"

	"sigs.k8s.io/aws-encryption-provider/internal/roottest"
)

const (
	noReload = "--no-reload "
	preset   = noReload + "preset aws-encryption-provider.service aws-encryption-provider.socket"
	notYet   = "does not run yet"
)

// rpmTools are the paths of an rpm and of a static busybox, which hack/rpm.sh finds.
func rpmTools(t *testing.T) (rpm, busybox string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("..", "..", "hack", "rpm.sh"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	found := strings.Fields(string(out))
	if err != nil || len(found) != 2 {
		t.Fatalf("hack/rpm.sh says %q, %v", out, err)
	}
	return found[0], found[1]
}

// An rpmMachine is a directory that rpm takes for the root of one. rpm runs scripts in
// it, so it has a shell: busybox. Its systemctl is the one of a Debian [machine].
type rpmMachine struct {
	machine
	rpm string
}

func newRPMMachine(t *testing.T, booted bool) rpmMachine {
	t.Helper()
	roottest.Needs(t, "rpm enters the machine's root directory")
	rpm, busybox := rpmTools(t)
	dir := t.TempDir()
	m := rpmMachine{machine{dir: dir, bin: filepath.Join(dir, "usr", "bin")}, rpm}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	made := []string{"usr/bin", "var/lib/rpm", "etc/systemd/system"}
	if booted {
		made = append(made, "run/systemd/system")
	}
	for _, name := range made {
		err = errors.Join(err, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	err = errors.Join(err, os.WriteFile(filepath.Join(m.bin, "busybox"), data, 0o755), os.Symlink("usr/bin", filepath.Join(dir, "bin")))
	for _, name := range []string{"sh", "cat", "grep"} {
		err = errors.Join(err, os.Symlink("busybox", filepath.Join(m.bin, name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	m.script(t, "systemctl", `[ "$1" != is-active ] || { [ -e "$0.active" ]; exit; }
echo "$*" >>"$0.calls"; [ ! -e "$0.fails" ] || [ "$1" != "$(cat "$0.fails")" ]`)
	return m
}

// run runs the real rpm on the machine. No package of ours is signed.
func (m rpmMachine) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), m.rpm, append([]string{"--root=" + m.dir, "--dbpath=/var/lib/rpm", "--define=_pkgverify_level none"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m rpmMachine) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.run(t, args...)
	if err != nil {
		t.Fatalf("rpm %q: %v\n%s", args, err, out)
	}
	return out
}

// packRPM is pack's of the other format.
func packRPM(t *testing.T, version string, fips bool) string {
	t.Helper()
	return packRPMOf(t, filepath.Join("..", ".."), version, fips)
}

func packRPMOf(t *testing.T, source, version string, fips bool) string {
	t.Helper()
	return packed(t, source, built(daemonFor(runtime.GOARCH, fips), version), ".rpm")
}

// ours are the machine's files that no other package has.
func (m rpmMachine) ours(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(m.files(t), func(path string) bool {
		return !strings.Contains(path, program) && !strings.Contains(path, tool) && !strings.Contains(path, operatorsTool().aliases[0])
	})
}

func TestRPMComesIsUpgradedAndGoes(t *testing.T) {
	m := newRPMMachine(t, true)
	if out := m.must(t, "--install", packRPM(t, "v1.2.2", false)); !strings.Contains(out, notYet) {
		t.Errorf("the first installation does not say how to go on:\n%s", out)
	}
	m.called(t, preset, reload, tryRestart)
	for path, mode := range map[string]fs.FileMode{
		"/usr/bin/aws-encryption-provider":                        0o755,
		"/usr/lib/systemd/system/aws-encryption-provider.service": 0o644,
		"/usr/lib/systemd/system/aws-encryption-provider.socket":  0o644,
		confFile: 0o644,
		"/usr/share/licenses/aws-encryption-provider/LICENSE":                     0o644,
		"/usr/share/licenses/aws-encryption-provider/" + thirdPartyFile:           0o644,
		"/usr/share/doc/aws-encryption-provider/" + program + ".spdx.json":        0o644,
		"/usr/share/doc/aws-encryption-provider/NEWS.md":                          0o644,
		"/usr/share/doc/aws-encryption-provider/docs/kms-down.md":                 0o644,
		"/usr/share/doc/aws-encryption-provider/deploy/observability/alerts.yaml": 0o644,
	} {
		if info, err := os.Stat(filepath.Join(m.dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, info, err, mode)
		}
	}
	if out, err := m.run(t, "--verify", "--nodeps", program); err != nil {
		t.Errorf("rpm --verify: %v %s", err, out)
	}
	if out := m.must(t, "--query", "--queryformat=%{LICENSE} %{BUILDHOST} %{ARCH} [%{OBSOLETES}]", program); !strings.HasPrefix(out, "Apache-2.0 localhost ") || !strings.HasSuffix(out, " ") {
		t.Errorf("rpm says of it %q", out)
	}

	m.write(t, confFile, "edited\n")
	if out := m.must(t, "--upgrade", packRPM(t, "v1.2.3", false)); strings.Contains(out, notYet) {
		t.Errorf("an upgrade tells what only the first installation should:\n%s", out)
	}
	m.called(t, reload, tryRestart)
	if got := m.read(t, confFile); got != "edited\n" {
		t.Errorf("after the upgrade the configuration is %q", got)
	}
	if got := m.read(t, "/usr/bin/aws-encryption-provider"); !strings.Contains(got, "v1.2.3") {
		t.Errorf("after the upgrade the program is %q", got)
	}

	m.must(t, "--erase", program)
	m.called(t, noReload+disable, reload)
	if got, want := m.ours(t), []string{"/etc/aws-encryption-provider", confFile + ".rpmsave"}; !slices.Equal(got, want) {
		t.Errorf("after the removal there are %q, want %q", got, want)
	}
}

// A release that ships another configuration stops nobody, and takes no edit away.
func TestConfigurationThatAlsoChangedInTheRPMStays(t *testing.T) {
	m := newRPMMachine(t, true)
	m.must(t, "--install", packRPM(t, "v1.2.2", false))
	m.write(t, confFile, "edited\n")
	other := newCheckout(t, filepath.Join("..", "..")).dir
	if err := os.WriteFile(filepath.Join(other, "deploy", "deb", "config.yaml"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.must(t, "--upgrade", packRPMOf(t, other, "v1.2.3", false))
	if got, beside := m.read(t, confFile), m.read(t, confFile+".rpmnew"); got != "edited\n" || beside != "another\n" {
		t.Errorf("the configuration is %q, beside it is %q", got, beside)
	}
}

// rpm itself takes a script that fails at the end for a warning.
func TestServiceThatDoesNotComeBackIsSaidByTheRPM(t *testing.T) {
	m := newRPMMachine(t, true)
	m.must(t, "--install", packRPM(t, "v1.2.2", false))
	m.failing(t, "try-restart")
	out, err := m.run(t, "--upgrade", packRPM(t, "v1.2.3", false))
	if err != nil || !strings.Contains(out, "journalctl -u aws-encryption-provider") || !strings.Contains(out, "scriptlet failed") {
		t.Errorf("the upgrade ends with %v and says\n%s", err, out)
	}
}

// Where an image is built systemd does not run, and yet units may be enabled.
func TestRPMGoesWhereSystemdDoesNotRun(t *testing.T) {
	m := newRPMMachine(t, false)
	m.must(t, "--install", packRPM(t, "v1.2.3", false))
	m.called(t, preset)
	m.must(t, "--erase", program)
	m.called(t, noReload+disable)
	if got := m.ours(t); len(got) > 0 {
		t.Errorf("after the removal there are %q", got)
	}
}

// dnf install --allowerasing has rpm install the one, then erase the other. The service
// stays enabled and goes on, with its configuration.
func TestRPMsTakeEachOthersPlace(t *testing.T) {
	m := newRPMMachine(t, true)
	m.must(t, "--install", packRPM(t, "v1.2.3", false))
	m.write(t, confFile, "edited\n")
	m.called(t, preset, reload, tryRestart)
	fips := packRPM(t, "v1.2.3", true)
	if out, err := m.run(t, "--upgrade", fips); err == nil || !strings.Contains(out, "conflicts with") {
		t.Errorf("one goes beside the other: %v\n%s", err, out)
	}
	m.called(t)
	for _, step := range []struct{ pkg, other string }{
		{fips, program}, {packRPM(t, "v1.2.3", false), program + "-fips140"},
	} {
		if out := m.must(t, "--install", "--nodeps", "--replacefiles", step.pkg); strings.Contains(out, notYet) {
			t.Errorf("it says that it does not run:\n%s", out)
		}
		m.called(t, reload, tryRestart)
		m.must(t, "--erase", step.other)
		m.called(t, reload)
		if got := m.read(t, confFile); got != "edited\n" {
			t.Errorf("the configuration is %q", got)
		}
	}
}

func TestVersionsKeepTheirOrderInRPM(t *testing.T) {
	rpm, _ := rpmTools(t)
	order := versionsInOrder()
	for i := range order[1:] {
		one, two := debVersion(order[i]), debVersion(order[i+1])
		out, err := exec.CommandContext(t.Context(), rpm, "--eval", `%{lua: print(rpm.vercmp("`+one+`", "`+two+`"))}`).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "-1" {
			t.Errorf("rpm compares %s with %s: %s %v, want -1", one, two, out, err)
		}
	}
}

func TestRPMPutsThingsWhereFedoraLooks(t *testing.T) {
	for deb, want := range map[string]string{
		"/usr/share/zsh/vendor-completions/_aws-encryption-provider":      "/usr/share/zsh/site-functions/_aws-encryption-provider",
		"/usr/share/bash-completion/completions/aws-encryption-provider":  "/usr/share/bash-completion/completions/aws-encryption-provider",
		"/usr/share/doc/aws-encryption-provider-fips140/copyright":        "/usr/share/licenses/aws-encryption-provider-fips140/LICENSE",
		"/usr/share/doc/aws-encryption-provider-fips140/docs/kms-down.md": "/usr/share/doc/aws-encryption-provider-fips140/docs/kms-down.md",
	} {
		if got := rpmContents(built(daemonFor("amd64", true), ""), files.Contents{{Destination: deb}})[0].Destination; got != want {
			t.Errorf("%s goes to %s, want %s", deb, got, want)
		}
	}
}

// unpackRPM unpacks a package without installing it, for any processor.
func unpackRPM(t *testing.T, pkg, into string) {
	t.Helper()
	_, busybox := rpmTools(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `"$1" rpm2cpio "$2" | "$1" cpio -idm`, "sh", busybox, pkg)
	cmd.Dir = into
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpacking %s: %v\n%s", pkg, err, out)
	}
}
