package kmsemulator_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// childDir is the environment variable that turns the test binary into the
// process that TestSIGKILLLosesNothingAcknowledged kills.
const childDir = "KMSEMULATOR_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		createForEver(dir, os.Stdout)
	}
	goleak.VerifyTestMain(m)
}

// createForEver makes keys, each with an alias and a rotation, and prints what
// the emulator has acknowledged, until it is killed.
func createForEver(dir string, out io.Writer) {
	e, err := kmsemulator.New(kmsemulator.Options{Dir: dir})
	if err != nil {
		_, _ = fmt.Fprintln(out, "error:", err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		arn, err := e.CreateKey(here, kmsemulator.KeyOptions{Description: fmt.Sprint(i)})
		if err == nil {
			_, _ = fmt.Fprintln(out, "key", arn)
			err = e.CreateAlias(here, fmt.Sprintf("alias/%d", i), arn)
		}
		if err == nil {
			_, _ = fmt.Fprintln(out, "alias", fmt.Sprintf("alias/%d", i), arn)
			err = e.RotateKey(arn)
		}
		if err == nil {
			_, _ = fmt.Fprintln(out, "material", arn, e.CurrentMaterial(arn))
			continue
		}
		_, _ = fmt.Fprintln(out, "error:", err)
		os.Exit(1)
	}
}

func TestSIGKILLLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acknowledged := 0
	for round := range 5 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+filepath.Join(dir, fmt.Sprint(round)))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines = append(lines, scan.Text())
			if len(lines) == 10+7*round { // amid the next change
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = child.Wait() // killed
		acknowledged += checkSurvivors(t, filepath.Join(dir, fmt.Sprint(round)), lines)
	}
	if acknowledged < 100 {
		t.Errorf("only %d changes were acknowledged", acknowledged)
	}
}

// checkSurvivors opens a killed emulator's directory and looks for everything
// that it has acknowledged.
func checkSurvivors(t *testing.T, dir string, lines []string) int {
	t.Helper()
	e, err := kmsemulator.New(kmsemulator.Options{Dir: dir, Credentials: []kmsemulator.Credential{kmstest.Credential()}})
	if err != nil {
		t.Fatal(err)
	}
	s := kmstest.StartEmulator(t, e)
	s.Credential = kmstest.Credential()
	for _, line := range lines {
		words := strings.Fields(line)
		switch words[0] {
		case "key":
			if !e.HasKey(words[1]) {
				t.Errorf("lost: %s", line)
			}
		case "alias":
			if got := metadata(t, s, here, words[1])["Arn"]; got != words[2] {
				t.Errorf("lost: %s, the alias is of %v", line, got)
			}
		case "material":
			if got := e.CurrentMaterial(words[1]); got != words[2] {
				t.Errorf("lost: %s, the material is %s", line, got)
			}
		default:
			t.Errorf("the child said %q", line)
		}
	}
	return len(lines)
}

