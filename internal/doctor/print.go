package doctor

import (
	"fmt"
	"io"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
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
	switch o.Form {
	case "json":
		return report.JSON(w, r)
	case "short":
		return r.checklist().PrintShort(w, o.Color)
	}
	return r.checklist().Print(w, o.Color)
}

func (r *Report) checklist() report.Checklist {
	list := report.Checklist{Mark: r.worst().mark(), Sum: r.sum()}
	for _, g := range r.Groups {
		group := report.Group{Title: g.Title}
		for _, c := range g.Checks {
			group.Checks = append(group.Checks, report.Check{
				Mark: c.Status.mark(), Text: c.Text, Code: c.Code, Cause: c.Cause, Next: c.Next, On: c.readOn(),
			})
		}
		list.Groups = append(list.Groups, group)
	}
	return list
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

func (s Status) mark() report.Mark {
	switch s {
	case OK:
		return report.Good
	case Warning:
		return report.Doubt
	case Failure:
		return report.Bad
	case Skipped:
	}
	return report.Open
}
