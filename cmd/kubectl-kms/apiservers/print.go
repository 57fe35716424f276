package apiservers

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// Forms are those of [Report.Print].
func Forms() []string { return []string{"table", "json", "yaml"} }

// Print writes the report in one of [Forms]. The verdict is last. wrap breaks sentences
// for a terminal; else each is a line.
func (r *Report) Print(w io.Writer, form string, wrap bool) error {
	switch form {
	case "json":
		return report.JSON(w, r)
	case "yaml":
		return report.YAML(w, r)
	}
	p := &printer{&report.Printer{W: w, Wrap: wrap}}
	p.Sentence("asked as " + r.From + " says, at the addresses of " + r.AddressesFrom)
	p.Table(r.table())
	if writes := r.writes(); len(writes.Rows) > 0 {
		p.Print("\n")
		p.Table(writes)
	}
	p.inFull(r)
	for _, n := range r.NotCovered {
		p.Sentence(fmt.Sprintf("not asked: the API server of Lease kube-system/%s, renewed %s ago", n.Lease, seconds(n.Seconds)))
	}
	for _, n := range r.NotProbed {
		p.Sentence("not probed: " + n.Resource + ": " + n.Reason)
	}
	p.Sentence("verdict: " + r.Verdict.Text)
	return p.Err()
}

type printer struct{ *report.Printer }

func seconds(n int64) string { return (time.Duration(n) * time.Second).String() }

// brief is as much of a hash as a column has room for.
func brief(hash string) string {
	const most = 8
	hash = strings.TrimPrefix(hash, "sha256:")
	return hash[:min(len(hash), most)]
}

func (r *Report) table() report.Table {
	t := report.Table{Columns: []report.Column{
		{Name: "API SERVER"}, {Name: "ADDRESS"}, {Name: "VERSION"}, {Name: "CONFIG"}, {Name: "PROVIDER"}, {Name: "KEY"}, {Name: "SEEN", Right: true},
	}}
	for _, s := range r.APIServers {
		for i, address := range s.Addresses {
			row := []string{"", strings.TrimPrefix(address, "https://"), "", "", "", "", ""}
			if i == 0 {
				row[0], row[2], row[3] = s.Name, s.Version, brief(s.ConfigHash)
				if s.Name == address {
					row[0] = "?"
				}
				if s.Error != "" {
					row[2] = "no answer"
				}
			}
			if i < len(s.Keys) {
				row[4], row[5], row[6] = s.Keys[i].Provider, brief(s.Keys[i].KeyIDHash), seconds(s.Keys[i].Seconds)
			}
			t.Rows = append(t.Rows, row)
		}
		for _, k := range s.Keys[min(len(s.Addresses), len(s.Keys)):] {
			t.Rows = append(t.Rows, []string{"", "", "", "", k.Provider, brief(k.KeyIDHash), seconds(k.Seconds)})
		}
	}
	for _, n := range r.NotCovered {
		name := n.Host
		if name == "" {
			name = n.Lease
		}
		t.Rows = append(t.Rows, []string{name, "none", "not asked", "", "", "", ""})
	}
	return t
}

// writes shows which resources are written under what, one line for all API servers that
// do it alike.
func (r *Report) writes() report.Table {
	t := report.Table{Columns: []report.Column{{Name: "RESOURCE"}, {Name: "WRITTEN UNDER"}, {Name: "KEY"}, {Name: "BY"}, {Name: "KNOWN BY"}}}
	for _, s := range r.APIServers {
		for _, w := range s.Writes {
			known := "metrics"
			if w.Probed {
				known = "probe"
			}
			row := []string{w.Resource, strings.TrimSpace(w.Format + " " + w.Provider), brief(w.KeyIDHash), s.Name, known}
			i := slices.IndexFunc(t.Rows, func(o []string) bool { return slices.Equal(o[:3], row[:3]) && o[4] == row[4] })
			if i < 0 {
				t.Rows = append(t.Rows, row)
			} else if t.Rows[i][3] = t.Rows[i][3] + "," + s.Name; strings.Count(t.Rows[i][3], ",") > 2 {
				t.Rows[i][3] = strconv.Itoa(len(strings.Split(t.Rows[i][3], ","))) + " API servers"
			}
		}
	}
	slices.SortStableFunc(t.Rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return t
}

// inFull lists what the beginnings of hashes stand for.
func (p *printer) inFull(r *Report) {
	var lines []string
	add := func(hash, id string) {
		if id == "" {
			id = hash
		}
		if line := "  " + brief(hash) + "  " + id; hash != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for _, s := range r.APIServers {
		for _, k := range s.Keys {
			add(k.KeyIDHash, k.KeyID)
		}
		for _, w := range s.Writes {
			add(w.KeyIDHash, w.KeyID)
		}
	}
	if len(lines) > 0 {
		p.Print("keys in full, a key_id or its hash:\n" + strings.Join(lines, "\n") + "\n")
	}
}
