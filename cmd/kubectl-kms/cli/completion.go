package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newCompletion(s Streams) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print what makes a shell complete " + programName,
		Long: `Prints the script that makes bash, zsh or fish complete commands, flags, their
values and files of kubectl-kms. For "kubectl kms", kubectl runs
kubectl_complete-kms: link it to kubectl-kms in a directory of PATH.`,
		Example: `  kubectl-kms completion bash >/usr/share/bash-completion/completions/kubectl-kms
  kubectl-kms completion zsh >"${fpath[1]}/_kubectl-kms"
  kubectl-kms completion fish >~/.config/fish/completions/kubectl-kms.fish
  ln -s kubectl-kms /usr/local/bin/kubectl_complete-kms`,
		ValidArgs: shells, DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return &usageError{[]string{"say which shell, and nothing else: " + strings.Join(shells, ", ")}, cmd.CommandPath()}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			// Scripts are of the program: of two words the shell looks for the first.
			root := cmd.Root()
			root.Annotations = nil
			write := map[string]func(io.Writer) error{
				"bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
				"zsh":  root.GenZshCompletion,
				"fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
			}[args[0]]
			if err := write(s.Out); err != nil {
				return fmt.Errorf("printing the script: %w", err)
			}
			return nil
		},
	}
}

// offer says what a shell completes for a flag. A flag without an offer takes a file.
func offer(cmd *cobra.Command, flag string, values ...string) {
	directive := cobra.ShellCompDirectiveNoFileComp
	if slices.ContainsFunc(values, func(v string) bool { return strings.HasSuffix(v, ":") }) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, directive))
	if err != nil {
		panic(err) // the command has no such flag
	}
}
