package report

import (
	"io"
	"strings"
)

// A Printer prints a report piece by piece. The first error ends the printing, and
// [Printer.Err] returns it, so that no piece has to be checked.
type Printer struct {
	W    io.Writer
	Wrap bool // break sentences for a terminal; else each is a line

	err error
}

// Err returns the first error of the writer.
func (p *Printer) Err() error { return p.err }

// Print prints a text as it is.
func (p *Printer) Print(text string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.W, text)
	}
}

// Sentence prints a line, which may be longer than one of a terminal.
func (p *Printer) Sentence(text string) {
	if p.Wrap {
		text = Wrap(text, "  ")
	}
	p.Print(text + "\n")
}

// Indented prints a sentence whose first line begins with blanks, and whose others
// begin with those of rest.
func (p *Printer) Indented(first, rest, text string) {
	if p.Wrap {
		blanks := strings.Repeat("_", len(first)-1) // a word for Wrap to count
		text = strings.TrimPrefix(Wrap(blanks+" "+text, rest), blanks+" ")
	}
	p.Print(first + text + "\n")
}

// Table prints a table.
func (p *Printer) Table(t Table) {
	p.Print(t.text())
}
