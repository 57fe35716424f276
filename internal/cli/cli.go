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

// Errors that end a command which has said all there is to say.
var (
	errFound   = errors.New("found problems") // it did its work, and found something
	errTimeUp  = errors.New("time is up")     // it waited in vain
	errRefused = errors.New("the configuration is refused")
)

// Streams are what a command reads and writes, and what the build knows, handed in by
// main and by tests.
type Streams struct {
	Out, Err  io.Writer
	LookupEnv func(string) (string, bool)
	Environ   func() []string // each as NAME=value; nil: nobody looks for variables that set nothing
	Signals   <-chan os.Signal
	Sockets   []*os.File // that listen already, from a service manager
	DocsURL   string     // where this build's docs are published; "": nowhere
}

// Main runs a command line without the program's name, and returns the exit
// code.
func Main(ctx context.Context, args []string, s Streams) int {
	root := newRoot(s) //nolint:contextcheck // each command is run with ctx
	// Where a flag has one dash, cobra would take its value for a command.
	flags, rest := config.LeadingFlags(root.Flags(), args)
	args = append(append([]string{}, flags...), rest...) // never nil, which cobra takes for the process's own
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		describe(root)
	}
	root.SetArgs(args)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	errs := newLineWriter(s.Err, func(int64) {}) // the end must not wait for a reader either
	defer errs.Close()
	mistakes, wrongUsage := errors.AsType[config.Mistakes](err)
	unknown, noCommand := errors.AsType[*unknownCommandError](err)
	switch {
	case err == nil:
		return Done
	case errors.Is(err, errTimeUp):
		return TimeUp
	case errors.Is(err, errFound):
		return Found
	case errors.Is(err, errRefused):
		return Usage
	case noCommand:
		fmt.Fprintf(errs, "%s: %v\nRun '%s --help' for the commands.\n", programName, unknown, unknown.parent.CommandPath())
		return Usage
	case wrongUsage:
		printMistakes(errs, mistakes.Certain(), called(root, args))
		return Usage
	}
	fmt.Fprintf(errs, "%s: %v\n", programName, err)
	return Failed
}

func printMistakes(w io.Writer, mistakes config.Mistakes, cmd *cobra.Command) {
	fmt.Fprintf(w, "%s: %s\n", programName, counted(mistakes))
	for _, m := range mistakes {
		fmt.Fprintf(w, "  %s\n", m)
	}
	more := "to see how it is used"
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" { // which cobra gives to all
			more = "for the flags"
		}
	})
	fmt.Fprintf(w, "Run '%s --help' %s.\n", cmd.CommandPath(), more)
}

// counted says how many mistakes there are, and in what: a flag stands on the command
// line, a line in a file and a variable in the environment.
func counted(mistakes config.Mistakes) string {
	in := "the command line"
	for _, m := range mistakes {
		if ofLine := m.Usage || strings.HasPrefix(m.Field, "--"); !ofLine || strings.HasPrefix(m.Field, config.EnvPrefix) {
			in = "the configuration"
		}
	}
	return plural(len(mistakes), "mistake in "+in, "mistakes in "+in)
}

const programName = "aws-encryption-provider"

func newRoot(s Streams) *cobra.Command {
	commands := []*cobra.Command{
		newStatus(s), newDoctor(s), newExplain(s), newConfig(s), newGenerate(s), newPolicy(s), newDev(s), newVersion(s), newCompletion(s),
	}
	root, serve := newServe(s, commands), newServe(s, commands)
	root.Use, serve.Use = programName, "serve"
	serve.SuggestFor = []string{"run", "start"}
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(serve)
	root.AddCommand(commands...)
	root.SetHelpCommand(newHelp(root))
	serveFlags := root.RunE
	root.RunE = func(cmd *cobra.Command, args []string) error {
		words, _ := config.SplitArgs(cmd.Flags(), args)
		if len(words) > 0 && (words[0] == args[0] || len(suggestions(root, words[0])) > 0) {
			return unknownCommand(root, words[0])
		}
		return serveFlags(cmd, args)
	}
	completing(root)
	return root
}

