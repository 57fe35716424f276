package audit

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// Forms are those of [Report.Print].
func Forms() []string { return []string{"table", "json", "yaml"} }

// PrintOptions say how a report is shown.
type PrintOptions struct {
	Form string // one of [Forms]
	Wrap bool   // break sentences for a terminal; else each is a line
}

// Print writes the report. The verdict is last.
func (r *Report) Print(w io.Writer, o PrintOptions) error {
	switch o.Form {
	case "json":
		return report.JSON(w, r)
	case "yaml":
		return report.YAML(w, r)
	}
	p := printer{&report.Printer{W: w, Wrap: o.Wrap}, r.names()}
	p.objects(r.Objects)
	for _, place := range r.Places {
		p.place(place)
	}
	p.notes(r)
	if len(r.NotRead) == 0 {
		p.Sentence("not read: none")
	}
	for _, what := range r.NotRead {
		p.Sentence("not read: " + what)
	}
	if r.Verdict != nil {
		p.Sentence("verdict: " + r.Verdict.Text)
	}
	return p.Err()
}

type printer struct {
	*report.Printer

	keys keyNames
}

func (p *printer) place(place PlaceReport) {
	what := place.Place + ", revision " + strconv.FormatInt(place.Revision, 10)
	if place.Live {
		what = fmt.Sprintf("etcd revision %d (one revision)", place.Revision)
	}
	p.Sentence(fmt.Sprintf("%s, %s, %s", what, prefixes(place), report.Plural(place.Keys, "key", "keys")))
	p.Table(tableOf(place, p.keys))
	if place.OlderRead {
		p.Sentence("older revisions: column OLDER, readable until etcd compacts")
	} else {
		p.Sentence("older revisions: not read; nothing before the next compaction proves a key unused")
	}
	if place.NotObjects > 0 {
		p.Sentence("not objects, such as allocations of addresses: " + report.Plural(place.NotObjects, "key", "keys"))
	}
	for _, caveat := range place.Caveats {
		p.Sentence(caveat)
	}
	p.unreadable(place.Unreadable)
}

// unreadable lists where values are that nobody understands.
func (p *printer) unreadable(u Unreadable) {
	const few = 20
	if u.Count == 0 {
		return
	}
	p.Sentence(fmt.Sprintf("could not be read: %s", report.Plural(u.Count, "value", "values")))
	for _, item := range u.Values[:min(few, len(u.Values))] {
		older := ""
		if item.Older {
			older = " (older revision)"
		}
		p.Print("  " + item.Path + older + ": " + item.Reason + "\n")
	}
	if u.Count > few {
		p.Print("  and more: -o json lists up to " + strconv.Itoa(maxPaths) + "\n")
	}
}

func (p *printer) objects(objects []Object) {
	if len(objects) == 0 {
		return
	}
	t := report.Table{Columns: []report.Column{{Name: "PATH"}, {Name: "UNDER"}, {Name: "KEY"}, {Name: "REVISION", Right: true}}}
	for _, o := range objects {
		t.Rows = append(t.Rows, []string{o.Path, o.underText(), p.keys.of(o.Under), strconv.FormatInt(o.ModRevision, 10)})
	}
	p.Table(t)
	p.Print("\n")
}

func (u Under) underText() string {
	text := u.Format
	if u.Provider != "" {
		text += " " + u.Provider
	}
	return text
}

func (u Under) formatText() string {
	switch {
	case stored.Cipher(u.Cipher) == stored.GCMOrCBC:
		return u.Wrapped + ", gcm?"
	case stored.Format(u.Format) == stored.KMSv1:
		return u.Wrapped + ", " + u.Cipher
	case stored.Format(u.Format) == stored.KMSv2 && stored.Cipher(u.Cipher) == stored.GCM:
		return u.Wrapped + ", DEK"
	}
	return u.Wrapped
}

func tableOf(p PlaceReport, keys keyNames) report.Table {
	t := report.Table{Columns: []report.Column{
		{Name: "RESOURCE"},
		{Name: "UNDER"},
		{Name: "KEY"},
		{Name: "FORMAT"},
		{Name: "OBJECTS", Right: true},
		{Name: "SEEDS", Right: true},
		{Name: "OLDER", Right: true},
		{Name: "STALE"},
	}}
	for _, r := range p.Rows {
		seeds, older := "", ""
		if r.Wrapped != "" {
			seeds = report.Count(int64(r.Seeds))
		}
		if p.OlderRead {
			older = report.Count(r.Older)
		}
		stale := string(r.Stale)
		switch r.Stale {
		case StaleUnknown:
			stale = "?"
		case StaleUnreadable:
			stale = "!"
		case StaleNo, StaleYes:
		}
		t.Rows = append(t.Rows, []string{
			r.short, r.underText(), keys.of(r.Under), r.formatText(), report.Count(r.Objects), seeds, older, stale,
		})
	}
	return t
}

// notes explain what stands in the table, and are left out where it does not.
func (p *printer) notes(r *Report) {
	has := func(f func(Row) bool) bool {
		return slices.ContainsFunc(r.Places, func(p PlaceReport) bool { return slices.ContainsFunc(p.Rows, f) })
	}
	if has(func(r Row) bool { return r.Format == string(stored.KMSv1) }) {
		p.Sentence("kms v1: not in the bytes which key: run verify")
	}
	if has(func(r Row) bool { return r.Cipher == string(stored.GCMOrCBC) }) {
		p.Sentence("gcm?: gcm or cbc: run verify --open")
	}
	if has(func(r Row) bool { return r.Stale == StaleUnknown }) {
		p.Sentence("stale ?: the running plugin's key_id, or a key, would tell")
	}
	if has(func(r Row) bool { return r.Stale == StaleUnreadable }) {
		p.Sentence("stale !: no provider of the configuration reads it, so no API server with it can")
	}
	p.keys.print(p)
}
