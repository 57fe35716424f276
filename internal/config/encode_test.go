package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

const (
	encodedKey = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	otherKey   = "arn:aws:kms:eu-central-1:111122223333:key/99999999-12ab-34cd-56ef-1234567890ab"
)

// flagsOf parses a command line without an environment.
func flagsOf(args ...string) (*Config, *Flags, error) {
	flags := NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	cfg, err := flags.Parse(args, func(string) (string, bool) { return "", false })
	return cfg, flags, err
}

// beside is what a Config of a file has besides one of flags.
func beside() cmp.Option { return cmpopts.IgnoreFields(Config{}, "File", "Hash") }

// saysTheSame writes the flags' file and starts again with it and what has to stand
// beside it.
func saysTheSame(t interface {
	Helper()
	Fatalf(string, ...any)
	Errorf(string, ...any)
}, file string, args []string,
) []byte {
	t.Helper()
	want, flags, err := flagsOf(args...)
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	data, besides, err := flags.File()
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	again := append([]string{"--config=" + file}, besides...)
	got, _, err := flagsOf(again...)
	if err != nil {
		t.Fatalf("%q of %q: %v in\n%s", again, args, err, data)
	}
	if diff := cmp.Diff(want, got, beside(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%q says something else than %q (-want +got):\n%s\n%s", again, args, diff, data)
	}
	return data
}

// TestFileSaysWhatTheFlagsSay, field by field.
func TestFileSaysWhatTheFlagsSay(t *testing.T) {
	schema := compileSchema(t)
	for name, c := range map[string]struct {
		args    []string
		has     []string
		besides []string
	}{
		"one key": {
			args: []string{"--key=" + encodedKey},
			has:  []string{"name: \"0\"\n", "outageGrace: 3m\n", "listen: /var/run/kmsplugin/socket.sock\n", "# How long Status stays ok in an outage"},
		},
		"everything": {
			args: []string{
				"--key=" + encodedKey, "--decrypt-key=" + otherKey, "--listen=unix:///run/kms/a.sock", "--region=us-west-2", "--kms-endpoint=https://kms.example.com",
				"--assume-role-arn=arn:aws:iam::111122223333:role/x", "--external-id=ab", "--source-arn=arn:aws:eks:us-west-2:111122223333:cluster/x",
				"--encryption-context=cluster=my cluster,on=no", "--retry-token-capacity=7", "--kms-timeout=1m30s", "--outage-grace=1h0m30s", "--shutdown-delay=2h",
				"--socket-mode=0660", "--socket-group=2000", "--allow-uid=0,65532", "--health-port=9000", "--healthz-path=/h", "--livez-path=/l",
				"--log-level=warn", "--log-format=text",
			},
			has: []string{"listen: /run/kms/a.sock\n", "mode: \"0660\"\n", "group: \"2000\"\n", "kmsTimeout: 1m30s\n", "outageGrace: 1h0m30s\n", "shutdownDelay: 2h\n", "\"on\": \"no\"\n", "address: \"9000\"\n"},
		},
		"debug wins":        {args: []string{"--key=" + encodedKey, "--debug", "--log-level=error"}, has: []string{"level: debug\n"}},
		"a group by name":   {args: []string{"--key=" + encodedKey, "--socket-group=root"}, has: []string{"group: \"0\"\n"}},
		"two pairs":         {args: []string{"--key=" + encodedKey + "," + otherKey, "--listen=/run/a.sock,@b", "--allow-uid=0", "--encryption-context=[]", "--encryption-context=a=b"}},
		"no grace":          {args: []string{"--key=" + encodedKey, "--outage-grace=0", "--kms-timeout=1500us"}, has: []string{"outageGrace: 0s\n", "kmsTimeout: 1.5ms\n"}},
		"what has no field": {args: []string{"--key=" + encodedKey, "--health-kms-version=v2"}, besides: []string{"--health-kms-version=v2"}},
	} {
		t.Run(name, func(t *testing.T) {
			data := saysTheSame(t, filepath.Join(t.TempDir(), "config.yaml"), c.args)
			if err := bySchema(schema, data); err != nil {
				t.Errorf("the schema refuses it: %v in\n%s", err, data)
			}
			for _, want := range c.has {
				if !strings.Contains(string(data), want) {
					t.Errorf("no %q in\n%s", want, data)
				}
			}
			_, flags, _ := flagsOf(c.args...)
			if _, got, _ := flags.File(); !slices.Equal(got, c.besides) {
				t.Errorf("beside the file %q, want %q", got, c.besides)
			}
		})
	}
}

// TestFileOfAnyFlags: whatever the texts and times are.
func TestFileOfAnyFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -+\--~]{1,20}`) // no comma, and no quotes for the reader of CSV
		args := []string{"--key=" + encodedKey}
		for _, name := range []string{"outage-grace", "shutdown-delay", "kms-timeout"} {
			args = append(args, "--"+name+"="+fmt.Sprint(rapid.Int64Range(1, 1<<50).Draw(t, name))+"ns")
		}
		name := strings.ReplaceAll(strings.ReplaceAll(text.Draw(t, "name"), `"`, ""), "=", "")
		value := strings.ReplaceAll(text.Draw(t, "value"), `"`, "")
		args = append(args, "--encryption-context=x"+name+"="+value+"x", fmt.Sprintf("--retry-token-capacity=%d", rapid.Int32Min(0).Draw(t, "tokens")))
		saysTheSame(t, file, args)
	})
}

