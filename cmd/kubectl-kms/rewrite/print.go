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
	p := printer{&report.Printer{W: w, Wrap: o.Wrap}, o.All || r.DryRun}
	p.rounds(r.Rounds)
	p.changed(r.Changed)
	p.left(r)
	p.Sentence(r.Text)
	return p.Err()
}

// PrintPlan writes what will be done, in the form of a table.
func (r *Report) PrintPlan(w io.Writer, wrap bool) error {
	p := printer{Printer: &report.Printer{W: w, Wrap: wrap}}
	if r.Read != "" {
		p.Sentence("read: " + r.Read)
	}
	p.Sentence("API servers: " + strings.TrimSuffix(r.APIServers+"; "+r.RestsOn, "; "))
	if len(r.Plan) == 0 {
		return p.Err() // the sentence says it
	}
	t := report.Table{Columns: []report.Column{{Name: "RESOURCE"}, {Name: "UNDER"}, {Name: "STALE", Right: true}, {Name: "IN DOUBT", Right: true}, {Name: "CANNOT BE SENT"}}}
	for _, row := range r.Plan {
		doubt := ""
		if row.InDoubt > 0 {
			doubt = report.Count(row.InDoubt)
		}
		t.Rows = append(t.Rows, []string{row.Resource, row.Under, report.Count(row.Objects), doubt, row.Orphaned})
	}
	p.Table(t)
	for _, m := range r.Admission.Mutating {
		p.Sentence("may change what is written: " + m)
	}
	if !r.Admission.Known {
		p.Sentence("webhooks and policies that may change what is written: not known: " + r.Admission.Why)
	}
	if !r.DryRun {
		p.Sentence("Each is written as it is. What admission changes on the way cannot be undone: that is what a backup of etcd from before is for.")
	}
	return p.Err()
}

type printer struct {
	*report.Printer

	all bool
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
	p.Table(t)
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
		p.Print("  and " + report.Count(int64(n-few)) + " more: --objects lists all\n")
	}
}

func (p *printer) changed(changes []Change) {
	if len(changes) == 0 {
		return
	}
	p.Sentence("longer or shorter than before, by admission or because a newer kube-apiserver stores them otherwise:")
	for _, c := range changes[:p.some(len(changes))] {
		p.Print(fmt.Sprintf("  %s: %s bytes, was %s\n", c.Path, c.After, c.Before))
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
		p.Sentence(text)
		for _, path := range paths[:p.some(len(paths))] {
			p.Print("  " + path + "\n")
		}
		p.rest(len(paths))
	}
}
