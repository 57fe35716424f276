package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
)

// printed runs a command line without an environment.
func printed(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Main(t.Context(), args, cli.Streams{Out: &o, Err: &e, LookupEnv: func(string) (string, bool) { return "", false }})
	return code, o.String(), e.String()
}

// everyCommand calls f with each command below root, and the words that name it.
func everyCommand(root *cobra.Command, path []string, f func(*cobra.Command, []string)) {
	for _, c := range root.Commands() {
		below := append(append([]string{}, path...), c.Name())
		f(c, below)
		everyCommand(c, below, f)
	}
}

// A command that is added later is held to the same.
func TestEveryHelpHasExamplesAndEachFlagInEightyColumns(t *testing.T) {
	t.Parallel()
	root := cli.Root()
	commands := 0
	everyCommand(root, nil, func(c *cobra.Command, path []string) {
		commands++
		if c.Short == "" {
			t.Errorf("%q has no short description", path)
		}
		code, help, errs := printed(t, append(path, "--help")...)
		if _, same, _ := printed(t, append([]string{"help"}, path...)...); same != help || code != cli.Done || errs != "" {
			t.Errorf("%q --help: exits %d, %q; help says something else:\n%s", path, code, errs, same)
		}
		if !strings.Contains(help, "\nExamples:\n  aws-encryption-provider ") || !strings.Contains(help, "\nExit codes: ") {
			t.Errorf("%q --help has no examples or exit codes:\n%s", path, help)
		}
		for line := range strings.Lines(help) {
			if utf8.RuneCountInString(line) > 81 {
				t.Errorf("%q --help is wider than 80 columns: %s", path, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(help, "--"+f.Name) && root.Flags().Lookup(f.Name) == nil {
				t.Errorf("%q --help has no --%s", path, f.Name)
			}
		})
	})
	if commands < 11 {
		t.Fatalf("%d commands: the test is wrong", commands)
	}
}

// names are the fields of a JSON object and of those in it.
func names(t *testing.T, text []byte) map[string]bool {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	var collect func(any)
	collect = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, below := range v {
				found[name] = true
				collect(below)
			}
		case []any:
			for _, below := range v {
				collect(below)
			}
		}
	}
	collect(v)
	return found
}

func TestPagesNameEachFieldOfTheJSONForms(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nproviders: [{name: a, keys: [{key: alias/a}]}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, shown, _ := printed(t, "config", "show", file, "--log-level=debug", "-o", "json")
	report, err := json.Marshal(&inquiry.Report{Findings: []inquiry.Finding{{}}, Grace: &inquiry.Grace{State: inquiry.GraceIdle}})
	if err != nil {
		t.Fatal(err)
	}
	for path, c := range map[string]struct {
		text  []byte
		least int
	}{"../../docs/configuration.md": {[]byte(shown), 10}, "../../docs/status.md": {report, 18}} {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fields := names(t, c.text)
		if len(fields) < c.least {
			t.Errorf("%s: %d fields in %s", path, len(fields), c.text)
		}
		for name := range fields {
			if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "."+name+"`") {
				t.Errorf("%s has no %s", path, name)
			}
		}
	}
}

// What a variable sets, its flag sets: each flag of every command is known.
func TestVariablesOfEveryFlagAreKnown(t *testing.T) {
	t.Parallel()
	var environ []string
	everyCommand(cli.Root(), nil, func(c *cobra.Command, _ []string) {
		c.Flags().VisitAll(func(f *pflag.Flag) { environ = append(environ, config.EnvName(f.Name)+"=") })
	})
	for name, c := range map[string]struct {
		environ []string
		want    int
	}{"all flags": {environ, cli.Done}, "another": {append(environ, config.EnvPrefix+"LISTNE="), cli.Usage}} {
		var errs bytes.Buffer
		code := cli.Main(t.Context(), []string{"config", "check", "--key=alias/a", "--region=us-west-2"}, cli.Streams{
			Out: new(bytes.Buffer), Err: &errs, LookupEnv: func(string) (string, bool) { return "", false },
			Environ: func() []string { return c.environ },
		})
		if code != c.want || len(c.environ) < 40 {
			t.Errorf("%s: exits %d, want %d: %s", name, code, c.want, &errs)
		}
	}
}
