package verify

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// Print writes the report. The verdict is last.
func (r *Report) Print(w io.Writer, o audit.PrintOptions) error {
	switch o.Form {
	case "json":
		return report.JSON(w, r)
	case "yaml":
		return report.YAML(w, r)
	}
	p := printer{&report.Printer{W: w, Wrap: o.Wrap}}
	for _, place := range r.Places {
		p.place(r, place)
	}
	p.decided(r)
	p.keys(r)
	p.failures(r)
	if len(r.NotRead) == 0 {
		p.Sentence("not read: none")
	}
	for _, what := range r.NotRead {
		p.Sentence("not read: " + what)
	}
	if r.Question != nil {
		p.Sentence("--" + r.Question.Question + ": " + r.Question.Text)
	}
	p.Sentence("verdict: " + r.Verdict.Text)
	return p.Err()
}

type printer struct{ *report.Printer }

func (p *printer) place(r *Report, place PlaceReport) {
	what := place.Place + ", revision " + strconv.FormatInt(place.Revision, 10)
	if place.Live {
		what = fmt.Sprintf("etcd revision %d (one revision)", place.Revision)
	}
	p.Sentence(fmt.Sprintf("%s, %s, %s", what, prefixes(place.Prefixes), report.Plural(place.Keys, "key", "keys")))
	if len(place.Rows) > 0 {
		p.Table(r.table(place))
	}
	if place.Plaintext > 0 {
		p.Sentence("in the clear, which needs no key: " + report.Plural(place.Plaintext, "object", "objects"))
	}
	p.older(r, place)
}

// number is what the table calls a key.
func (r *Report) number(key string) string {
	if key == "" {
		return "?"
	}
	return fmt.Sprintf("#%d", 1+slices.IndexFunc(r.Keys, func(k KeyReport) bool { return k.Key == key }))
}

func (r *Report) table(place PlaceReport) report.Table {
	t := report.Table{Columns: []report.Column{
		{Name: "KEY"},
		{Name: "STATE"},
		{Name: "RESOURCE"},
		{Name: "UNDER"},
		{Name: "OBJECTS", Right: true},
		{Name: "SEEDS", Right: true},
		{Name: "OPEN", Right: true},
		{Name: "OPENED", Right: true},
	}}
	for _, row := range place.Rows {
		number, state, seeds, open, opened := r.number(row.Key), "", report.Count(row.Seeds), report.Count(row.Open), ""
		if row.Key != "" {
			state = r.Keys[slices.IndexFunc(r.Keys, func(k KeyReport) bool { return k.Key == row.Key })].cell()
		}
		if row.Key == "" {
			state = "key not told"
		}
		if row.Seeds == 0 {
			number, state, seeds, open = "local", "", "", ""
		}
		if r.Opened {
			opened = report.Count(row.ObjectsOpened)
		}
		t.Rows = append(t.Rows, []string{
			number, state, row.Resource, row.Format + " " + row.Provider, report.Count(row.Objects), seeds, open, opened,
		})
	}
	return t
}

// cell is a key's state for the table.
func (k KeyReport) cell() string {
	switch {
	case k.State == Unknown && k.Open > 0:
		return "opens"
	case k.State == PendingDeletion: // half as wide, and in full below
		return "deletion"
	}
	return string(k.State)
}

func (p *printer) older(r *Report, place PlaceReport) {
	if !place.OlderRead {
		p.Sentence("older revisions: not read; no API server reads them either")
		return
	}
	var parts []string
	var sum int64
	for _, o := range place.Older {
		sum += o.Revisions
		name := o.Under
		if slices.ContainsFunc(r.Keys, func(k KeyReport) bool { return k.Key == name }) {
			name = r.number(name)
		}
		parts = append(parts, report.Count(o.Revisions)+" under "+name)
	}
	if sum == 0 {
		p.Sentence("older revisions: none is encrypted")
		return
	}
	p.Sentence(fmt.Sprintf("older revisions: %s encrypted, %s; etcd has them until it compacts, and an API server of a restored etcd reads none of them",
		report.Count(sum), strings.Join(few(parts), ", ")))
}

func (p *printer) keys(r *Report) {
	if len(r.Keys) == 0 {
		return
	}
	p.Print("keys:\n")
	for _, k := range r.Keys {
		text := k.stateText()
		switch {
		case k.Objects == 0:
			text += "; nothing that was read is under it"
		case k.Open < k.Seeds:
			text += fmt.Sprintf("; opens %s of %s, of %s", report.Count(k.Open), report.Plural(k.Seeds, "DEK or seed", "DEKs and seeds"), report.Plural(k.Objects, "object", "objects"))
		}
		p.Print("  " + r.number(k.Key) + "  " + k.Key + "\n")
		if k.Note != "" {
			text += "; " + k.Note
		}
		p.Indented("      ", "      ", text)
	}
}

func (p *printer) failures(r *Report) {
	if len(r.Failures) == 0 {
		return
	}
	p.Print("not opened:\n")
	for _, f := range r.Failures {
		what := report.Plural(f.Objects, "object", "objects")
		if f.Seeds > 0 {
			what = fmt.Sprintf("%s of %s", report.Plural(f.Seeds, "DEK or seed", "DEKs and seeds"), what)
		}
		if f.Key != "" {
			what += " under " + r.number(f.Key)
		}
		reason := f.Reason
		if f.Code != "" {
			reason = f.Code + " " + reason
		}
		p.Indented("  ", "    ", fmt.Sprintf("%s, such as %s: %s", what, f.Example, reason))
	}
}

// decided says what v1's values are that may be either.
func (p *printer) decided(r *Report) {
	for _, place := range r.Places {
		for _, row := range place.Rows {
			if row.Format == string(stored.KMSv1) && row.GCM+row.CBC > 0 {
				p.Sentence(fmt.Sprintf("%s %s, which the bytes do not tell: %s in gcm, %s in cbc", row.Resource, row.Format+" "+row.Provider, report.Count(row.GCM), report.Count(row.CBC)))
			}
		}
	}
}
