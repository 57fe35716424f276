package rewrite

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// Forms are those of [Report.Print].
func Forms() []string { return []string{"table", "json", "yaml"} }

// PrintOptions say how a report is shown.
type PrintOptions struct {
	Form string // one of [Forms]
	Wrap bool   // break sentences for a terminal; else each is a line
	All  bool   // list every object, and not only the first of each kind
}

// Print writes the report. The sentence that it comes to is last.
func (r *Report) Print(w io.Writer, o PrintOptions) error {
	switch o.Form {
	case "json":
		return report.JSON(w, r)
	case "yaml":
		return report.YAML(w, r)
	}
	p := printer{w: w, wrap: o.Wrap, all: o.All || r.DryRun}
	p.rounds(r.Rounds)
	p.changed(r.Changed)
	p.left(r)
	p.sentence(r.Text)
	return p.err
}

// PrintPlan writes what will be done, in the form of a table.
func (r *Report) PrintPlan(w io.Writer, wrap bool) error {
	p := printer{w: w, wrap: wrap}
	if r.Read != "" {
		p.sentence("read: " + r.Read)
	}
	p.sentence("API servers: " + strings.TrimSuffix(r.APIServers+"; "+r.RestsOn, "; "))
	if len(r.Plan) == 0 {
		return p.err // the sentence says it
	}
	t := report.Table{Columns: []report.Column{{Name: "RESOURCE"}, {Name: "UNDER"}, {Name: "STALE", Right: true}, {Name: "IN DOUBT", Right: true}, {Name: "CANNOT BE SENT"}}}
	for _, row := range r.Plan {
		doubt := ""
		if row.InDoubt > 0 {
			doubt = report.Count(row.InDoubt)
		}
		t.Rows = append(t.Rows, []string{row.Resource, row.Under, report.Count(row.Objects), doubt, row.Orphaned})
	}
	p.table(t)
	for _, m := range r.Admission.Mutating {
		p.sentence("may change what is written: " + m)
	}
	if !r.Admission.Known {
		p.sentence("webhooks and policies that may change what is written: not known: " + r.Admission.Why)
	}
	if !r.DryRun {
		p.sentence("Each is written as it is. What admission changes on the way cannot be undone: that is what a backup of etcd from before is for.")
	}
	return p.err
}

type printer struct {
	w         io.Writer
	wrap, all bool
	err       error
}

func (p *printer) print(text string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, text)
	}
}

func (p *printer) sentence(text string) {
	if p.wrap {
		text = report.Wrap(text, "  ")
	}
	p.print(text + "\n")
}

func (p *printer) table(t report.Table) {
	if p.err == nil {
		p.err = t.Print(p.w)
	}
}

func (p *printer) rounds(rounds []Round) {
	if len(rounds) == 0 {
		return
	}
	t := report.Table{}
	for _, name := range []string{"ROUND", "SENT", "WRITTEN", "NOT WRITTEN", "CONFLICTS", "GONE", "REFUSED", "FAILED", "CHANGED"} {
		t.Columns = append(t.Columns, report.Column{Name: name, Right: true})
	}
	for i, r := range rounds {
		cells := []string{strconv.Itoa(i + 1)}
		for _, n := range []int64{r.Objects, r.Written, r.NotWritten, r.Conflicts, r.Gone, r.Refused, r.Failed, r.Changed} {
			cells = append(cells, report.Count(n))
		}
		t.Rows = append(t.Rows, cells)
	}
	p.table(t)
}

// few are those of a list that a person reads.
const few = 20

func (p *printer) some(n int) int {
	if p.all {
		return n
	}
	return min(n, few)
}

func (p *printer) rest(n int) {
	if !p.all && n > few {
		p.print("  and " + report.Count(int64(n-few)) + " more: --objects lists all\n")
	}
}

func (p *printer) changed(changes []Change) {
	if len(changes) == 0 {
		return
	}
	p.sentence("longer or shorter than before, by admission or because a newer kube-apiserver stores them otherwise:")
	for _, c := range changes[:p.some(len(changes))] {
		p.print(fmt.Sprintf("  %s: %s bytes, was %s\n", c.Path, c.After, c.Before))
	}
	p.rest(len(changes))
}

// String returns one number, or two where padding hides the exact one.
func (b Bytes) String() string {
	if b.Least == b.Most {
		return report.Count(int64(b.Least))
	}
	return report.Count(int64(b.Least)) + " to " + report.Count(int64(b.Most))
}

// left lists objects by what is to be done about them.
func (p *printer) left(r *Report) {
	type group struct{ cause, next string }
	var order []group
	members := map[group][]string{}
	for _, l := range r.Left {
		g := group{l.Cause, l.Next}
		if members[g] == nil {
			order = append(order, g)
		}
		members[g] = append(members[g], l.Path)
	}
	slices.SortStableFunc(order, func(a, b group) int { return len(members[b]) - len(members[a]) })
	for _, g := range order {
		paths := members[g]
		text := report.Plural(int64(len(paths)), "object: ", "objects: ") + g.cause
		if g.next != "" {
			text += ". " + g.next
		}
		p.sentence(text)
		for _, path := range paths[:p.some(len(paths))] {
			p.print("  " + path + "\n")
		}
		p.rest(len(paths))
	}
}
