package config_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

const (
	keyA = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	keyB = "arn:aws:kms:eu-central-1:111122223333:key/99999999-12ab-34cd-56ef-1234567890ab"
)

func parse(t *testing.T, env map[string]string, args ...string) (*config.Config, error) {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	return config.NewFlags(set).Parse(args, func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	})
}

func mustParse(t *testing.T, env map[string]string, args ...string) *config.Config {
	t.Helper()
	cfg, err := parse(t, env, args...)
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return cfg
}

func TestSeedsCommandLineWorksUnchanged(t *testing.T) {
	t.Parallel()
	want := &config.Config{
		Providers: []config.Provider{{Name: "0", Listen: "/var/run/kmsplugin/socket.sock", Keys: []config.Key{{Key: keyA, Region: "us-west-2"}}}},
		Socket:    config.Socket{Mode: 0o600, Group: -1},
		Health:    config.Health{Address: ":8080", HealthzPath: "/healthz", LivezPath: "/livez"},
		Log:       config.Log{Level: slog.LevelInfo, JSON: true}, KMSTimeout: 2500 * time.Millisecond, OutageGrace: 3 * time.Minute,
	}
	for name, args := range map[string][]string{
		"one dash":    {"-key=" + keyA, "-region=us-west-2", "-listen=/var/run/kmsplugin/socket.sock"},
		"two dashes":  {"--key=" + keyA, "--region=us-west-2", "--listen=/var/run/kmsplugin/socket.sock"},
		"no equals":   {"-key", keyA, "--region", "us-west-2", "-listen", "/var/run/kmsplugin/socket.sock"},
		"defaults":    {"-key=" + keyA},
		"unix target": {"-key=" + keyA, "-listen=unix:/var/run/kmsplugin/socket.sock"},
		"unix URL":    {"-key=" + keyA, "-listen=unix:///var/run/kmsplugin/socket.sock"},
	} {
		if diff := cmp.Diff(want, mustParse(t, nil, args...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPairsGoByPosition(t *testing.T) {
	t.Parallel()
	cfg := mustParse(t, nil, "--key="+keyA+","+keyB+",alias/c", "--listen=/a,/b", "--listen=/c",
		"--encryption-context=[a=b,c=d]", "--encryption-context=", "--encryption-context=e=f=g")
	want := []config.Provider{
		{Name: "0", Listen: "/a", Keys: []config.Key{{Key: keyA, Region: "us-west-2", EncryptionContext: map[string]string{"a": "b", "c": "d"}}}},
		{Name: "1", Listen: "/b", Keys: []config.Key{{Key: keyB, Region: "eu-central-1"}}},
		{Name: "2", Listen: "/c", Keys: []config.Key{{Key: "alias/c", EncryptionContext: map[string]string{"e": "f=g"}}}},
	}
	if diff := cmp.Diff(want, cfg.Providers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	short := mustParse(t, nil, "--key="+keyA+","+keyB, "--listen=/a,/b", "--encryption-context=a=b")
	first, second := short.Providers[0].Keys[0].EncryptionContext, short.Providers[1].Keys[0].EncryptionContext
	if first["a"] != "b" || second != nil {
		t.Errorf("contexts %v and %v: want them never merged", first, second)
	}
}

func TestDecryptKeysHaveTheirOwnRegion(t *testing.T) {
	t.Parallel()
	cfg := mustParse(t, nil, "--key="+keyA, "--region=us-west-2", "--decrypt-key="+keyB+",alias/old", "--decrypt-key=alias/older")
	want := []config.Key{{Key: keyA, Region: "us-west-2"}, {Key: keyB, Region: "eu-central-1"}, {Key: "alias/old", Region: "us-west-2"}, {Key: "alias/older", Region: "us-west-2"}}
	if diff := cmp.Diff(want, cfg.Providers[0].Keys); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPredecessorsLimitsAreARetryBudget(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args     []string
		want     config.Retry
		warnings int
	}{
		"none":                 {nil, config.Retry{}, 0},
		"tokens":               {[]string{"--retry-token-capacity=7"}, config.Retry{Tokens: 7}, 0},
		"qps and burst":        {[]string{"--qps-limit=3", "--burst-limit=5"}, config.Retry{Tokens: 8, Flat: true}, 1},
		"tokens win":           {[]string{"--qps-limit=3", "--burst-limit=5", "--retry-token-capacity=7"}, config.Retry{Tokens: 7}, 0},
		"burst alone":          {[]string{"--burst-limit=5"}, config.Retry{}, 1},
		"health version":       {[]string{"--health-kms-version=v2"}, config.Retry{}, 1},
		"health version, any":  {[]string{"-health-kms-version", "v9"}, config.Retry{}, 1},
		"none, said with zero": {[]string{"--qps-limit=0", "--burst-limit=0"}, config.Retry{}, 0},
	} {
		cfg := mustParse(t, nil, append(c.args, "--key="+keyA)...)
		if got := cfg.Providers[0].Retry; got != c.want || len(cfg.Warnings) != c.warnings {
			t.Errorf("%s: %+v with warnings %q; want %+v and %d", name, got, cfg.Warnings, c.want, c.warnings)
		}
	}
}

// A pod whose template fills nothing in goes on starting, and says what it lacks. What a
// flag of another command asks would vanish: there it is a mistake.
func TestEmptyTextsAreWarnedOfOrRefused(t *testing.T) {
	t.Parallel()
	cfg := mustParse(t, map[string]string{"AWS_ENCRYPTION_PROVIDER_EXTERNAL_ID": ""}, "--key="+keyA, "--source-arn=", "--assume-role-arn", "", "--encryption-context=")
	want := []string{
		"--encryption-context is given and empty: it counts as left out", "--assume-role-arn is given and empty: it counts as left out",
		"--source-arn is given and empty: it counts as left out",
	}
	if diff := cmp.Diff(want, cfg.Warnings, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	cfg = mustParse(t, nil, "--key="+keyA+","+keyB, "--listen=/a,/b", "--encryption-context=", "--encryption-context=a=b")
	if len(cfg.Warnings) > 0 {
		t.Errorf("the second key alone has a context: %q", cfg.Warnings)
	}
	set := pflag.NewFlagSet("status", pflag.ContinueOnError)
	set.String("expect-key-id", "", "")
	set.StringSlice("resources", nil, "")
	set.Int("n", 0, "")
	mistakes, _ := errors.AsType[config.Mistakes](config.ParseArgs(set, []string{"--expect-key-id", "", "--resources="}))
	if len(mistakes) != 2 || mistakes[0].Field != "--expect-key-id" || mistakes[1].Field != "--resources" || !strings.HasPrefix(mistakes[0].Text, "is empty") {
		t.Errorf("%q", mistakes)
	}
}

func TestEnvironmentSetsEveryFlag(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"AWS_ENCRYPTION_PROVIDER_KEY":                keyA + "\n" + keyB,
		"AWS_ENCRYPTION_PROVIDER_LISTEN":             "/a,/b",
		"AWS_ENCRYPTION_PROVIDER_ENCRYPTION_CONTEXT": "a=b,c=d\ne=f\n",
		"AWS_ENCRYPTION_PROVIDER_OUTAGE_GRACE":       "0s",
		"AWS_ENCRYPTION_PROVIDER_DEBUG":              "true",
		"AWS_ENCRYPTION_PROVIDER_HEALTH_PORT":        "9090",
		"AWS_ENCRYPTION_PROVIDER_ALLOW_UID":          "0\n1000",
		"AWS_ENCRYPTION_PROVIDER_SERVICE_HOST":       "10.0.0.1", // Kubernetes' own, of a Service of that name
	}
	cfg := mustParse(t, env, "--listen=/x,/y")
	if len(cfg.Providers) != 2 || cfg.Providers[0].Listen != "/x" || cfg.Providers[1].Keys[0].Key != keyB {
		t.Errorf("providers %+v: want the command line to win over the environment", cfg.Providers)
	}
	if cfg.Providers[0].Keys[0].EncryptionContext["c"] != "d" || cfg.Providers[1].Keys[0].EncryptionContext["e"] != "f" {
		t.Errorf("contexts %+v", cfg.Providers)
	}
	if cfg.OutageGrace != 0 || cfg.Log.Level != slog.LevelDebug || cfg.Health.Address != ":9090" || len(cfg.Socket.AllowUIDs) != 2 {
		t.Errorf("%+v", cfg)
	}
}

func TestEveryMistakeIsNamedWithItsFlag(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("x", 107)
	for name, c := range map[string]struct {
		args []string
		want []string // a line each, in this order
	}{
		"nothing":                       {nil, []string{"--key: is missing"}},
		"empty key":                     {[]string{"--key="}, []string{"--key: is missing"}},
		"empty among keys":              {[]string{"--key=alias/a,,alias/b", "--listen=/a,/b,/c"}, []string{`--key: key 2, "", is empty`}},
		"nonsense key":                  {[]string{"--key=foo"}, []string{`--key: "foo" is no key ARN`}},
		"placeholder for a key id":      {[]string{"--key=arn:aws:kms:us-west-2:111122223333:key/xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"}, []string{`-xxxxxxxxxxxx" is a placeholder that nobody has filled in`}},
		"placeholder for a key":         {[]string{"--key=<KEY_ARN>"}, []string{`--key: "<KEY_ARN>" is a placeholder that nobody has filled in`}},
		"placeholder for a role":        {[]string{"--key=alias/a", "--assume-role-arn=arn:aws:iam::<ACCOUNT>:role/kms"}, []string{`--assume-role-arn: "arn:aws:iam::<ACCOUNT>:role/kms" is a placeholder`}},
		"placeholder for a Region":      {[]string{"--key=alias/a", "--region=<region>"}, []string{`--region: "<region>" is a placeholder`}},
		"blank behind an ARN":           {[]string{"--key=arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab "}, []string{`890ab " has a blank at its end: take it out`}},
		"line break behind a role":      {[]string{"--key=alias/a", "--assume-role-arn=arn:aws:iam::111122223333:role/kms\n"}, []string{`role/kms\n" has a line break at its end`}},
		"blank behind a comma":          {[]string{"--key=alias/a, alias/b", "--listen=/a,/b"}, []string{`--key: key 2, " alias/b", has a blank at its beginning: take it out, and separate a list by commas alone`}},
		"no-break space":                {[]string{"--key=alias/a\u00a0"}, []string{`--key: "alias/a\u00a0" has a no-break space at its end`}},
		"blank behind a role":           {[]string{"--key=alias/a", "--assume-role-arn=arn:aws:iam::111122223333:role/kms "}, []string{`role/kms " has a blank at its end`}},
		"blank behind a source":         {[]string{"--key=alias/a", "--source-arn=arn:aws:eks:us-west-2:111122223333:cluster/a "}, []string{`cluster/a " has a blank at its end`}},
		"quotes of a manifest":          {[]string{"--key='alias/a'"}, []string{`--key: "'alias/a'" is in quotation marks of its own`}},
		"unknown flag":                  {[]string{"--kye=x", "--key=alias/a"}, []string{"--kye: unknown flag; did you mean --key?"}},
		"unknown, far away":             {[]string{"--frobnicate", "x", "--key=alias/a"}, []string{"--frobnicate: unknown flag"}},
		"argument":                      {[]string{"--key=alias/a", "extra"}, []string{`unexpected argument "extra"`}},
		"value missing":                 {[]string{"--key"}, []string{"--key: needs a value", "--key: is missing"}},
		"not a number":                  {[]string{"--key=alias/a", "--qps-limit=x"}, []string{`--qps-limit: "x" is no whole number`}},
		"not a duration":                {[]string{"--key=alias/a", "--kms-timeout=5"}, []string{`--kms-timeout: "5" is no duration`}},
		"unequal lists":                 {[]string{"--key=alias/a,alias/b"}, []string{"--listen: 2 keys and 1 socket"}},
		"too many contexts":             {[]string{"--key=alias/a", "--encryption-context=a=b", "--encryption-context=c=d"}, []string{"--encryption-context: 2 contexts and 1 key"}},
		"bad context":                   {[]string{"--key=alias/a", "--encryption-context=a"}, []string{`--encryption-context: "a" is no name=value`}},
		"bad CSV":                       {[]string{"--key=alias/a", `--encryption-context="a=b`}, []string{`--encryption-context: "\"a=b" cannot be read`}},
		"context key twice":             {[]string{"--key=alias/a", "--encryption-context=a=b,a=c"}, []string{`--encryption-context: "a" is given twice`}},
		"same socket":                   {[]string{"--key=alias/a,alias/b", "--listen=/s,/x/../s"}, []string{`--listen: "/s" is given twice`}},
		"long socket":                   {[]string{"--key=alias/a", "--listen=" + long}, []string{"has 108 bytes: a socket's path may have 107"}},
		"empty socket":                  {[]string{"--key=alias/a,alias/b", "--listen=/a,"}, []string{`--listen: socket 2, "", is no socket`}},
		"directory":                     {[]string{"--key=alias/a", "--listen=/run/"}, []string{`--listen: "/run/" is a directory`}},
		"abstract without uid":          {[]string{"--key=alias/a", "--listen=@kms"}, []string{`--listen: "@kms" is an abstract socket`}},
		"bad mode":                      {[]string{"--key=alias/a", "--socket-mode=999"}, []string{`--socket-mode: "999" is no octal mode`}},
		"mode too wide":                 {[]string{"--key=alias/a", "--socket-mode=1777"}, []string{`--socket-mode: "1777"`}},
		"mode that locks the owner out": {[]string{"--key=alias/a", "--socket-mode=0060"}, []string{`--socket-mode: "0060"`}},
		"no such group":                 {[]string{"--key=alias/a", "--socket-group=no-such-group-here"}, []string{"--socket-group: \"no-such-group-here\" is no group"}},
		"empty uid list":                {[]string{"--key=alias/a", "--allow-uid="}, []string{"--allow-uid: is given and empty"}},
		"empty read keys":               {[]string{"--key=alias/a", "--decrypt-key="}, []string{"--decrypt-key: is given and empty"}},
		"bad uid":                       {[]string{"--key=alias/a", "--allow-uid=root"}, []string{`--allow-uid: "root" is no user id`}},
		"Region contradicts":            {[]string{"--key=" + keyA, "--region=eu-central-1"}, []string{`--region: is "eu-central-1", but the key "` + keyA + `" is in us-west-2`}},
		"bad Region":                    {[]string{"--key=alias/a", "--region=Oregon"}, []string{`--region: "Oregon" is no AWS Region`}},
		"bad endpoint":                  {[]string{"--key=alias/a", "--kms-endpoint=kms.example"}, []string{`--kms-endpoint: is no URL`}},
		"endpoint with password":        {[]string{"--key=alias/a", "--kms-endpoint=ftp://u:p@h"}, []string{"--kms-endpoint: is no URL: want https://HOST"}},
		"bad role":                      {[]string{"--key=alias/a", "--assume-role-arn=role"}, []string{`--assume-role-arn: "role" is no ARN of a role`}},
		"external id alone":             {[]string{"--key=alias/a", "--external-id=x"}, []string{"--external-id: has no meaning without"}},
		"bad external id":               {[]string{"--key=alias/a", "--assume-role-arn=arn:aws:iam::111122223333:role/a", "--external-id=a b"}, []string{"--external-id: is no external id: want 2 to 1224"}},
		"long context":                  {[]string{"--key=alias/a", "--encryption-context=a=" + strings.Repeat("x", 8192)}, []string{"--encryption-context: has 8193 bytes of names and values: at most 8192"}},
		"too many read keys":            {append([]string{"--key=alias/a"}, numberedFlags("--decrypt-key=alias/%d", 100)...), []string{"--decrypt-key: has more than 100"}},
		"too many uids":                 {append([]string{"--key=alias/a"}, numberedFlags("--allow-uid=%d", 101)...), []string{"--allow-uid: has more than 100"}},
		"the same Region for two keys":  {[]string{"--key=alias/a,alias/b", "--listen=/a,/b", "--region=Oregon"}, []string{`--region: "Oregon" is no AWS Region`}},
		"bad source":                    {[]string{"--key=alias/a", "--source-arn=arn:aws:eks"}, []string{`--source-arn: "arn:aws:eks" is no ARN`}},
		"decrypt key of two pairs":      {[]string{"--key=alias/a,alias/b", "--listen=/a,/b", "--decrypt-key=alias/c"}, []string{"--decrypt-key: works with one pair"}},
		"nonsense decrypt key":          {[]string{"--key=alias/a", "--decrypt-key=foo"}, []string{`--decrypt-key: "foo" is no key ARN`}},
		"decrypt key twice":             {[]string{"--key=alias/a", "--decrypt-key=alias/a"}, []string{`--decrypt-key: "alias/a" is given twice`}},
		"no time":                       {[]string{"--key=alias/a", "--kms-timeout=0", "--outage-grace=-1s", "--shutdown-delay=-1s"}, []string{"--kms-timeout: must be", "--outage-grace: must not", "--shutdown-delay: must not"}},
		"qps alone":                     {[]string{"--key=alias/a", "--qps-limit=5"}, []string{"--burst-limit: must be above 0"}},
		"negative":                      {[]string{"--key=alias/a", "--retry-token-capacity=-1"}, []string{"--retry-token-capacity: must not be negative"}},
		"bad port":                      {[]string{"--key=alias/a", "--health-port=http"}, []string{`--health-port: "http" is no address`}},
		"port too large":                {[]string{"--key=alias/a", "--health-port=:70000"}, []string{`--health-port: ":70000" is no address`}},
		"path taken":                    {[]string{"--key=alias/a", "--livez-path=/metrics"}, []string{`--livez-path: "/metrics" is taken`}},
		"no path":                       {[]string{"--key=alias/a", "--healthz-path=healthz"}, []string{`--healthz-path: "healthz" is no path`}},
		"log level":                     {[]string{"--key=alias/a", "--log-level=loud"}, []string{`--log-level: "loud" is none of`}},
		"log format":                    {[]string{"--key=alias/a", "--log-format=xml"}, []string{`--log-format: "xml" is none of json and text`}},
		"several at once": {
			[]string{"--key=foo", "--regoin=x", "--socket-mode=x", "--listen=/a,/b"},
			[]string{"--regoin: unknown flag; did you mean --region?", "--listen: 1 key and 2 sockets", "--socket-mode:", `--key: "foo"`},
		},
	} {
		_, err := parse(t, nil, c.args...)
		mistakes, ok := errors.AsType[config.Mistakes](err)
		if !ok {
			t.Errorf("%s: got %v, want mistakes", name, err)
			continue
		}
		lines := strings.Split(mistakes.Error(), "\n")
		if len(lines) != len(c.want) {
			t.Errorf("%s: %d mistakes:\n%v\nwant %d", name, len(lines), mistakes, len(c.want))
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(lines[i], want) {
				t.Errorf("%s: line %d is %q, want %q in it", name, i+1, lines[i], want)
			}
		}
	}
}

func numberedFlags(flag string, n int) []string {
	flags := make([]string, n)
	for i := range flags {
		flags[i] = fmt.Sprintf(flag, i)
	}
	return flags
}

func TestMistakeOfTheEnvironmentNamesItsVariable(t *testing.T) {
	t.Parallel()
	_, err := parse(t, map[string]string{"AWS_ENCRYPTION_PROVIDER_KMS_TIMEOUT": "soon"}, "--key=alias/a")
	if err == nil || err.Error() != `AWS_ENCRYPTION_PROVIDER_KMS_TIMEOUT: "soon" is no duration: want a number and its unit, such as 2.5s or 3m` {
		t.Errorf("got %v", err)
	}
	_, err = parse(t, map[string]string{"AWS_ENCRYPTION_PROVIDER_REGION": "Oregon"}, "--key=alias/a")
	if err == nil || err.Error() != `AWS_ENCRYPTION_PROVIDER_REGION: "Oregon" is no AWS Region` {
		t.Errorf("got %v", err)
	}
}

func TestHelpIsAskedForInEveryForm(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"-h", "--h", "-help", "--help"} {
		if _, err := parse(t, nil, "--key=x", arg); !errors.Is(err, pflag.ErrHelp) {
			t.Errorf("%s: %v, want ErrHelp", arg, err)
		}
	}
}

func TestConfigurationPageListsEveryFlag(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.NewFlags(set)
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)`").FindAllStringSubmatch(string(page), -1) {
		listed[m[1]] = true
	}
	set.VisitAll(func(f *pflag.Flag) {
		if !listed[f.Name] {
			t.Errorf("docs/configuration.md's table does not list --%s", f.Name)
		}
		delete(listed, f.Name)
	})
	for name := range listed {
		t.Errorf("docs/configuration.md's table lists --%s, which does not exist", name)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-key=alias/a\x00--listen=/s\x00--encryption-context=[a=b]")
	f.Add("--allow-uid\x001\x00-h")
	f.Fuzz(func(t *testing.T, line string) {
		set := pflag.NewFlagSet("fuzz", pflag.ContinueOnError)
		cfg, err := config.NewFlags(set).Parse(strings.Split(line, "\x00"), func(string) (string, bool) { return "", false })
		if (cfg == nil) == (err == nil) {
			t.Errorf("%q: config %v and error %v", line, cfg, err)
		}
		if err == nil && len(cfg.Providers) == 0 {
			t.Errorf("%q: no provider and no mistake", line)
		}
	})
}