// TestFileCannotSay: the flags stay where a file would say something else.
func TestFileCannotSay(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"the predecessor's limits":  {[]string{"--key=" + encodedKey, "--qps-limit=5", "--burst-limit=5"}, "give --retry-token-capacity instead"},
		"a context that is no text": {[]string{"--key=" + encodedKey, "--encryption-context=a=\xff"}, "a file cannot say"},
		"a file's own flags":        {[]string{"--config=../../deploy/examples/minimal.yaml"}, "no configuration of their own"},
	} {
		_, flags, err := flagsOf(c.args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if data, _, err := flags.File(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q; file\n%s", name, err, c.want, data)
		}
	}
}

// TestUseListen: another usual socket is as if it had been given, and only where
// nothing says one.
func TestUseListen(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"one key":      {[]string{"--key=" + encodedKey}, []string{"/usual"}},
		"it is given":  {[]string{"--key=" + encodedKey, "--listen=/run/a"}, []string{"/run/a"}},
		"a file":       {[]string{"--config=../../deploy/examples/minimal.yaml"}, []string{DefaultSocket}},
		"several keys": {[]string{"--key=" + encodedKey + "," + otherKey, "--listen=/run/a,/run/b"}, []string{"/run/a", "/run/b"}},
	} {
		flags := NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
		flags.UseListen("/usual")
		cfg, err := flags.Parse(c.args, func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, p := range cfg.Providers {
			got = append(got, p.Listen)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: sockets %q, want %q", name, got, c.want)
		}
		if given := slices.Contains(flags.Args(), "--listen=/usual"); given != (c.want[0] == "/usual") {
			t.Errorf("%s: args %q", name, flags.Args())
		}
	}
	flags := NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	flags.UseListen("/usual")
	if _, err := flags.Parse([]string{"--key=" + encodedKey + "," + otherKey}, func(string) (string, bool) { return "", false }); err == nil || !strings.Contains(err.Error(), "2 keys and 1 socket") {
		t.Errorf("several keys without sockets: %v", err)
	}
}

func TestUseHealth(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nowhere given": {[]string{"--key=" + encodedKey}, "127.0.0.1:1"},
		"it is given":   {[]string{"--key=" + encodedKey, "--health-port=:2"}, ":2"},
		"a file":        {[]string{"--config=../../deploy/examples/minimal.yaml"}, ":8080"},
	} {
		flags := NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
		flags.UseHealth("127.0.0.1:1")
		cfg, err := flags.Parse(c.args, func(string) (string, bool) { return "", false })
		if err != nil || cfg.Health.Address != c.want {
			t.Errorf("%s: %+v, %v; want health at %s", name, cfg, err, c.want)
		}
	}
}
