package report

import (
	"io"
	"strings"
)

// A Column of a table.
type Column struct {
	Name  string
	Right bool // numbers stand at the right
}

// A Table is printed as kubectl prints one. A column that is empty in every row is
// left out.
type Table struct {
	Columns []Column
	Rows    [][]string // as many cells each as there are columns
}

const gap = 2 // columns of blanks between two of the table

// Width returns how wide the table is by itself.
func (t Table) Width() int {
	return total(t.used().widths())
}

// Print writes the table in no more than [Columns]. Where it is wider, its widest
// columns are made narrower: a cell that does not fit ends its line, and the row goes
// on below.
func (t Table) Print(w io.Writer) error {
	t = t.used()
	widths := t.widths()
	t.narrow(widths)
	var b strings.Builder
	head := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		head[i] = c.Name
	}
	t.line(&b, head, widths)
	for _, row := range t.Rows {
		t.line(&b, row, widths)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// used leaves out the columns without a cell.
func (t Table) used() Table {
	var u Table
	u.Rows = make([][]string, len(t.Rows))
	for i, c := range t.Columns {
		empty := true
		for _, row := range t.Rows {
			empty = empty && row[i] == ""
		}
		if empty {
			continue
		}
		u.Columns = append(u.Columns, c)
		for j, row := range t.Rows {
			u.Rows[j] = append(u.Rows[j], row[i])
		}
	}
	return u
}

func (t Table) widths() []int {
	widths := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		widths[i] = len(c.Name)
		for _, row := range t.Rows {
			widths[i] = max(widths[i], len(row[i]))
		}
	}
	return widths
}

func total(widths []int) int {
	n := 0
	for _, w := range widths {
		n += w + gap
	}
	return max(n-gap, 0)
}

// narrow takes from the widest column until the table fits, or no column of text is
// wider than its least.
func (t Table) narrow(widths []int) {
	const least = 10
	for total(widths) > Columns {
		widest := -1
		for i, c := range t.Columns {
			if !c.Right && widths[i] > max(least, len(c.Name)) && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

func (t Table) line(b *strings.Builder, row []string, widths []int) {
	at, column := 0, 0 // where the line ends, and where the next cell begins
	for i, cell := range row {
		begin := column
		if t.Columns[i].Right {
			begin += max(widths[i]-len(cell), 0)
		}
		column += widths[i] + gap
		if cell == "" {
			continue
		}
		if at > 0 && at+1 > begin {
			b.WriteByte('\n')
			at = 0
		}
		b.WriteString(strings.Repeat(" ", begin-at) + cell)
		at = begin + len(cell)
	}
	b.WriteByte('\n')
}
