package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// PrintOptions say how a report is shown.
type PrintOptions struct {
	Form  string // table, short or json
	Color bool
}

// Forms are those of [Report.Print].
func Forms() []string { return []string{"table", "short", "json"} }

// Print writes the report.
func (r *Report) Print(w io.Writer, o PrintOptions) error {
	if o.Form == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(r)
	}
	var b strings.Builder
	if o.Form == "short" {
		r.short(&b, o.Color)
	} else {
		r.table(&b, o.Color)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) table(b *strings.Builder, color bool) {
	for _, g := range r.Groups {
		fmt.Fprintf(b, "%s\n%s\n", g.Title, strings.Repeat("-", len(g.Title)))
		for _, c := range g.Checks {
			fmt.Fprintf(b, "%s %s\n", c.Status.symbol(color), c.Text)
			if c.Code != "" {
				fmt.Fprintf(b, "    %s: %s\n    do: %s\n    see %s\n", c.Code, c.Cause, c.Next, c.readOn())
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(b, "%s %s\n", r.worst().symbol(color), r.sum())
}

// short is what is wrong, a line each.
func (r *Report) short(b *strings.Builder, color bool) {
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			if c.Code != "" {
				fmt.Fprintf(b, "%s %s %s: %s; %s\n", c.Status.symbol(color), c.Code, c.Text, c.Cause, c.Next)
			}
		}
	}
	fmt.Fprintf(b, "%s %s\n", r.worst().symbol(color), r.sum())
}

func (r *Report) worst() Status {
	switch {
	case r.Failures > 0:
		return Failure
	case r.Warnings > 0:
		return Warning
	}
	return OK
}

func (r *Report) sum() string {
	if r.Failures == 0 && r.Warnings == 0 {
		return "nothing is wrong"
	}
	return fmt.Sprintf("failures: %d, warnings: %d", r.Failures, r.Warnings)
}

func (s Status) symbol(color bool) string {
	symbol, code := "-", ""
	switch s {
	case OK:
		symbol, code = "√", "32"
	case Warning:
		symbol, code = "‼", "33"
	case Failure:
		symbol, code = "×", "31"
	case Skipped:
		return symbol
	}
	if !color {
		return symbol
	}
	return "\x1b[" + code + "m" + symbol + "\x1b[0m"
}
