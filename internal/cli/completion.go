package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// shells are those that completion knows, and what writes the script of each.
func shells() []struct {
	name  string
	write func(*cobra.Command, io.Writer) error
} {
	return []struct {
		name  string
		write func(*cobra.Command, io.Writer) error
	}{
		{"bash", func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) }},
		{"zsh", func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) }},
		{"fish", func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) }},
	}
}

func newCompletion(s Streams) *cobra.Command {
	var names []string
	for _, shell := range shells() {
		names = append(names, shell.name)
	}
	cmd := &cobra.Command{Use: "completion SHELL", Short: "print what makes a shell complete commands and flags", ValidArgs: names}
	help := func() {
		printHelp(s, help{
			about: `Prints the script that makes a shell complete this program's commands, flags,
their values and files. The shell has to be one of ` + strings.Join(names, ", ") + `.`,
			usage: []string{"completion SHELL"},
			sections: []section{{"To install it", `  bash, with the package bash-completion:
    aws-encryption-provider completion bash \
      >/usr/share/bash-completion/completions/aws-encryption-provider
  zsh, before compinit runs:
    aws-encryption-provider completion zsh \
      >"${fpath[1]}/_aws-encryption-provider"
  fish:
    aws-encryption-provider completion fish \
      >~/.config/fish/completions/aws-encryption-provider.fish
`}},
			examples: []string{"completion bash", "completion zsh", "completion fish"},
			exits:    "0 done, 1 failed, 2 wrong usage.",
		})
	}
	return parsed(cmd, help, func(_ context.Context, args []string) error {
		words, err := wordsAlone(args)
		if err != nil {
			return err
		}
		if len(words) != 1 {
			return config.Mistakes{{Text: "say which shell, and nothing else: " + strings.Join(names, ", "), Usage: true}}
		}
		i := slices.Index(names, words[0])
		if i < 0 {
			text := unknown(fmt.Sprintf("shell %.64q", words[0]), words[0], names)
			return config.Mistakes{{Text: text, Usage: true}}
		}
		if err := shells()[i].write(cmd.Root(), s.Out); err != nil {
			return fmt.Errorf("printing the script: %w", err)
		}
		return nil
	})
}

// offer names the values of a flag for the completion of shells.
func offer(set *pflag.FlagSet, flag string, values ...string) {
	set.Lookup(flag).Annotations = map[string][]string{valuesOf: values}
}

// offerServing names those of the flags of serving.
func offerServing(set *pflag.FlagSet) {
	offer(set, "log-level", config.LogLevels()...)
	offer(set, "log-format", config.LogFormats()...)
}

// describe makes the words for flags short and plain, for the list that a shell
// shows. The command line is not run then.
func describe(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		_, usage := pflag.UnquoteUsage(f)
		usage, _, _ = strings.Cut(usage, "; ")
		f.Usage, _, _ = strings.Cut(usage, ": ")
	})
	for _, c := range cmd.Commands() {
		describe(c)
	}
}

// Annotations of flags, for the completion of shells.
const (
	valuesOf = "values"
	takes    = "takes"
)

// completing makes a command and those below it complete what cobra leaves to them:
// they read their flags themselves.
func completing(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil {
		words := cmd.ValidArgs
		cmd.ValidArgs = nil
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return complete(cmd, words, args, toComplete)
		}
	}
	for _, c := range cmd.Commands() {
		completing(c)
	}
}

// complete offers the values of the flag that the line ends in, flags with one dash,
// or words of the command.
func complete(cmd *cobra.Command, words, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if name, begun, ok := strings.Cut(toComplete, "="); ok && strings.HasPrefix(name, "-") {
		return valuesFor(cmd, name, begun)
	}
	if strings.HasPrefix(toComplete, "-") {
		return oneDash(cmd, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) > 0 && strings.HasPrefix(args[len(args)-1], "-") && !strings.Contains(args[len(args)-1], "=") {
		flag := flagNamed(cmd, args[len(args)-1])
		if flag != nil && flag.NoOptDefVal == "" {
			return valuesFor(cmd, args[len(args)-1], toComplete)
		}
	}
	before, _ := config.SplitArgs(cmd.Flags(), args)
	if len(before) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if cmd.Annotations[takes] == "file" {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return beginning(words, toComplete), cobra.ShellCompDirectiveNoFileComp
}

// oneDash offers the flags as the predecessor's users write them. Those with two
// dashes cobra offers.
func oneDash(cmd *cobra.Command, toComplete string) []string {
	if strings.HasPrefix(toComplete, "--") || len(toComplete) == 1 {
		return nil
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, cobra.CompletionWithDesc("-"+f.Name, f.Usage))
		}
	})
	return beginning(names, toComplete)
}

func beginning(words []string, with string) []string {
	var out []string
	for _, word := range words {
		if strings.HasPrefix(word, with) {
			out = append(out, word)
		}
	}
	return out
}

func flagNamed(cmd *cobra.Command, dashed string) *pflag.Flag {
	name := strings.TrimLeft(dashed, "-")
	if flag := cmd.Flags().Lookup(name); flag != nil || len(name) != 1 {
		return flag
	}
	return cmd.Flags().ShorthandLookup(name)
}

// valuesFor offers the values of a flag: those that it is limited to, or files.
func valuesFor(cmd *cobra.Command, dashed, begun string) ([]string, cobra.ShellCompDirective) {
	flag := flagNamed(cmd, dashed)
	switch {
	case flag == nil:
		return nil, cobra.ShellCompDirectiveNoFileComp
	case len(flag.Annotations[valuesOf]) > 0:
		return beginning(flag.Annotations[valuesOf], begun), cobra.ShellCompDirectiveNoFileComp
	}
	switch flag.Name {
	case "config", "encryption-config", "listen", "mount", "program", "from", "socket":
		return nil, cobra.ShellCompDirectiveDefault
	case "dir", "out":
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
