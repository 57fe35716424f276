// Package cli is the command line: flags in, words out, one file for each
// command. It decides nothing that another room could.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 found what a
// check was asked to look for, 124 waited in vain.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// Exit codes.
const (
	Done   = 0
	Failed = 1
	Usage  = 2
	Found  = 3
	TimeUp = 124 // as of timeout(1)
)

// Streams are what a command reads and writes, and what the build knows, handed in by
// main and by tests.
type Streams struct {
	Out, Err  io.Writer
	LookupEnv func(string) (string, bool)
	Signals   <-chan os.Signal
	Sockets   []*os.File // that listen already, from a service manager
	DocsURL   string     // where this build's docs are published; "": nowhere
}

// Main runs a command line without the program's name, and returns the exit
// code.
func Main(ctx context.Context, args []string, s Streams) int {
	root := newRoot(s) //nolint:contextcheck // each command is run with ctx
	root.SetArgs(args)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	errs := newLineWriter(s.Err, func(int64) {}) // the end must not wait for a reader either
	defer errs.Close()
	mistakes, wrongUsage := errors.AsType[config.Mistakes](err)
	switch {
	case err == nil:
		return Done
	case errors.Is(err, errTimeUp):
		return TimeUp
	case errors.Is(err, errFound):
		return Found
	case wrongUsage:
		fmt.Fprintf(errs, "%s: %s\n", programName, plural(len(mistakes), "mistake in the configuration", "mistakes in the configuration"))
		for _, m := range mistakes {
			fmt.Fprintf(errs, "  %s\n", m)
		}
		fmt.Fprintf(errs, "Run '%s --help' for the flags.\n", called(root, args))
		return Usage
	}
	fmt.Fprintf(errs, "%s: %v\n", programName, err)
	return Failed
}

const programName = "aws-encryption-provider"

func newRoot(s Streams) *cobra.Command {
	commands := []*cobra.Command{newStatus(s), newDoctor(s), newExplain(s), newGenerate(s), newPolicy(s), newDev(s), newVersion(s)}
	root, serve := newServe(s, commands), newServe(s, commands)
	root.Use, serve.Use = programName, "serve"
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(serve)
	root.AddCommand(commands...)
	root.SetHelpCommand(newHelp(root))
	serveFlags := root.RunE
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 || strings.HasPrefix(args[0], "-") {
			return serveFlags(cmd, args)
		}
		return noCommand(root, args[0])
	}
	return root
}

// newHelp makes "help dev" what "dev --help" is.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "help", DisableFlagParsing: true, RunE: func(_ *cobra.Command, args []string) error {
		about := root
		for _, name := range args {
			if about = command(root, name); about == nil {
				return noCommand(root, name)
			}
		}
		return about.RunE(about, []string{"--help"})
	}}
}

// command returns root's command of that name, nil where there is none.
func command(root *cobra.Command, name string) *cobra.Command {
	i := slices.IndexFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == name && name != "help" })
	if i < 0 {
		return nil
	}
	return root.Commands()[i]
}

func noCommand(root *cobra.Command, name string) error {
	var names []string
	for _, c := range root.Commands() {
		if c.Name() != "help" {
			names = append(names, c.Name())
		}
	}
	return config.Mistakes{{Text: fmt.Sprintf("there is no command %.64q: want %s or help", name, strings.Join(names, ", "))}}
}

// called is the command that a command line names, for a hint at its help.
func called(root *cobra.Command, args []string) string {
	if len(args) > 0 {
		if c := command(root, args[0]); c != nil && c.Name() != "serve" {
			return root.Name() + " " + c.Name()
		}
	}
	return root.Name()
}

// parsed makes a command whose flags are read by config's own rules: one dash
// as well as two, all mistakes at once.
func parsed(cmd *cobra.Command, help func(), run func(ctx context.Context, args []string) error) *cobra.Command {
	cmd.DisableFlagParsing = true
	cmd.Args = cobra.ArbitraryArgs
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd.Context(), args)
		if errors.Is(err, pflag.ErrHelp) {
			help()
			return nil
		}
		return err
	}
	return cmd
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// besideServing returns the flags of a command that takes those of serving too:
// all, the command's own, and what reads a configuration from them.
func besideServing(define func(*pflag.FlagSet)) (all, own *pflag.FlagSet, flags *config.Flags) {
	all, own = pflag.NewFlagSet("all", pflag.ContinueOnError), pflag.NewFlagSet("own", pflag.ContinueOnError)
	all.SortFlags, own.SortFlags = false, false
	flags = config.NewFlags(all)
	define(own)
	all.AddFlagSet(own)
	return all, own, flags
}
