package config_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

const head = "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\n"

// writeFile returns the path of a file that holds text.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// minimal is a file with a provider of that name.
func minimal(name string) string {
	return head + "providers: [{name: " + name + ", keys: [{key: alias/a}]}]\n"
}

// source returns what a command line makes of a file, and the file to read again.
func source(t *testing.T, path string, args ...string) (*config.Config, *config.Source) {
	t.Helper()
	flags := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	cfg, err := flags.Parse(append(args, "--config", path), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return cfg, flags.Source()
}

func TestFileSaysWhatFlagsSay(t *testing.T) {
	t.Parallel()
	path := writeFile(t, head+"providers:\n- name: \"0\"\n  keys:\n  - key: "+keyA+"\n")
	got, want := mustParse(t, nil, "--config="+path), mustParse(t, nil, "--key="+keyA)
	want.File, want.Hash = path, got.Hash
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-flags +file):\n%s", diff)
	}
}

// The whole file and its meaning. A release that reads it in another way breaks
// what operators have written.
func TestFullFileMeansThis(t *testing.T) {
	t.Parallel()
	const path = "testdata/good/full.yaml"
	got, err := loadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		File: path, Hash: "d8d9b5674c3a9aa8",
		KMSTimeout: 1500 * time.Millisecond, OutageGrace: 10 * time.Minute, ShutdownDelay: time.Hour + 2*time.Minute + 3*time.Second,
		Socket: config.Socket{Mode: 0o660, Group: 0, AllowUIDs: []uint32{0, 4294967295}},
		Health: config.Health{Address: "127.0.0.1:9090", HealthzPath: "/health", LivezPath: "/live"},
		Log:    config.Log{Level: slog.LevelWarn},
		Providers: []config.Provider{
			{
				Name: "aws-2027", Listen: "/run/kms/aws.sock", Epoch: 4294967295, Retry: config.Retry{Tokens: 7},
				Keys: []config.Key{
					{
						Key: keyA, Region: "us-west-2", Endpoint: "https://kms.us-west-2.amazonaws.com",
						AssumeRoleARN: "arn:aws:iam::111122223333:role/kms", ExternalID: "111122223333",
						SourceARN:         "arn:aws:eks:us-west-2:111122223333:cluster/a",
						EncryptionContext: map[string]string{"cluster": "a", "yes": "no", "aws:note": "", "a b": "colon: quote\" newline\n"},
					},
					{Key: "arn:aws:kms:eu-central-1:444455556666:key/mrk-1234abcd12ab34cd56ef1234567890ab", Region: "eu-central-1"},
				},
			},
			{Name: "abstract", Listen: "@kms", Keys: []config.Key{{Key: "alias/K8sKMSKey"}}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSourceReadsAnotherFileUnderTheSameCommandLine(t *testing.T) {
	t.Parallel()
	path := writeFile(t, head+"log: {level: warn}\nproviders: [{name: a, keys: [{key: alias/a}]}]\n")
	first, source := source(t, path, "--log-level=error")
	second, err := source.Load([]byte(minimal("b")))
	if err != nil {
		t.Fatal(err)
	}
	if first.Log != second.Log || second.Providers[0].Name != "b" || first.Hash == second.Hash || source.Path() != path {
		t.Errorf("first %+v, second %+v", first, second)
	}
	if _, err := source.Load([]byte("providers: []")); err == nil || !strings.Contains(err.Error(), path+":1: providers: is empty") {
		t.Errorf("a broken file later: %v", err)
	}
}

func TestCommandLineWinsInWhatMayStandBesideAFile(t *testing.T) {
	t.Parallel()
	path := writeFile(t, minimal("a")+"log: {level: warn, format: json}\nhealth: {address: ':1', healthzPath: /a, livezPath: /b}\n")
	env := map[string]string{"AWS_ENCRYPTION_PROVIDER_CONFIG": path, "AWS_ENCRYPTION_PROVIDER_LIVEZ_PATH": "/e"}
	got := mustParse(t, env, "--log-level=error", "--log-format=text", "--health-port=2", "--healthz-path=/d")
	if (got.Log != config.Log{Level: slog.LevelError}) || (got.Health != config.Health{Address: ":2", HealthzPath: "/d", LivezPath: "/e"}) {
		t.Errorf("log %+v, health %+v", got.Log, got.Health)
	}
	if got := mustParse(t, env, "--debug"); got.Log.Level != slog.LevelDebug || !got.Log.JSON {
		t.Errorf("log %+v, want debug and the file's JSON", got.Log)
	}
	if got := mustParse(t, env, "--debug=false"); got.Log.Level != slog.LevelWarn {
		t.Errorf("log %+v, want the file's level", got.Log)
	}
	got = mustParse(t, env, "--health-kms-version=v2")
	if !slices.ContainsFunc(got.Warnings, func(w string) bool { return strings.Contains(w, "--health-kms-version has no effect") }) {
		t.Errorf("warnings %q", got.Warnings)
	}
}

func TestMistakesOfTheCommandLineBesideAFileAreNamedAsSuch(t *testing.T) {
	t.Parallel()
	path := writeFile(t, minimal("A"))
	for name, c := range map[string]struct {
		env  map[string]string
		args []string
		want string // besides the file's own
	}{
		"flag":                {nil, []string{"--region=us-west-2"}, "--region: cannot be given with --config: say it as providers[].keys[].region"},
		"flag at its default": {nil, []string{"--outage-grace=3m"}, "--outage-grace: cannot be given with --config: say it as outageGrace"},
		"variable":            {map[string]string{"AWS_ENCRYPTION_PROVIDER_KEY": "alias/a"}, nil, "AWS_ENCRYPTION_PROVIDER_KEY: cannot be given with --config: say it as providers[].keys[].key"},
		"level":               {nil, []string{"--log-level=loud"}, `--log-level: "loud" is none of debug, info, warn and error`},
		"path by variable":    {map[string]string{"AWS_ENCRYPTION_PROVIDER_LIVEZ_PATH": "x"}, nil, `AWS_ENCRYPTION_PROVIDER_LIVEZ_PATH: "x" is no path`},
		"unknown flag":        {nil, []string{"--regoin=x"}, "--regoin: unknown flag; did you mean --region?"},
	} {
		_, err := parse(t, c.env, append(c.args, "--config="+path)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path+`:3: providers[0].name: "A" is no name`) {
			t.Errorf("%s: %v\nwant %q and the file's", name, err, c.want)
		}
	}
}

func TestEveryFlagHasAFieldOrMayStandBesideTheFile(t *testing.T) {
	t.Parallel()
	path := writeFile(t, minimal("a"))
	values := map[string]string{"bool": "true", "duration": "5s", "int": "1"}
	beside := []string{"config", "log-level", "log-format", "debug", "health-port", "healthz-path", "livez-path", "health-kms-version"}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.NewFlags(set)
	set.VisitAll(func(f *pflag.Flag) {
		value, ok := values[f.Value.Type()]
		if !ok {
			value = f.DefValue
		}
		if f.Name == "config" {
			return
		}
		_, err := parse(t, nil, "--config="+path, "--"+f.Name+"="+value)
		told := err != nil && strings.Contains(err.Error(), "--"+f.Name+": cannot be given with --config: say it as ")
		if told == slices.Contains(beside, f.Name) {
			t.Errorf("--%s: %v; may stand beside a file: %v", f.Name, err, !told)
		}
	})
}

func TestFileThatCannotBeReadIsAMistakeOfWhoNamesIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	file, circle := filepath.Join(dir, "file"), filepath.Join(dir, "circle")
	err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(circle, circle), os.WriteFile(file, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"":                            "is given and empty",
		filepath.Join(dir, "missing"): "there is no such file",
		dir:                           "is a directory",
		filepath.Join(file, "below"):  "a part of its path is a file",
		circle:                        "lead in a circle",
		strings.Repeat("x", 300):      "its path is too long",
		pipe:                          "is not a regular file", // and nobody waits for its writer
	} {
		env := map[string]string{"AWS_ENCRYPTION_PROVIDER_CONFIG": path}
		for field, read := range map[string]func() (*config.Config, error){
			"--config":                       func() (*config.Config, error) { return parse(t, nil, "--config="+path) },
			"AWS_ENCRYPTION_PROVIDER_CONFIG": func() (*config.Config, error) { return parse(t, env) },
		} {
			_, err := read()
			mistakes, ok := errors.AsType[config.Mistakes](err)
			if !ok || len(mistakes) != 1 || mistakes[0].Field != field || !strings.Contains(mistakes[0].Text, want) {
				t.Errorf("%q by %s: %v, want one mistake with %q", path, field, err, want)
			}
		}
	}
}

func TestLengthOfAFileIsBounded(t *testing.T) {
	t.Parallel()
	text := minimal("a") + "# "
	for length, want := range map[int]string{1 << 20: "", 1<<20 + 1: "is longer than 1048576 bytes (1 MiB)", 5 << 20: "is longer than"} {
		path := writeFile(t, text+strings.Repeat("x", length-len(text)))
		_, err := loadFile(path)
		if (err == nil) != (want == "") || err != nil && err.Error() != path+": "+want && !strings.HasPrefix(err.Error(), path+": "+want) {
			t.Errorf("%d bytes: %v, want %q", length, err, want)
		}
	}
	if data, err := config.ReadFile("/dev/zero"); err == nil {
		t.Errorf("/dev/zero has %d bytes", len(data))
	}
}

func TestListOfMistakesIsBounded(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString(minimal("a"))
	for i := range 60 {
		fmt.Fprintf(&text, "unknown-field-%d: x\n", i)
	}
	path := writeFile(t, text.String())
	_, err := loadFile(path)
	mistakes, _ := errors.AsType[config.Mistakes](err)
	if len(mistakes) != 51 || mistakes[50].String() != path+": and 10 more mistakes" {
		t.Errorf("%d mistakes: %v", len(mistakes), err)
	}
}

// A long file that is all mistakes must not keep a processor for long: it is read
// beside serving. Each takes at most two seconds by itself; what needs time with the
// square of its length takes many minutes.
func TestWorstFilesAreReadInTime(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unknown fields":  head + numbered("f%d: x\n"),
		"providers":       head + "providers:\n" + numbered("- {name: a%d}\n"),
		"keys":            head + "providers:\n- name: a\n  keys:\n" + numbered("  - key: alias/%d\n"),
		"equal keys":      head + "providers:\n- name: a\n  keys:\n" + strings.Repeat("  - key: alias/a\n", 15_000),
		"users":           head + "socket:\n  allowUIDs:\n" + numbered("  - %d\n"),
		"context":         head + "providers:\n- name: a\n  keys:\n  - key: alias/a\n    encryptionContext:\n" + numbered("      c%d: x\n"),
		"nested lists":    head + "providers: " + strings.Repeat("[", 100_000) + "\n",
		"nested mappings": head + "providers: " + strings.Repeat("{a: ", 9_000) + strings.Repeat("}", 9_000) + "\n",
		"an open quote":   head + "a: \"" + strings.Repeat("x\n", 100_000),
		"an open bracket": head + "a: [\n" + strings.Repeat("1,\n", 20_000) + "1 \"x\"",
		"doubled fields":  head + strings.Repeat("kmsTimeout: 1s\n", 15_000),
		"documents":       strings.Repeat("---\na: b\n", 25_000),
	} {
		start := time.Now()
		_, err := loadFile(writeFile(t, text))
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("%s: read in %s", name, took)
		}
		t.Logf("%s: %d bytes in %s", name, len(text), time.Since(start))
	}
}

// numbered repeats a line with a number until there is a quarter of a megabyte.
func numbered(line string) string {
	var text strings.Builder
	for i := 0; text.Len() < 250_000; i++ {
		fmt.Fprintf(&text, line, i)
	}
	return text.String()
}