// newHelp makes "help dev" what "dev --help" is.
func newHelp(root *cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: "help [COMMAND]", Short: "print what --help of a command prints", DisableFlagParsing: true}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		about := root
		for _, name := range args {
			if strings.HasPrefix(name, "-") || name == cmd.Name() {
				continue
			}
			next := command(about, name)
			if next == nil {
				return unknownCommand(about, name)
			}
			about = next
		}
		return about.RunE(about, []string{"--help"})
	}
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		about := root
		for _, name := range args {
			if about = command(about, name); about == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
		}
		var names []string
		for _, c := range about.Commands() {
			if c.IsAvailableCommand() && strings.HasPrefix(c.Name(), toComplete) {
				names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// command returns a command's own one of that name, nil where there is none.
func command(parent *cobra.Command, name string) *cobra.Command {
	i := slices.IndexFunc(parent.Commands(), func(c *cobra.Command) bool { return c.Name() == name && name != "help" })
	if i < 0 {
		return nil
	}
	return parent.Commands()[i]
}

// unknown says that a name is none of those that there are: which of them was meant, or
// else what there is. Of a few names all are told: the nearest one is easily another's.
func unknown(what, name string, names []string) string {
	const few = 3
	if near := config.Nearest(name, names); near != "" && len(names) > few {
		return "unknown " + what + "; did you mean " + near + "?"
	}
	return "unknown " + what + ": there are " + listed(names)
}

// listed is a list as a sentence has it: a, b and c.
func listed(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// An unknownCommandError is a word that stands where a command has to.
type unknownCommandError struct {
	parent *cobra.Command
	name   string
}

func unknownCommand(parent *cobra.Command, name string) error {
	return &unknownCommandError{parent: parent, name: name}
}

// Error names the commands that may have been meant.
func (e *unknownCommandError) Error() string {
	text := fmt.Sprintf("unknown command %.32q", e.name)
	switch near := suggestions(e.parent, e.name); len(near) {
	case 0:
		if len(available(e.parent)) == 0 {
			return text + ": " + strings.TrimPrefix(e.parent.CommandPath(), programName+" ") + " has no commands of its own"
		}
		text += "; there are\n" + strings.TrimSuffix(wrapped(listed(available(e.parent)), "  "), "\n")
	case 1:
		text += "; did you mean " + near[0] + "?"
	default:
		text += "; did you mean one of these?\n  " + strings.Join(near, ", ")
	}
	return text
}

// suggestions are the commands that a word may stand for, each with its parents: those
// that begin with it, or else those that a typo or another word leads to; where there
// are none, those of the commands below.
func suggestions(parent *cobra.Command, name string) []string {
	found := meantOf(parent, name)
	if len(found) > 0 {
		return found
	}
	for _, c := range parent.Commands() {
		found = append(found, meantOf(c, name)...)
	}
	return found
}

func meantOf(parent *cobra.Command, name string) []string {
	name = strings.ToLower(name)
	var begin, near []string
	nearest := config.Nearest(name, available(parent))
	for _, c := range parent.Commands() {
		path := strings.TrimPrefix(c.CommandPath(), programName+" ")
		if name != "" && strings.HasPrefix(c.Name(), name) {
			begin = append(begin, path)
		}
		if c.Name() == nearest || slices.Contains(c.SuggestFor, name) {
			near = append(near, path)
		}
	}
	if len(begin) > 0 {
		return begin
	}
	return near
}

// available names the commands of one.
func available(parent *cobra.Command) []string {
	var names []string
	for _, c := range parent.Commands() {
		names = append(names, c.Name())
	}
	return names
}

// called is the command that a command line names, for a hint at its help.
func called(root *cobra.Command, args []string) *cobra.Command {
	found, _, err := root.Find(args)
	if err != nil || found.Name() == "serve" {
		return root
	}
	return found
}

// parseFlags reads the configuration of a command line as serving does, and refuses
// variables that set nothing. The error is [pflag.ErrHelp] or [config.Mistakes].
func parseFlags(cmd *cobra.Command, s Streams, flags *config.Flags, args []string) (*config.Config, error) {
	cfg, err := flags.Parse(args, s.LookupEnv)
	if s.Environ == nil || errors.Is(err, pflag.ErrHelp) {
		return cfg, err
	}
	strays := config.StrayVariables(s.Environ(), everyFlag(cmd.Root()))
	if len(strays) == 0 {
		return cfg, err
	}
	mistakes, _ := errors.AsType[config.Mistakes](err)
	return nil, append(mistakes, strays...)
}

// everyFlag names the flags of all commands: what is meant for one of them may stand
// in the environment of another.
func everyFlag(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	for _, c := range cmd.Commands() {
		names = append(names, everyFlag(c)...)
	}
	return names
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

// wordsAlone returns the words of a command that has no flags. A flag is a mistake.
func wordsAlone(args []string) ([]string, error) {
	none := pflag.NewFlagSet("none", pflag.ContinueOnError)
	words, flags := config.SplitArgs(none, args)
	return words, config.ParseArgs(none, flags)
}

// warn prints warnings, a line for each.
func warn(s Streams, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(s.Err, "%s: %s\n", programName, w)
	}
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
	offerServing(all)
	return all, own, flags
}
