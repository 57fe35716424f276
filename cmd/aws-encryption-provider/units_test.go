package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const units = "../../deploy/systemd"

func systemdAnalyze(t *testing.T, args ...string) string {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatalf("this test needs systemd-analyze, of Debian's package systemd: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestServiceIsExposedToLittle(t *testing.T) {
	const most = 2.0
	out := systemdAnalyze(t, "security", "--offline=true", "--no-pager", units+"/aws-encryption-provider.service")
	level := regexp.MustCompile(`Overall exposure level for aws-encryption-provider.service: ([0-9.]+)`).FindStringSubmatch(out)
	if level == nil {
		t.Fatalf("no exposure level in\n%s", out)
	}
	if got, err := strconv.ParseFloat(level[1], 64); err != nil || got > most {
		t.Errorf("exposure level %s, want at most %.1f (%v)", level[1], most, err)
	}
	page, err := os.ReadFile("../../docs/systemd.md")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.Fields(systemdAnalyze(t, "--version"))[1]
	if strings.Contains(string(page), "by systemd "+version) && !strings.Contains(string(page), "says "+level[1]+" of 10, by systemd "+version) {
		t.Errorf("docs/systemd.md has another exposure level of systemd %s than %s", version, level[1])
	}
}

// The group of a socket has to reach it, and a socket goes with its unit. systemd warns
// of /var/run.
func TestUnitsSayWhatSocketsNeed(t *testing.T) {
	for name, wants := range map[string][]string{
		"aws-encryption-provider.socket":  {"ListenStream=/run/kmsplugin/socket.sock", "DirectoryMode=0755", "SocketMode=0600", "RemoveOnStop=yes"},
		"aws-encryption-provider.service": {"SystemCallFilter=~@privileged @resources\n# ", "\nSystemCallFilter=@chown\n", "CapabilityBoundingSet=\n"},
	} {
		text, err := os.ReadFile(filepath.Join(units, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "/var/run") {
			t.Errorf("%s names /var/run", name)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q", name, want)
			}
		}
	}
}

// What the page says that the units set is what they set.
func TestPageHasTheUnitsOwnValues(t *testing.T) {
	var both strings.Builder
	for _, name := range []string{"aws-encryption-provider.service", "aws-encryption-provider.socket"} {
		text, err := os.ReadFile(filepath.Join(units, name))
		if err != nil {
			t.Fatal(err)
		}
		both.WriteString("\n" + string(text))
	}
	page, err := os.ReadFile("../../docs/systemd.md")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, said := range regexp.MustCompile("`([A-Z][A-Za-z]+=)([^`]+)`").FindAllSubmatch(page, -1) {
		setting, value := string(said[1]), string(said[2])
		if !strings.Contains(both.String(), "\n"+setting) { // of a drop-in
			continue
		}
		compared++
		if !strings.Contains(both.String(), "\n"+setting+value+"\n") {
			t.Errorf("docs/systemd.md says %s%s, and no unit has that", setting, value)
		}
	}
	if compared < 4 {
		t.Errorf("compared %d values: the test is wrong", compared)
	}
}

// putUnits copies the units into a directory of their own, which it returns, with a
// program that is there.
func putUnits(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	binary := filepath.Join(dir, "aws-encryption-provider")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"aws-encryption-provider.service", "aws-encryption-provider.socket"} {
		text, err := os.ReadFile(filepath.Join(units, name))
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.ReplaceAll(string(text), "/usr/bin/aws-encryption-provider", binary))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// complaints is what systemd says about the units of a directory and their
// drop-ins. What it does not know it says as a warning, and goes on.
func complaints(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(systemdAnalyze(t, "verify", dir+"/aws-encryption-provider.socket", dir+"/aws-encryption-provider.service")) {
		if strings.Contains(line, dir) || strings.Contains(line, "aws-encryption-provider") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

func TestUnitsHaveNothingThatSystemdDoesNotKnow(t *testing.T) {
	dir := putUnits(t)
	if got := complaints(t, dir); got != nil {
		t.Errorf("systemd says %q", got)
	}
}

// Beside the units a drop-in that systemd does not understand would be left out
// with a warning that nobody reads.
func TestGeneratedDropInsFitTheUnits(t *testing.T) {
	const key = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	for name, args := range map[string][]string{
		"a key":           {"--key=" + key},
		"a group":         {"--key=" + key, "--socket-mode=0660", "--socket-group=2000"},
		"words to quote":  {"--key=" + key, "--encryption-context=a=b c,d=100%", "--env=AWS_CA_BUNDLE=/etc/aws-encryption-provider/aws/bundle.pem"},
		"another socket":  {"--key=" + key, "--listen=/run/kms-other/socket.sock"},
		"a file":          {"--config=../../deploy/examples/minimal.yaml"},
		"several sockets": {"--config=../../deploy/examples/full.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := putUnits(t)
			const program = "/usr/bin/true" // systemd wants one that is there, and generate one outside /tmp
			p := launch(t, nil, append([]string{"generate", "systemd", "--out=" + dir, "--program=" + program}, args...)...)
			p.exits(0)
			if got := complaints(t, dir); got != nil {
				t.Errorf("systemd says %q", got)
			}
			dropIn := filepath.Join(dir, "aws-encryption-provider.service.d", "10-configuration.conf")
			text, err := os.ReadFile(dropIn)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dropIn, append(text, "Unheard=of\n"...), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := complaints(t, dir); len(got) != 1 || !strings.Contains(got[0], "Unheard") {
				t.Errorf("of an unknown line in the drop-in systemd says %q: this test looks at nothing", got)
			}
		})
	}
}
