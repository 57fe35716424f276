package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	confFile   = "/etc/aws-encryption-provider/config.yaml"
	reload     = "daemon-reload"
	tryRestart = "try-restart aws-encryption-provider.service"
	disable    = "disable --now aws-encryption-provider.service aws-encryption-provider.socket"
	goOn       = "name your key in " + confFile
)

// A machine is a directory that dpkg takes for the root of one. Its systemctl
// writes down what it is asked to do, and fails where it is told to.
type machine struct {
	dir, bin string
}

// newMachine makes one, with systemd running or, as where an image is built, not.
func newMachine(t *testing.T, booted bool) machine {
	t.Helper()
	m := machine{dir: t.TempDir(), bin: t.TempDir()}
	dirs := []string{"/var/lib/dpkg/info", "/var/lib/dpkg/updates", "/var/lib/dpkg/triggers", "/etc/systemd/system"}
	if booted {
		dirs = append(dirs, "/run/systemd/system")
		m.script(t, "systemctl", `[ "$1" != is-active ] || { [ -e "$0.active" ]; exit; }
echo "$*" >>"$0.calls"; [ ! -e "$0.fails" ] || [ "$1" != "$(cat "$0.fails")" ]`)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.write(t, "/var/lib/dpkg/status", "")
	m.write(t, "/var/lib/dpkg/available", "")
	return m
}

func (m machine) script(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (m machine) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, path), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// failing makes the machine's systemctl fail at a verb, "" at none.
func (m machine) failing(t *testing.T, verb string) {
	t.Helper()
	mark := filepath.Join(m.bin, "systemctl.fails")
	err := os.WriteFile(mark, []byte(verb), 0o600)
	if verb == "" {
		err = os.Remove(mark)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// dpkg runs the real one on the machine: its maintainer scripts are told the
// machine by DPKG_ROOT, since it has no shell to run them with. What the host's
// dpkg.cfg leaves out is put in.
func (m machine) dpkg(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "dpkg", append([]string{
		"--root=" + m.dir, "--force-script-chrootless", "--force-not-root", "--force-bad-path", "--log=/dev/null", "--path-include=/*",
	}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+m.bin+":/usr/local/sbin:/usr/sbin:/sbin:"+os.Getenv("PATH"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m machine) mustDpkg(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.dpkg(t, args...)
	if err != nil {
		t.Fatalf("dpkg %q: %v\n%s", args, err, out)
	}
	return out
}

// called demands what systemctl was asked since the last time.
func (m machine) called(t *testing.T, want ...string) {
	t.Helper()
	path := filepath.Join(m.bin, "systemctl.calls")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	got := strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
	if !slices.Equal(got, want) {
		t.Errorf("systemctl was asked %q, want %q", got, want)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// files lists what is on the machine besides dpkg's own books.
func (m machine) files(t *testing.T) []string {
	t.Helper()
	var paths []string
	err := fs.WalkDir(os.DirFS(m.dir), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == "var/lib/dpkg" {
			return fs.SkipDir
		}
		paths = append(paths, "/"+path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func (m machine) read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.dir, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// pack makes a package of a program that only has to be there.
func pack(t *testing.T, version string, fips bool) string {
	t.Helper()
	return packed(t, filepath.Join("..", ".."), built(daemonFor(runtime.GOARCH, fips), version), ".deb")
}

// packed is the file that a release would have of a binary, by what comes behind its name.
func packed(t *testing.T, source string, b binary, suffix string) string {
	t.Helper()
	files, err := artifacts(source, publisher{}, b, licences{own: []byte("a licence\n")})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), artifact(b, suffix))
	if err := os.WriteFile(path, files[suffix], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPackageComesIsUpgradedAndGoes(t *testing.T) {
	m := newMachine(t, true)
	before := m.files(t)

	if out := m.mustDpkg(t, "--install", pack(t, "v1.2.2", false)); !strings.Contains(out, goOn) {
		t.Errorf("the first installation does not say how to go on:\n%s", out)
	}
	m.called(t, reload, tryRestart)
	for path, mode := range map[string]fs.FileMode{
		"/usr/bin/aws-encryption-provider":                        0o755,
		"/usr/lib/systemd/system/aws-encryption-provider.service": 0o644,
		"/usr/lib/systemd/system/aws-encryption-provider.socket":  0o644,
		confFile: 0o644,
		"/usr/share/bash-completion/completions/aws-encryption-provider":                      0o644,
		"/usr/share/zsh/vendor-completions/_aws-encryption-provider":                          0o644,
		"/usr/share/fish/vendor_completions.d/aws-encryption-provider.fish":                   0o644,
		"/usr/share/doc/aws-encryption-provider/copyright":                                    0o644,
		"/usr/share/doc/aws-encryption-provider/" + thirdPartyFile:                            0o644,
		"/usr/share/doc/aws-encryption-provider/" + program + ".spdx.json":                    0o644,
		"/usr/share/doc/aws-encryption-provider/NEWS.md":                                      0o644,
		"/usr/share/doc/aws-encryption-provider/docs/kms-down.md":                             0o644,
		"/usr/share/doc/aws-encryption-provider/docs/runbooks/EncryptionProviderGraceOver.md": 0o644,
		"/usr/share/doc/aws-encryption-provider/deploy/observability/alerts.yaml":             0o644,
	} {
		if info, err := os.Stat(filepath.Join(m.dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, info, err, mode)
		}
	}
	if out := m.mustDpkg(t, "--verify", program); out != "" {
		t.Errorf("dpkg --verify: %s", out)
	}

	m.write(t, confFile, "edited\n")
	if out := m.mustDpkg(t, "--install", pack(t, "v1.2.3", false)); strings.Contains(out, goOn) {
		t.Errorf("an upgrade tells what only the first installation should:\n%s", out)
	}
	m.called(t, reload, tryRestart)
	if got := m.read(t, confFile); got != "edited\n" {
		t.Errorf("after the upgrade the configuration is %q", got)
	}
	if got := m.read(t, "/usr/bin/aws-encryption-provider"); !strings.Contains(got, "v1.2.3") {
		t.Errorf("after the upgrade the program is %q", got)
	}

	m.mustDpkg(t, "--remove", program)
	m.called(t, disable, reload)
	if got, want := m.files(t), append(slices.Clone(before), "/etc/aws-encryption-provider", confFile); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("after the removal there are %q, want %q", got, want)
	}
	m.mustDpkg(t, "--purge", program)
	m.called(t)
	if got := m.files(t); !slices.Equal(got, before) {
		t.Errorf("after the purge there are %q, want %q", got, before)
	}
}

// The scripts are the program's own, and each is one of its shell.
func TestPackageCompletesInEveryShell(t *testing.T) {
	m := newMachine(t, true)
	m.mustDpkg(t, "--install", pack(t, "v1.2.3", false))
	checkCompletion(t, m, program)
}

// checkCompletion demands a script for each shell of a program that is installed.
func checkCompletion(t *testing.T, m machine, name string) {
	t.Helper()
	places := completions(name)
	for shell, begins := range map[string]string{"bash": "# bash completion", "zsh": "#compdef " + name, "fish": "# fish completion"} {
		if got := m.read(t, places[shell]); !strings.HasPrefix(got, begins) || !strings.Contains(got, name) {
			t.Errorf("%s begins with %.60q, want %q", places[shell], got, begins)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), bash, "-c", `. "$1" && complete -p "$2"`, "bash", filepath.Join(m.dir, places["bash"]), name).CombinedOutput(); err != nil {
		t.Errorf("bash does not take its script: %v\n%s", err, out)
	}
}

// What is open on every address of the node is open to who should not see it.
func TestShippedConfigurationListensOnThisNodeAlone(t *testing.T) {
	m := newMachine(t, true)
	m.mustDpkg(t, "--install", pack(t, "v1.2.3", false))
	if got := m.read(t, confFile); !strings.Contains(got, "\nhealth:\n  address: 127.0.0.1:8083\n") {
		t.Errorf("the health port is elsewhere:\n%s", got)
	}
}

// A purge takes what the program made in /run, and leaves what the other build or a
// person has there.
func TestPurgeTakesWhatTheProgramKnew(t *testing.T) {
	const known = "/run/aws-encryption-provider"
	prepare := func(t *testing.T) machine {
		t.Helper()
		m := newMachine(t, true)
		m.mustDpkg(t, "--install", pack(t, "v1.2.3", false))
		for _, dir := range []string{known, "/run/kmsplugin", "/etc/systemd/system/aws-encryption-provider.service.d"} {
			if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		m.write(t, known+"/provider-aws.state", "{}")
		m.write(t, "/etc/systemd/system/aws-encryption-provider.service.d/10-configuration.conf", "[Service]\n")
		return m
	}
	there := func(m machine, path string) bool {
		_, err := os.Lstat(filepath.Join(m.dir, path))
		return err == nil
	}
	m := prepare(t)
	m.mustDpkg(t, "--remove", program)
	if !there(m, known) {
		t.Error("a removal takes what the next process needs in an outage")
	}
	m.mustDpkg(t, "--purge", program)
	if there(m, known) || there(m, "/run/kmsplugin") {
		t.Errorf("after the purge there are %q", m.files(t))
	}
	if !there(m, "/etc/systemd/system/aws-encryption-provider.service.d/10-configuration.conf") {
		t.Error("the purge took a drop-in that somebody wrote")
	}

	m = prepare(t)
	m.mustDpkg(t, "--force-confold", "--install", pack(t, "v1.2.3", true))
	if out, err := m.dpkg(t, "--purge", program); err != nil || !there(m, known) {
		t.Errorf("the purge of the build before takes what the one in use knows: %v\n%s", err, out)
	}
}

// A roll-out has to stop at the first node whose service does not come back.
func TestServiceThatDoesNotComeBackFailsTheUpgrade(t *testing.T) {
	m := newMachine(t, true)
	m.mustDpkg(t, "--install", pack(t, "v1.2.2", false))
	m.called(t, reload, tryRestart)

	m.failing(t, "try-restart")
	out, err := m.dpkg(t, "--install", pack(t, "v1.2.3", false))
	if err == nil || !strings.Contains(out, "journalctl -u aws-encryption-provider") {
		t.Errorf("the upgrade ends with %v and says\n%s", err, out)
	}
	m.called(t, reload, tryRestart)

	m.failing(t, "")
	m.mustDpkg(t, "--configure", "-a")
	m.called(t, reload, tryRestart)
}

// A service that has its key by flags, from a drop-in, leaves the file as it came.
func TestServiceWithoutTheFileIsNotSaidNotToRun(t *testing.T) {
	m := newMachine(t, true)
	m.mustDpkg(t, "--install", pack(t, "v1.2.2", false))
	if err := os.WriteFile(filepath.Join(m.bin, "systemctl.active"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, fips := range []bool{false, true} {
		if out := m.mustDpkg(t, "--install", pack(t, "v1.2.3", fips)); strings.Contains(out, goOn) {
			t.Errorf("fips %v: it says that it does not run:\n%s", fips, out)
		}
	}
}

// Where an image is built systemd does not run, and yet units may be enabled.
func TestPackageGoesWhereSystemdDoesNotRun(t *testing.T) {
	m := newMachine(t, false)
	before := m.files(t)
	m.mustDpkg(t, "--install", pack(t, "v1.2.3", false))
	out, err := exec.CommandContext(t.Context(), "systemctl", "--root="+m.dir, "enable", program+".socket", program+".service").CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl enable: %v\n%s", err, out)
	}
	for _, link := range []string{"/etc/systemd/system/sockets.target.wants/" + program + ".socket", "/etc/systemd/system/multi-user.target.wants/" + program + ".service"} {
		if _, err := os.Lstat(filepath.Join(m.dir, link)); err != nil {
			t.Errorf("enabling the units makes no link: %v", err)
		}
	}
	m.mustDpkg(t, "--purge", program)
	if got := m.files(t); !slices.Equal(got, before) {
		t.Errorf("after the purge there are %q, want %q", got, before)
	}
}

// One build takes the other's place as an upgrade does: the service goes on, with
// its configuration.
func TestBuildsTakeEachOthersPlace(t *testing.T) {
	m := newMachine(t, true)
	m.mustDpkg(t, "--install", pack(t, "v1.2.3", false))
	m.write(t, confFile, "edited\n")
	m.called(t, reload, tryRestart)
	for _, fips := range []bool{true, false} {
		if out := m.mustDpkg(t, "--force-confold", "--install", pack(t, "v1.2.3", fips)); strings.Contains(out, goOn) {
			t.Errorf("fips %v: it says that it does not run:\n%s", fips, out)
		}
		m.called(t, reload, reload, tryRestart)
		if got := m.read(t, confFile); got != "edited\n" {
			t.Errorf("fips %v: the configuration is %q", fips, got)
		}
	}
	if got := m.mustDpkg(t, "--listfiles", program); !strings.Contains(got, confFile) {
		t.Errorf("no package has the configuration any more: %s", got)
	}
}

// Another configuration in a package stops nobody who has said that the own stays,
// and whoever has not keeps what runs.
func TestConfigurationThatAlsoChangedInThePackageStays(t *testing.T) {
	m := newMachine(t, true)
	m.mustDpkg(t, "--install", pack(t, "v1.2.2", false))
	m.called(t, reload, tryRestart)
	m.write(t, confFile, "edited\n")
	// What was shipped before is not what is shipped now.
	books := m.read(t, "/var/lib/dpkg/status")
	shipped := regexp.MustCompile(`(?m)^ ` + confFile + ` ([0-9a-f]{32})$`).FindStringSubmatch(books)
	if shipped == nil {
		t.Fatalf("no configuration in dpkg's books:\n%s", books)
	}
	m.write(t, "/var/lib/dpkg/status", strings.ReplaceAll(books, shipped[1], strings.Repeat("0", 32)))

	if out, err := m.dpkg(t, "--install", pack(t, "v1.2.3", false)); err == nil || !strings.Contains(out, "conffile prompt") {
		t.Errorf("without a terminal the upgrade ends with %v and says\n%s", err, out)
	}
	m.called(t)
	m.mustDpkg(t, "--force-confold", "--install", pack(t, "v1.2.3", false))
	m.called(t, reload, tryRestart)
	if got := m.read(t, confFile); got != "edited\n" {
		t.Errorf("after the upgrade the configuration is %q", got)
	}
}

// versionsInOrder are what builds may be of, the oldest first.
func versionsInOrder() []string {
	return []string{"devel", "v0.0.0-20261125101112-abcdefabcdef+dirty", "v1.2.3-rc.1", "v1.2.3-rc.2", "v1.2.3", "v1.2.4-0.20261125101112-abcdefabcdef", "v1.2.4", "v1.10.0"}
}

func TestVersionsKeepTheirOrder(t *testing.T) {
	order := versionsInOrder()
	for i := range order[1:] {
		one, two := debVersion(order[i]), debVersion(order[i+1])
		if out, err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", one, "lt", two).CombinedOutput(); err != nil {
			t.Errorf("dpkg does not take %s for older than %s: %v %s", one, two, err, out)
		}
	}
}
