package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// newConfig makes the command of those that read a configuration as serving does,
// and serve nothing.
func newConfig(s Streams) *cobra.Command {
	cmd := &cobra.Command{Use: "config COMMAND", Short: "check a configuration, or show it as it is in force"}
	check, show := newConfigCheck(s), newConfigShow(s)
	cmd.AddCommand(check, show)
	help := func() {
		printHelp(s, help{
			about: `Reads a configuration as serving does, the environment included, and says what
is wrong with it or shows it. It serves nothing and asks nothing of AWS.`,
			usage: []string{"config check [FILE] [flags]", "config show [FILE] [flags]"},
			sections: []section{{"Commands", fmt.Sprintf("  %-11s %s\n  %-11s %s\n",
				check.Name(), check.Short, show.Name(), show.Short)}},
			examples: []string{
				"config check /etc/aws-encryption-provider/config.yaml",
				"config show /etc/aws-encryption-provider/config.yaml",
			},
			exits: "0 done, 1 failed, 2 wrong usage or configuration.",
		})
	}
	return parsed(cmd, help, func(_ context.Context, args []string) error {
		words, flags := config.SplitArgs(cmd.Flags(), args)
		if len(words) > 0 {
			return unknownCommand(cmd, words[0])
		}
		if err := config.ParseArgs(cmd.Flags(), flags); err != nil {
			return err
		}
		return config.Mistakes{{Text: "say first what to do: check or show", Usage: true}}
	})
}

// fileFirst makes the file that a command names the file of --config.
func fileFirst(set *pflag.FlagSet, args []string) ([]string, error) {
	words, flags := config.SplitArgs(set, args)
	if len(words) == 0 {
		return args, nil
	}
	given := strings.HasPrefix(strings.Join(flags, " ")+" ", "--config ") || strings.Contains(" "+strings.Join(flags, " "), " --config=")
	if given || len(words) > 1 {
		return nil, config.Mistakes{{Text: "give one file: FILE and --config mean the same", Usage: true}}
	}
	return append(flags, "--config="+words[0]), nil
}

func newConfigCheck(s Streams) *cobra.Command {
	set, _, flags := besideServing(func(*pflag.FlagSet) {})
	cmd := &cobra.Command{Use: "check [FILE]", Short: "say what is wrong with a configuration", SuggestFor: []string{"validate", "test", "verify", "lint"}}
	cmd.Annotations = map[string]string{takes: "file"}
	cmd.Flags().AddFlagSet(set)
	help := func() {
		printHelp(s, help{
			about: `Says what is wrong with a configuration, each mistake with its line, by the
same code that serving reads it with: what passes here is not refused there on
this machine. FILE is the file of --config; the program's flags can stand beside
it or instead of it, and its environment variables count. It asks nothing of
AWS: that the keys can be used, doctor says.`,
			usage:    []string{"config check [FILE] [flags]"},
			examples: []string{"config check /etc/aws-encryption-provider/config.yaml", "config check --key=alias/K8sKMSKey --region=us-west-2"},
			exits:    "0 it is taken, 2 it is refused, or wrong usage.",
			besides:  true,
		})
	}
	return parsed(cmd, help, func(_ context.Context, args []string) error {
		args, err := fileFirst(set, args)
		if err != nil {
			return err
		}
		cfg, err := parseFlags(cmd, s, flags, args)
		if err != nil {
			return err
		}
		warn(s, cfg.Warnings)
		keys := 0
		for _, p := range cfg.Providers {
			keys += len(p.Keys)
		}
		name, hash := "the configuration", ""
		if cfg.File != "" {
			name, hash = cfg.File, ", hash "+cfg.Hash
		}
		fmt.Fprintf(s.Out, "%s: ok: %s, %s%s\n", name, plural(len(cfg.Providers), "provider", "providers"), plural(keys, "key", "keys"), hash)
		return nil
	})
}

func newConfigShow(s Streams) *cobra.Command {
	var form string
	set, own, flags := besideServing(func(set *pflag.FlagSet) {
		set.StringVarP(&form, "output", "o", "text", "`FORM` of the output: text or json")
	})
	cmd := &cobra.Command{Use: "show [FILE]", Short: "show a configuration, and where each value comes from", SuggestFor: []string{"print", "view", "dump", "get"}}
	cmd.Annotations = map[string]string{takes: "file"}
	cmd.Flags().AddFlagSet(set)
	offer(set, "output", "text", "json")
	help := func() {
		printHelp(s, help{
			about: `Shows a configuration as it would be in force, a line for each value: its field
in the file, the value, and where it comes from: a flag, an environment
variable, a line of the file, the default, or another field. FILE is the file of
--config; the program's flags can stand beside it or instead of it. A secret
is shown as *****.`,
			usage: []string{"config show [FILE] [flags]"},
			examples: []string{
				"config show /etc/aws-encryption-provider/config.yaml",
				"config show -o=json --key=alias/K8sKMSKey",
			},
			exits: "0 done, 1 failed, 2 it would be refused, or wrong usage.",
			flags: own, besides: true,
		})
	}
	return parsed(cmd, help, func(_ context.Context, args []string) error {
		args, err := fileFirst(set, args)
		if err != nil {
			return err
		}
		cfg, err := parseFlags(cmd, s, flags, args)
		if err != nil {
			return err
		}
		if form != "text" && form != "json" {
			return config.Mistakes{{Field: "--output", Text: fmt.Sprintf("%.64q is neither text nor json", form), Usage: true}}
		}
		if err := showConfig(s, cfg, flags.Settings(), form); err != nil {
			return fmt.Errorf("printing the configuration: %w", err)
		}
		return nil
	})
}

// shownConfig is a configuration in force. Its JSON form is version 1: fields are
// added and never change their meaning.
type shownConfig struct {
	Version  int              `json:"version"`
	File     string           `json:"file,omitempty"`
	Hash     string           `json:"hash,omitempty"`
	Warnings []string         `json:"warnings"`
	Settings []config.Setting `json:"settings"`
}

func showConfig(s Streams, cfg *config.Config, settings []config.Setting, form string) error {
	if form == "json" {
		return report.JSON(s.Out, shownConfig{Version: 1, File: cfg.File, Hash: cfg.Hash, Warnings: append([]string{}, cfg.Warnings...), Settings: settings})
	}
	warn(s, cfg.Warnings)
	table := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	for _, one := range settings {
		fmt.Fprintf(table, "%s\t%s  (%s)\n", one.Field, shownValue(one), one.Origin)
	}
	return table.Flush()
}

// shownValue is a value as a line has it. What could be taken for something else, or
// would break the line, is quoted.
func shownValue(one config.Setting) string {
	switch v := one.Value.(type) {
	case nil:
		if one.Secret {
			return "*****"
		}
		return "-"
	case string:
		if quoted := fmt.Sprintf("%q", v); quoted != `"`+v+`"` || v == "-" || strings.ContainsAny(v, " ") {
			return quoted
		}
		return v
	case []uint32:
		return strings.ReplaceAll(strings.Trim(fmt.Sprint(v), "[]"), " ", ",")
	default:
		return fmt.Sprint(v)
	}
}
