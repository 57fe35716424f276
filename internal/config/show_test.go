package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

const ofSettings = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// settingsOf parses a command line, and returns a line for each setting.
func settingsOf(t *testing.T, env map[string]string, args ...string) (*Config, map[string]string) {
	t.Helper()
	flags := NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	cfg, err := flags.Parse(args, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	lines := map[string]string{}
	for _, s := range flags.Settings() {
		value := fmt.Sprint(s.Value)
		if s.Secret {
			value = "SECRET"
		}
		lines[s.Field] = value + " from " + s.Origin.String()
	}
	return cfg, lines
}

func lacking(t *testing.T, got, want map[string]string) {
	t.Helper()
	for field, line := range want {
		if got[field] != line {
			t.Errorf("%s: %q, want %q", field, got[field], line)
		}
	}
}

func TestSettingsOfFlagsNameThem(t *testing.T) {
	t.Parallel()
	_, got := settingsOf(t, map[string]string{EnvName("kms-timeout"): "1s", EnvName("allow-uid"): "0\n7"},
		"-key="+ofSettings, "--decrypt-key=alias/old,arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", "--listen=unix:///run/s", "--encryption-context=a=b,c.d=e", "--debug",
		"--qps-limit=3", "--burst-limit=4", "--assume-role-arn=arn:aws:iam::111122223333:role/r", "--external-id=of-a-partner", "--kms-endpoint=https://user:passphrase@kms.example?token=abc")
	lacking(t, got, map[string]string{
		"kmsTimeout":                                    "1s from " + EnvName("kms-timeout"),
		"outageGrace":                                   "3m0s from default",
		"socket.mode":                                   "0600 from default",
		"socket.group":                                  "<nil> from default",
		"socket.allowUIDs":                              "[0 7] from " + EnvName("allow-uid"),
		"log.level":                                     "debug from --debug",
		"log.format":                                    "json from default",
		"providers[0].name":                             "0 from default",
		"providers[0].listen":                           "/run/s from --listen",
		"providers[0].epoch":                            "0 from default",
		"providers[0].retryTokenCapacity":               "7 from --qps-limit",
		"providers[0].keys[0].key":                      ofSettings + " from --key",
		"providers[0].keys[0].region":                   "us-west-2 from providers[0].keys[0].key",
		"providers[0].keys[0].endpoint":                 "https://user:xxxxx@kms.example?xxxxx from --kms-endpoint",
		"providers[0].keys[0].externalID":               "SECRET from --external-id",
		"providers[0].keys[0].encryptionContext.a":      "b from --encryption-context",
		`providers[0].keys[0].encryptionContext["c.d"]`: "e from --encryption-context",
		"providers[0].keys[1].key":                      "alias/old from --decrypt-key",
		"providers[0].keys[1].region":                   "us-west-2 from providers[0].keys[0].key",
		"providers[0].keys[2].region":                   "eu-central-1 from providers[0].keys[2].key",
	})
	_, got = settingsOf(t, map[string]string{EnvName("region"): "us-west-2"}, "--key=alias/a", "--decrypt-key=alias/b")
	lacking(t, got, map[string]string{
		"providers[0].keys[0].region": "us-west-2 from " + EnvName("region"),
		"providers[0].keys[1].region": "us-west-2 from " + EnvName("region"),
		"providers[0].listen":         DefaultSocket + " from default",
	})
	_, got = settingsOf(t, nil, "--key=alias/a", "--qps-limit=3", "--burst-limit=4", "--retry-token-capacity=9", "--kms-endpoint=https://token@kms.example")
	lacking(t, got, map[string]string{
		"providers[0].keys[0].region":     "<nil> from default",
		"providers[0].retryTokenCapacity": "9 from --retry-token-capacity",
		"providers[0].keys[0].endpoint":   "https://xxxxx@kms.example from --kms-endpoint",
	})
}

func TestSettingsOfAFileNameItsLines(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	text := `apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1
kind: ProviderConfiguration
log: {level: error, format: text}
health:
  address: 8083
socket:
  allowUIDs:
  - 0
providers:
- name: a
  keys:
  - key: ` + ofSettings + `
    externalID: of-a-partner
    assumeRoleARN: arn:aws:iam::111122223333:role/r
    encryptionContext:
      "on": x
`
	text = strings.Replace(text, "8083", `"8083"`, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, got := settingsOf(t, map[string]string{EnvName("livez-path"): "/alive"}, "--config="+path, "--log-format=json")
	at := func(line int) string { return fmt.Sprintf(" from %s:%d", path, line) }
	lacking(t, got, map[string]string{
		"kmsTimeout":                                "2.5s from default",
		"log.level":                                 "error" + at(3),
		"log.format":                                "json from --log-format",
		"health.address":                            ":8083" + at(5),
		"health.livezPath":                          "/alive from " + EnvName("livez-path"),
		"socket.allowUIDs":                          "[0]" + at(7),
		"providers[0].name":                         "a" + at(10),
		"providers[0].listen":                       DefaultSocket + " from default",
		"providers[0].keys[0].key":                  ofSettings + at(12),
		"providers[0].keys[0].region":               "us-west-2 from providers[0].keys[0].key",
		"providers[0].keys[0].externalID":           "SECRET" + at(13),
		"providers[0].keys[0].encryptionContext.on": "x" + at(16),
	})
	_, got = settingsOf(t, nil, "--config="+path, "--debug")
	lacking(t, got, map[string]string{"log.level": "debug from --debug"})
	_, got = settingsOf(t, nil, "--config="+path, "--debug=false")
	lacking(t, got, map[string]string{"log.level": "error" + at(3)})
}

// What is shown is what is served: a file that says all of it means the same.
func TestSettingsAreTheConfigurationInForce(t *testing.T) {
	t.Parallel()
	lines := [][]string{
		{"--key=alias/a"},
		{"--key=alias/a,alias/b", "--listen=@a,/b", "--allow-uid=3", "--socket-mode=660", "--socket-group=12", "--debug", "--log-format=text", "--health-port=9"},
		{"--key=" + ofSettings, "--encryption-context=a=b", "--decrypt-key=alias/c", "--retry-token-capacity=4", "--shutdown-delay=3s", "--outage-grace=0"},
	}
	for _, dir := range []string{"testdata/good", "../../deploy/examples"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(files) < 4 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			lines = append(lines, []string{"--config=" + file})
		}
	}
	for _, args := range lines {
		cfg, settings := settingsOf(t, nil, args...)
		doc := documentOf(cfg)
		b := &builder{words: &fileWords{decoder: &decoder{}}, told: map[Mistake]bool{}}
		again := b.build(doc)
		again.File, again.Hash, again.Warnings = cfg.File, cfg.Hash, cfg.Warnings
		if diff := cmp.Diff(cfg, again); diff != "" || len(b.mistakes) > 0 {
			t.Errorf("%q: %v (-served +shown):\n%s", args, b.mistakes, diff)
		}
		values := 0
		eachValue(reflect.ValueOf(doc).Elem(), "", func(path string, _ any) {
			if values++; settings[path] == "" && path != "apiVersion" && path != "kind" {
				t.Errorf("%q: %s is not shown", args, path)
			}
		})
		if values-2 != len(settings) {
			t.Errorf("%q: %d settings of %d values", args, len(settings), values-2)
		}
	}
}

func TestSettingsShowNoSecret(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"https://user:s3cret@kms.example", "https://s3cret@kms.example", "https://kms.example/?s3cret", "https://kms.example/#s3cret"} {
		flags := NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
		if _, err := flags.Parse([]string{"--key=alias/a", "--assume-role-arn=arn:aws:iam::111122223333:role/r", "--external-id=s3cret", "--kms-endpoint=" + endpoint}, func(string) (string, bool) { return "", false }); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(flags.Settings())
		if err != nil || strings.Contains(string(text), "s3cret") {
			t.Errorf("%s: %v, %s", endpoint, err, text)
		}
	}
}
