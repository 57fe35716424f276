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
	switch own := h.flags != nil; {
	case own && h.besides:
		fmt.Fprintf(s.Out, "\nFlags, besides those of '%s --help':\n%s", programName, flagUsages(h.flags))
	case own:
		fmt.Fprintf(s.Out, "\nFlags:\n%s", flagUsages(h.flags))
	case h.besides:
		fmt.Fprintf(s.Out, "\nFlags: those of '%s --help'.\n", programName)
	}
}

// flagUsages has a line for each flag, and its meaning below: beside it the meaning
// would have half a line.
func flagUsages(set *pflag.FlagSet) string {
	var b strings.Builder
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		one := pflag.NewFlagSet(f.Name, pflag.ContinueOnError)
		one.AddFlag(f)
		const between = "   " // what pflag puts before the meaning
		usage := strings.TrimRight(one.FlagUsages(), "\n")
		at := strings.LastIndex(usage[:strings.Index(usage, "--")], " ") + 1 // behind the indentation
		head, meaning, _ := strings.Cut(usage[at:], between)
		fmt.Fprintf(&b, "%s%s\n%s", usage[:at], head, wrapped(meaning, "          "))
	})
	return b.String()
}

// wrapped breaks a text into lines of helpWidth.
func wrapped(text, indent string) string {
	var b strings.Builder
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(indent)+len(line)+1+len(word) > helpWidth {
			b.WriteString(indent + line + "\n")
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return b.String() + indent + line + "\n"
}

func commandLines(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "  %s %s\n", programName, line)
	}
	return b.String()
}
