// Package cli is the command line of kubectl kms: flags in, words out, a file for each
// command.
//
// Exit codes: 0 done, or yes to what was asked; 1 failed, or not all is known; 2 wrong
// usage or configuration; 3 no to what was asked; 124 waited in vain.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/snapshot"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/worklist"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// Exit codes.
const (
	Done   = 0
	Failed = 1
	Usage  = 2
	Found  = 3
	Vain   = 124
)

// The program is named so that kubectl finds it, and calls itself what people type.
const (
	programName   = "kubectl-kms"
	displayName   = "kubectl kms"
	completerName = "kubectl_complete-kms"
)

// Streams are what a command reads and writes, handed in by main and by tests.
type Streams struct {
	Out, Err  io.Writer
	LookupEnv func(string) (string, bool)
	// Where one is a terminal, sentences are broken for it, and a bar moves on Err.
	OutTerminal, ErrTerminal bool

	Version string // of the program; "": what its build info says
	Stores  Stores
}

// Stores make the readers of the places that are read.
type Stores struct {
	Etcd     func(etcd.Options) (store.Reader, error)
	Point    func(context.Context, etcd.Options, []string) (Point, error) // of an etcd, below prefixes
	Snapshot func(file string, o snapshot.Options) store.Reader
}

// A Point reads single keys of an etcd.
type Point interface {
	worklist.Getter
	Close()
}

// A usageError is a command line that cannot be meant.
type usageError struct {
	mistakes []string
	command  string // that has the flags
}

// Error returns all mistakes in one line.
func (e *usageError) Error() string { return strings.Join(e.mistakes, "; ") }

// usage gives a mistake the command whose help explains it.
func usage(cmd *cobra.Command, err error) error {
	if wrong, ok := errors.AsType[*usageError](err); ok {
		wrong.command = cmd.CommandPath()
	}
	return err
}

// An exitError ends a command that has said all there is to say.
type exitError int

// Error returns nothing that anybody reads.
func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs a command line, the program's name first, and returns the exit code.
func Main(ctx context.Context, args []string, s Streams) int {
	root := newRoot(s) //nolint:contextcheck // each command is run with ctx
	line := append([]string{}, args[1:]...)
	if strings.TrimSuffix(filepath.Base(args[0]), ".exe") == completerName { // kubectl runs it to complete its plugin
		line = append([]string{cobra.ShellCompRequestCmd}, line...)
	}
	if len(line) > 0 && strings.HasPrefix(line[0], cobra.ShellCompRequestCmd) {
		describe(root)
	}
	root.SetArgs(line)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	usage, wrongUsage := errors.AsType[*usageError](err)
	code, said := errors.AsType[exitError](err)
	switch {
	case err == nil:
		return Done
	case said:
		return int(code)
	case wrongUsage:
		for _, mistake := range usage.mistakes {
			s.complain(mistake)
		}
		fmt.Fprintf(s.Err, "Run '%s --help' for the flags.\n", usage.command)
		return Usage
	}
	s.complain(err.Error())
	return Failed
}

// complain says what went wrong.
func (s Streams) complain(text string) {
	text = displayName + ": " + text
	if s.ErrTerminal {
		text = report.Wrap(text, "  ")
	}
	fmt.Fprintln(s.Err, text)
}

func newRoot(s Streams) *cobra.Command {
	root := &cobra.Command{
		Use: programName, Short: "Say what etcd stores, and under which key",
		Long: `Says what a cluster's etcd stores and which key protects it, and which key its
API servers write under, for every KMS plugin and for aescbc, aesgcm,
secretbox and plaintext. Only migrate, and status --probe, change anything.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: displayName},
		SilenceErrors: true, SilenceUsage: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				text := fmt.Sprintf("unknown command %.64q", args[0])
				if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
					text += "; did you mean " + strings.Join(near, " or ") + "?"
				}
				return &usageError{[]string{text}, displayName}
			}
			return nil
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return refuseEmpty(cmd) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newStatus(s), newAudit(s), newVerify(s), newMigrate(s), newCompletion(s), newVersion(s))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{[]string{err.Error()}, cmd.CommandPath()}
	})
	root.SetHelpFunc(help)
	return root
}

// describe makes the words for flags short and plain, for the list that a shell shows.
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

// noArguments refuses words that are no flags.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &usageError{[]string{fmt.Sprintf("%s takes no arguments, got %.64q", cmd.Name(), args[0])}, cmd.CommandPath()}
}

// help prints what a terminal of 80 columns shows.
func help(cmd *cobra.Command, _ []string) {
	about := cmd.Long
	if about == "" {
		about = cmd.Short + "."
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s\n\nUsage:\n", about)
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(out, "  %s COMMAND [flags]\n\nCommands:\n", cmd.CommandPath())
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(out, "  %-12s%s\n", c.Name(), c.Short)
			}
		}
	} else {
		fmt.Fprintf(out, "  %s\n", cmd.UseLine())
	}
	if cmd.Example != "" {
		fmt.Fprintf(out, "\nExamples:\n%s\n", cmd.Example)
	}
	if flags := visible(cmd.LocalFlags()); flags.HasFlags() {
		fmt.Fprintf(out, "\nFlags:\n%s", flags.FlagUsagesWrapped(report.Columns))
	}
	if exits := cmd.Annotations["exits"]; exits != "" {
		fmt.Fprintf(out, "\nExit codes:\n%s\n", exits)
	}
}

func visible(set *pflag.FlagSet) *pflag.FlagSet {
	out := pflag.NewFlagSet("visible", pflag.ContinueOnError)
	out.SortFlags = false
	set.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			out.AddFlag(f)
		}
	})
	return out
}
