package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// flagsOf makes a set with a text, a switch and an alias.
func flagsOf(t *testing.T) (set *pflag.FlagSet, listen *string) {
	t.Helper()
	set = pflag.NewFlagSet("test", pflag.ContinueOnError)
	listen = set.String("listen", "", "")
	set.Bool("debug", false, "")
	set.StringP("output", "o", "", "")
	set.String("expect-key-id", "", "")
	set.String("health-port", "", "")
	set.String("health-path", "", "")
	config.Alias(set, "socket", "listen")
	return set, listen
}

func TestAnAliasSetsWhatItStandsFor(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--socket=/s"}, {"-socket", "/s"}, {"--listen=/a", "--socket=/s"}, {"--socket=/a", "--listen=/s"}} {
		set, listen := flagsOf(t)
		if err := config.ParseArgs(set, args); err != nil || *listen != "/s" || !set.Changed("listen") {
			t.Errorf("%q: %v, %q", args, err, *listen)
		}
		if strings.Contains(set.FlagUsages(), "socket") {
			t.Errorf("the alias is shown:\n%s", set.FlagUsages())
		}
	}
}

func TestAMistypedFlagDrawsTheOneThatIsMeant(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"--lisetn=x":  "--lisetn: unknown flag; did you mean --listen?",
		"-listn=x":    "--listn: unknown flag; did you mean --listen?",
		"--sokcet=x":  "--sokcet: unknown flag; did you mean --listen?", // what the alias stands for
		"--expect=x":  "--expect: unknown flag; did you mean --expect-key-id?",
		"--health=x":  "--health: unknown flag: there are --debug, --expect-key-id, --health-path, --health-port, --listen and --output", // of two, either may be meant
		"--nothing=x": "--nothing: unknown flag: there are --debug, --expect-key-id, --health-path, --health-port, --listen and --output",
	} {
		set, _ := flagsOf(t)
		if err := config.ParseArgs(set, []string{arg}); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", arg, err, want)
		}
	}
}

// TestNothingIsMissingWhereALineCouldNotBeRead: what was mistyped may be what is missing.
func TestNothingIsMissingWhereALineCouldNotBeRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing at all":       {nil, "--key: is missing"},
		"a key":                {[]string{"--kye=alias/a"}, "--kye: unknown flag"},
		"a socket":             {[]string{"--key=alias/a,alias/b", "--lisen=/a,/b"}, "--lisen: unknown flag"},
		"a socket, unlike one": {[]string{"--key=alias/a,alias/b", "--listen=/a"}, "--listen: 2 keys and 1 socket"},
		"a role":               {[]string{"--key=alias/a", "--external-id=ab", "--asume-role-arn=b"}, "--asume-role-arn: unknown flag"},
		"who may connect":      {[]string{"--key=alias/a", "--listen=@a", "--alow-uid=0"}, "--alow-uid: unknown flag"},
		"a limit":              {[]string{"--key=alias/a", "--qps-limit=1", "--bust-limit=2"}, "--bust-limit: unknown flag"},
		"a value":              {[]string{"--key"}, "--key: needs a value"},
		"a word":               {[]string{"alias/a"}, `unexpected argument "alias/a"; did you mean --key?`},
	} {
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		_, err := config.NewFlags(set).Parse(c.args, func(string) (string, bool) { return "", false })
		mistakes, _ := errors.AsType[config.Mistakes](err)
		if told := mistakes.Certain(); len(told) != 1 || !strings.HasPrefix(told[0].String(), c.want) {
			t.Errorf("%s: told %q, want %q alone", name, told.Error(), c.want)
		}
	}
	stray := config.StrayVariables([]string{config.EnvPrefix + "KYE=alias/a"}, []string{"key"})
	missing := config.Mistake{Field: "--key", Follows: true}
	if told := append(config.Mistakes{missing}, stray...).Certain(); len(told) != 1 || told[0] != stray[0] {
		t.Errorf("told %q", told.Error())
	}
}

func TestWordsAndFlagsOfACommandLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ args, words, flags, leading []string }{
		"words alone":           {args: []string{"a", "b"}, words: []string{"a", "b"}},
		"one dash is two":       {args: []string{"-listen", "status", "-debug", "doctor"}, words: []string{"doctor"}, flags: []string{"--listen", "status", "--debug"}, leading: []string{"--listen", "status", "--debug"}},
		"values that look odd":  {args: []string{"-listen", "-x", "a"}, words: []string{"a"}, flags: []string{"--listen", "-x"}, leading: []string{"--listen", "-x"}},
		"with equals":           {args: []string{"-listen=a", "b", "--debug"}, words: []string{"b"}, flags: []string{"--listen=a", "--debug"}, leading: []string{"--listen=a"}},
		"shorthands stay":       {args: []string{"-o", "json", "a"}, words: []string{"a"}, flags: []string{"-o", "json"}, leading: []string{"-o", "json"}},
		"unknown, with a value": {args: []string{"-unknown", "a", "b"}, words: []string{"b"}, flags: []string{"--unknown", "a"}, leading: []string{"--unknown", "a"}},
		"a value is missing":    {args: []string{"--listen"}, flags: []string{"--listen"}, leading: []string{"--listen"}},
		"help takes nothing":    {args: []string{"--help", "a"}, words: []string{"a"}, flags: []string{"--help"}, leading: []string{"--help"}},
	} {
		set, _ := flagsOf(t)
		before := strings.Join(c.args, " ")
		words, flags := config.SplitArgs(set, c.args)
		leading, rest := config.LeadingFlags(set, c.args)
		if diff := cmp.Diff([][]string{c.words, c.flags, c.leading}, [][]string{words, flags, leading}); diff != "" || len(leading)+len(rest) != len(c.args) {
			t.Errorf("%s: %q left (-want +got):\n%s", name, rest, diff)
		}
		if strings.Join(c.args, " ") != before {
			t.Errorf("%s: the arguments were changed: %q", name, c.args)
		}
	}
}

func TestVariablesThatSetNothingAreMistakes(t *testing.T) {
	t.Parallel()
	flags := []string{"kms-timeout", "listen", "health-port"}
	const p = config.EnvPrefix
	for name, c := range map[string]struct{ environ, want []string }{
		"none":            {[]string{"HOME=/", "AWS_REGION=us-west-2", p + "LISTEN=/s", p + "KMS_TIMEOUT="}, nil},
		"a typo":          {[]string{p + "KMS_TIMOUT=1s"}, []string{p + "KMS_TIMOUT: sets no flag of this program; did you mean " + p + "KMS_TIMEOUT?"}},
		"two, by name":    {[]string{p + "Z=", p + "A"}, []string{p + "A: sets no flag of this program", p + "Z: sets no flag of this program"}},
		"small letters":   {[]string{p + "listen=/s"}, []string{p + "listen: sets no flag of this program; did you mean " + p + "LISTEN?"}},
		"the prefix only": {[]string{p + "="}, []string{p + ": sets no flag of this program"}},
		"a Service of that name": {[]string{
			p + "SERVICE_HOST=10.0.0.1", p + "SERVICE_PORT=8080", p + "SERVICE_PORT_HTTP=8080", p + "PORT=tcp://10.0.0.1:8080",
			p + "PORT_8080_TCP=tcp://10.0.0.1:8080", p + "PORT_8080_TCP_PROTO=tcp", p + "PORT_8080_TCP_PORT=8080", p + "PORT_8080_TCP_ADDR=10.0.0.1",
		}, nil},
		"a Service of a longer name": {[]string{p + "METRICS_SERVICE_HOST=10.0.0.1", p + "METRICS_PORT=tcp://10.0.0.1:8080"}, nil},
		"a port without a Service":   {[]string{p + "HEATLH_PORT=:8080"}, []string{p + "HEATLH_PORT: sets no flag of this program; did you mean " + p + "HEALTH_PORT?"}},
		"beside a Service":           {[]string{p + "SERVICE_HOST=10.0.0.1", p + "HEATLH_PORT=:8080"}, []string{p + "HEATLH_PORT: sets no flag of this program; did you mean " + p + "HEALTH_PORT?"}},
	} {
		var got []string
		for _, m := range config.StrayVariables(c.environ, flags) {
			got = append(got, m.String())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
