package report

import (
	"fmt"
	"io"
	"strings"
)

// Pairs are lines of a name and a value, the values below each other.
type Pairs struct {
	width int
	text  strings.Builder
}

// NewPairs returns an empty list whose names take width columns.
func NewPairs(width int) *Pairs { return &Pairs{width: width} }

// Add adds a line, unless the value is "". A line without a name goes on with the one
// before.
func (p *Pairs) Add(name, value string) {
	if value != "" {
		fmt.Fprintf(&p.text, "%-*s %s\n", p.width, name, value)
	}
}

// Print writes all lines.
func (p *Pairs) Print(w io.Writer) error {
	_, err := io.WriteString(w, p.text.String())
	return err
}
