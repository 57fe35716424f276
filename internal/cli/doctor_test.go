package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// examined runs the doctor and returns its exit code and what it printed.
func examined(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Main(t.Context(), append([]string{"doctor"}, args...), cli.Streams{
		Out: &o, Err: &e, LookupEnv: func(string) (string, bool) { return "", false },
	})
	return code, o.String(), e.String()
}

func TestDoctorExitsByWhatItFinds(t *testing.T) {
	s, socket, key := daemontest.Running(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	status(t, cli.Done, "--socket="+socket)
	healthy := []string{"--key=" + key, "--listen=" + socket}
	with := func(more ...string) []string { return append(append([]string{}, healthy...), more...) }
	for _, c := range []struct {
		name string
		args []string
		want int
		says string
	}{
		{"a warning", healthy, cli.Done, "‼"}, // the emulator's keys are not rotated
		{"a warning that counts", with("--fail-on=warning"), cli.Found, "KMS0704"},
		{"in short", with("-o", "short"), cli.Done, "‼ KMS0704 "},
		{"a failure", []string{"--key=alias/none", "--listen=" + socket}, cli.Found, "× provider"},
		{"waiting in vain", with("--fail-on=warning", "--wait=1ms"), cli.TimeUp, "KMS0704"},
		{"waiting for nothing", with("--wait=2m"), cli.Done, "failures: 0, warnings: 1"},
	} {
		code, out, errs := examined(t, c.args...)
		if code != c.want || !strings.Contains(out, c.says) || errs != "" {
			t.Errorf("%s: exits %d, want %d and %q:\n%s%s", c.name, code, c.want, c.says, out, errs)
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("%s: colours a pipe:\n%s", c.name, out)
		}
	}
}

func TestDoctorPrintsVersionedJSON(t *testing.T) {
	_, socket, key := daemontest.Running(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
	status(t, cli.Done, "--socket="+socket)
	_, out, _ := examined(t, "--key="+key, "--listen="+socket, "-o", "json")
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	var r doctor.Report
	if err := decoder.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Version != 1 || !r.OK || r.Warnings != 1 || len(r.Groups) < 8 || strings.Contains(out, kmstest.Credential().SecretAccessKey) {
		t.Errorf("%s", out)
	}
}

func TestDoctorTakesTheMistakesOfAFileForFindings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, args := range [][]string{{}, {"--fail-on=warning"}, {"-o", "json"}, {"-o", "short"}, {"--wait=10m"}, {"--wait=10m", "-o", "json"}} {
		code, out, errs := examined(t, append(args, "--config="+file)...)
		if code != cli.Usage || !strings.Contains(out, "KMS0701") || !strings.Contains(out, "c.yaml:1") || errs != "" {
			t.Errorf("%q exits %d, want %d and the finding:\n%s%s", args, code, cli.Usage, out, errs)
		}
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("waited %s for a file that nobody mends", took)
	}
}

func TestDoctorRefusesWhomNobodyIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, says string }{
		{"--as-uid=kube", `--as-uid: "kube" is not the number of a user`},
		{"--as-uid=-1", `--as-uid: "-1" is not the number of a user`},
		{"--as-uid=4294967295", `--as-uid: "4294967295" is not the number of a user`},
		{"--as-uid=1 --as-gid=x", `--as-gid: "x" is not the number of a group`},
		{"--as-gid=1", "--as-gid: needs --as-uid"},
	} {
		args := append(strings.Fields(c.args), "--key=alias/a", "--region=us-west-2")
		if code, _, errs := examined(t, args...); code != cli.Usage || !strings.Contains(errs, c.says) {
			t.Errorf("%s exits %d, want %d and %q:\n%s", c.args, code, cli.Usage, c.says, errs)
		}
	}
}

// Whoever reads a log sees that it goes on, and at what.
func TestDoctorSaysWhatTakesLong(t *testing.T) {
	s, socket, key := daemontest.Running(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	status(t, cli.Done, "--socket="+socket)
	s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang, Count: 2})
	began := time.Now()
	_, out, errs := examined(t, "--key="+key, "--listen="+socket, "--kms-timeout=12s", "-o", "json")
	want := `aws-encryption-provider: still asking KMS about provider "0", key ` + key + " ("
	if took := time.Since(began); took > 6*time.Second && !strings.HasPrefix(errs, want) {
		t.Errorf("after %s says %q, want %q", took, errs, want)
	}
	if !strings.Contains(errs, "(5 s)\n") || !json.Valid([]byte(out)) {
		t.Errorf("says %q, and prints:\n%s", errs, out)
	}
}

func TestDoctorsPageHasItsFlags(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	_, help, _ := examined(t, "--help")
	flags := regexp.MustCompile(`(?m)^ .*--([a-z-]+) [A-Z]`).FindAllStringSubmatch(help, -1)
	if len(flags) < 6 {
		t.Fatalf("%d flags in:\n%s", len(flags), help)
	}
	for _, f := range flags {
		if !strings.Contains(string(page), "`--"+f[1]+"` |") {
			t.Errorf("docs/doctor.md has no --%s", f[1])
		}
	}
}

func TestDoctorColoursTerminalsAlone(t *testing.T) {
	_, socket, key := daemontest.Running(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
	status(t, cli.Done, "--socket="+socket)
	for noColor, want := range map[string]bool{"": true, "1": false} {
		ours, theirs := terminal(t)
		var errs bytes.Buffer
		code := cli.Main(t.Context(), []string{"doctor", "--key=" + key, "--listen=" + socket, "-o", "short"}, cli.Streams{
			Out: theirs, Err: &errs, LookupEnv: func(name string) (string, bool) { return noColor, name == "NO_COLOR" && noColor != "" },
		})
		seen := make([]byte, 4096)
		n, err := ours.Read(seen)
		if err != nil || code != cli.Done || strings.Contains(string(seen[:n]), "\x1b[33m") != want {
			t.Errorf("NO_COLOR=%q: exits %d, %v:\n%q", noColor, code, err, seen[:n])
		}
	}
}

// terminal opens both ends of a pseudo-terminal.
func terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	return ours, theirs
}