// startIn starts an emulator over a directory and returns a function that
// closes both before the test ends.
func startIn(t *testing.T, dir string, o kmsemulator.Options) (s *kmstest.Server, stop func()) {
	t.Helper()
	o.Dir, o.Credentials = dir, []kmsemulator.Credential{kmstest.Credential()}
	s = kmstest.Start(t, o)
	return s, func() {
		s.StopServing()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEverythingSurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	c := newClock()
	s, stop := startIn(t, dir, kmsemulator.Options{Clock: c.Now})
	primary := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true, Description: "d"})
	replica, err := s.ReplicateKey(primary, there)
	if err != nil {
		t.Fatal(err)
	}
	imported := callAt(t, s, c, here, "CreateKey", m{"Origin": "EXTERNAL", "Tags": []m{{"TagKey": "a", "TagValue": "b"}}})["KeyMetadata"].(m)["Arn"].(string)
	hmac := callAt(t, s, c, here, "CreateKey", m{"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"})["KeyMetadata"].(m)["Arn"].(string)
	leaving := mustCreate(t, s, kmsemulator.KeyOptions{})
	old := callAt(t, s, c, here, "Encrypt", m{"KeyId": primary, "Plaintext": "aa==", "EncryptionContext": m{"a": "b"}})["CiphertextBlob"]
	callAt(t, s, c, here, "EnableKeyRotation", m{"KeyId": primary, "RotationPeriodInDays": 90})
	for _, change := range []func() error{
		func() error { return s.CreateAlias(here, "alias/a", primary) },
		func() error { return s.RotateKey(primary) },
		func() error { return s.DisableKey(replica) },
		func() error { return s.ScheduleKeyDeletion(leaving, 7) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	look := func(s *kmstest.Server) string {
		var all []m
		for _, arn := range []string{primary, imported, hmac, leaving} {
			all = append(all, callAt(t, s, c, here, "DescribeKey", m{"KeyId": arn}))
		}
		all = append(
			all, callAt(t, s, c, there, "DescribeKey", m{"KeyId": replica}), callAt(t, s, c, here, "ListKeyRotations", m{"KeyId": primary}),
			callAt(t, s, c, here, "GetKeyRotationStatus", m{"KeyId": primary}), callAt(t, s, c, here, "ListAliases", m{}),
			callAt(t, s, c, here, "ListKeys", m{}), callAt(t, s, c, here, "Decrypt", m{"CiphertextBlob": old, "EncryptionContext": m{"a": "b"}}),
		)
		return mustJSON(t, all)
	}
	before := look(s)
	stop()
	c.advance(time.Hour)
	s, stop = startIn(t, dir, kmsemulator.Options{Clock: c.Now})
	if after := look(s); after != before {
		t.Errorf("before the restart\n%s\nafter\n%s", before, after)
	}
	material := s.CurrentMaterial(primary)
	stop()
	c.advance(90 * day)
	s, _ = startIn(t, dir, kmsemulator.Options{Clock: c.Now})
	if s.HasKey(leaving) || s.CurrentMaterial(primary) == material {
		t.Error("a deletion or a rotation that fell due while nothing ran has not happened")
	}
}

func TestDirectoryHasOneEmulator(t *testing.T) {
	dir := t.TempDir()
	_, stop := startIn(t, dir, kmsemulator.Options{})
	if _, err := kmsemulator.New(kmsemulator.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another emulator uses "+dir) {
		t.Errorf("a second emulator: %v", err)
	}
	stop()
	_, stop = startIn(t, dir, kmsemulator.Options{})
	stop()
}

func TestDamagedStateIsAnError(t *testing.T) {
	const line = `"lines":[{"id":"x","spec":"SYMMETRIC_DEFAULT","usage":"ENCRYPT_DECRYPT","origin":"AWS_KMS","primary":"us-west-2"`
	for name, tc := range map[string]struct{ text, want string }{
		"no JSON":         {"{", "unexpected end of JSON input"},
		"another version": {`{"version":2}`, "has version 2, this emulator reads 1"},
		"key alone":       {`{"version":1,"keys":[{"id":"x","arn":"a"}]}`, "saved key a has no material entry"},
		"no material":     {`{"version":1,` + line + `}]}`, "saved key x has no material"},
		"cut material":    {`{"version":1,` + line + `,"materials":[{"id":"m","handle":"aa==","secret":"aa=="}]}]}`, "saved material of key x is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "kms.json"), []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the failure gives the directory free
				if _, err := kmsemulator.New(kmsemulator.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("New: %v, want ... %s", err, tc.want)
				}
			}
		})
	}
}

func TestStateFileIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	s, _ := startIn(t, dir, kmsemulator.Options{})
	mustCreate(t, s, kmsemulator.KeyOptions{})
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "kms.json"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
}

func TestChangeThatCannotBeSavedHasNotHappened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	s, _ := startIn(t, dir, kmsemulator.Options{})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	// A directory in the place of the new file makes every save fail.
	if err := os.Mkdir(filepath.Join(dir, "kms.json.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if a := raw(t, s, here, "DisableKey", mustJSON(t, m{"KeyId": arn})); a.status != http.StatusInternalServerError || !strings.Contains(a.body, "KMSInternalException") {
		t.Errorf("answered %d %s", a.status, a.body)
	}
	if got := metadata(t, s, here, arn)["KeyState"]; got != "Enabled" {
		t.Errorf("the key is %s", got)
	}
	if err := os.Remove(filepath.Join(dir, "kms.json.new")); err != nil {
		t.Fatal(err)
	}
	call(t, s, here, "DisableKey", m{"KeyId": arn})
}
