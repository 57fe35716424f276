package report

import (
	"fmt"
	"io"
	"strings"
)

// A Mark is how one check ended, as a symbol before its line.
type Mark int

// Marks, from good to bad.
const (
	Open  Mark = iota // nobody looked
	Good              // all is well
	Doubt             // it works, and somebody should look at it
	Bad               // it does not work
)

// A Checklist is groups of checks and what they come to.
type Checklist struct {
	Groups []Group
	Mark   Mark
	Sum    string // such as "nothing is wrong"
}

// A Group is the checks of one thing.
type Group struct {
	Title  string
	Checks []Check
}

// A Check is one line. Where Code is not "", why, what to do and where to read on
// follow below it.
type Check struct {
	Mark            Mark
	Text            string
	Code            string
	Cause, Next, On string
}

// Print writes all checks, group by group.
func (c Checklist) Print(w io.Writer, color bool) error {
	var b strings.Builder
	for _, g := range c.Groups {
		fmt.Fprintf(&b, "%s\n%s\n", g.Title, strings.Repeat("-", len(g.Title)))
		for _, one := range g.Checks {
			fmt.Fprintf(&b, "%s %s\n", one.Mark.symbol(color), one.Text)
			if one.Code != "" {
				fmt.Fprintf(&b, "    %s: %s\n    do: %s\n    see %s\n", one.Code, one.Cause, one.Next, one.On)
			}
		}
		b.WriteString("\n")
	}
	return c.end(w, &b, color)
}

// PrintShort writes what has a code, a line each.
func (c Checklist) PrintShort(w io.Writer, color bool) error {
	var b strings.Builder
	for _, g := range c.Groups {
		for _, one := range g.Checks {
			if one.Code != "" {
				fmt.Fprintf(&b, "%s %s %s: %s; %s\n", one.Mark.symbol(color), one.Code, one.Text, one.Cause, one.Next)
			}
		}
	}
	return c.end(w, &b, color)
}

func (c Checklist) end(w io.Writer, b *strings.Builder, color bool) error {
	fmt.Fprintf(b, "%s %s\n", c.Mark.symbol(color), c.Sum)
	_, err := io.WriteString(w, b.String())
	return err
}

func (m Mark) symbol(color bool) string {
	symbol, code := "-", ""
	switch m {
	case Good:
		symbol, code = "√", "32"
	case Doubt:
		symbol, code = "‼", "33"
	case Bad:
		symbol, code = "×", "31"
	case Open:
		return symbol
	}
	if !color {
		return symbol
	}
	return "\x1b[" + code + "m" + symbol + "\x1b[0m"
}
