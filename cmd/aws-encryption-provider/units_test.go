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
}

// What systemd does not know it says as a warning, and goes on.
func TestUnitsHaveNothingThatSystemdDoesNotKnow(t *testing.T) {
	dir := t.TempDir()
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
	for line := range strings.Lines(systemdAnalyze(t, "verify", dir+"/aws-encryption-provider.socket", dir+"/aws-encryption-provider.service")) {
		if strings.Contains(line, "aws-encryption-provider") {
			t.Error(line)
		}
	}
}
