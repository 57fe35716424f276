package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// helpWidth is how long a line of a help is at most: a terminal of the usual width
// shows it unbroken.
const helpWidth = 80

// help is what --help of a command says, in this order, its examples and exit codes
// after the sections.
type help struct {
	about    string   // lines of at most helpWidth, without a line break at the end
	usage    []string // command lines without the program's name
	sections []section
	examples []string       // command lines without the program's name
	exits    string         // lines, as about
	flags    *pflag.FlagSet // the command's own; nil: none
	besides  bool           // it takes those of serving too
}

// A section is a title and indented lines, each with its line break.
type section struct{ title, text string }

func printHelp(s Streams, h help) {
	fmt.Fprintf(s.Out, "%s\n\nUsage:\n%s", h.about, commandLines(h.usage))
	for _, one := range h.sections {
		fmt.Fprintf(s.Out, "\n%s:\n%s", one.title, one.text)
	}
	fmt.Fprintf(s.Out, "\nExamples:\n%s", commandLines(h.examples))
	if h.exits != "" {
		fmt.Fprintf(s.Out, "\nExit codes: %s\n", h.exits)
	}
	title := "Flags"
	if h.besides {
		title = fmt.Sprintf("Flags, besides those of '%s --help'", programName)
	}
	if h.flags != nil && h.flags.HasAvailableFlags() {
		fmt.Fprintf(s.Out, "\n%s:\n%s", title, h.flags.FlagUsagesWrapped(helpWidth))
	}
}

func commandLines(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "  %s %s\n", programName, line)
	}
	return b.String()
}
