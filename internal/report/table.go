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

// Excess returns how many lines the table has beyond one for each row, and how many of
// all are wider than [Columns]: where a cell is, nothing can be done.
func (t Table) Excess() (lines, wide int) {
	text := t.text()
	for line := range strings.Lines(text) {
		if len(strings.TrimSuffix(line, "\n")) > Columns {
			wide++
		}
	}
	return strings.Count(text, "\n") - len(t.Rows) - 1, wide
}

// Print writes the table in no more than [Columns]. Where it is wider, columns are made
// narrower, so that as few rows as possible are broken: a cell that does not fit ends
// its line, and the row goes on below.
func (t Table) Print(w io.Writer) error {
	_, err := io.WriteString(w, t.text())
	return err
}

func (t Table) text() string {
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
	return b.String()
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

func broken(row []string, widths []int) bool {
	for i, cell := range row {
		if len(cell) > widths[i] {
			return true
		}
	}
	return false
}

// narrow makes columns of text narrower until the table fits, each time that which
// breaks the least for what it saves.
func (t Table) narrow(widths []int) {
	for excess := total(widths) - Columns; excess > 0; excess = total(widths) - Columns {
		best, least, cheapest := -1, 0, 0.0
		for i, c := range t.Columns {
			next := t.next(i, widths[i])
			if c.Right || next >= widths[i] {
				continue
			}
			next = max(next, widths[i]-excess)
			cost := float64(t.breaks(i, next, widths)) / float64(widths[i]-next)
			if best < 0 || cost < cheapest {
				best, least, cheapest = i, next, cost
			}
		}
		if best < 0 {
			return
		}
		widths[best] = least
	}
}

// next is the width at which the cells fit that are not the widest of a column.
func (t Table) next(column, width int) int {
	next := len(t.Columns[column].Name)
	for _, row := range t.Rows {
		if n := len(row[column]); n < width {
			next = max(next, n)
		}
	}
	return next
}

// breaks counts the cells of the rows that a narrower column breaks and that are whole
// so far: a row that says much is worth more than one that says little.
func (t Table) breaks(column, width int, widths []int) int {
	n := 0
	for _, row := range t.Rows {
		if len(row[column]) <= width || broken(row, widths) {
			continue
		}
		for _, cell := range row {
			if cell != "" {
				n++
			}
		}
	}
	return n
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
		if at > 0 && at+gap > begin {
			b.WriteByte('\n')
			at = 0
		}
		b.WriteString(strings.Repeat(" ", begin-at) + cell)
		at = begin + len(cell)
	}
	b.WriteByte('\n')
}
