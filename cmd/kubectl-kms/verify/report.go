package verify

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// Kind is what a [Report] says it is, beside [audit.APIVersion].
// deploy/kubectl-kms-verify.schema.json describes it; fields are added and never changed
// within a version.
const Kind = "Verify"

// A Report is what [Run] found. Every text in it is safe to print: what is not plain
// ASCII is quoted as in Go's source.
type Report struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Places     []PlaceReport  `json:"places"`
	By         string         `json:"by"`     // who was asked; empty: nobody
	Opened     bool           `json:"opened"` // objects were opened too
	Keys       []KeyReport    `json:"keys"`
	Failures   []Failure      `json:"failures"`
	NotRead    []string       `json:"notRead"`
	Question   *audit.Verdict `json:"question,omitempty"` // nil: nothing was asked
	Verdict    Verdict        `json:"verdict"`
}

// A PlaceReport is what one place needs.
type PlaceReport struct {
	Place     string   `json:"place"`
	Live      bool     `json:"live"` // an etcd, not a file
	Revision  int64    `json:"revision"`
	Prefixes  []string `json:"prefixes"`
	Keys      int64    `json:"keys"`
	Plaintext int64    `json:"plaintext"` // objects that need no key
	Rows      []Row    `json:"rows"`
	OlderRead bool     `json:"olderRead"` // whether revisions that were replaced were read too
	Older     []Older  `json:"older"`
}

// A Row is the objects of a resource that one key protects.
type Row struct {
	Resource string `json:"resource"` // as an EncryptionConfiguration names it
	Format   string `json:"format"`   // of package stored
	Provider string `json:"provider"`
	Key      string `json:"key,omitempty"` // as in Keys; empty: nobody said which, or a local one
	Objects  int64  `json:"objects"`
	Seeds    int64  `json:"seeds"` // distinct wrapped DEKs or seeds; 0 of a local key
	Open     int64  `json:"open"`  // of these

	// With --open. What lies under a seed that is not open was not tried.
	ObjectsOpened int64 `json:"objectsOpened"`
	PaddingOnly   int64 `json:"paddingOnly"`   // of these: AES-CBC, whose padding fits, which is all that proves it
	ObjectsFailed int64 `json:"objectsFailed"` // that their own DEK or key does not open
	GCM           int64 `json:"gcm"`           // of v1's values that may be either, so many were AES-GCM
	CBC           int64 `json:"cbc"`
}

// Older counts revisions that were replaced, which no API server reads.
type Older struct {
	Under     string `json:"under"` // a key_id's key; of v1 and local keys the provider
	Revisions int64  `json:"revisions"`
}

// A KeyReport is a key that something needs, or that was given.
type KeyReport struct {
	Key      string `json:"key"` // the Region is left out of a multi-Region key's ARN
	State    State  `json:"state"`
	Deletion string `json:"deletion,omitempty"` // when KMS deletes it, RFC 3339
	Given    bool   `json:"given"`              // to who was asked
	Note     string `json:"note,omitempty"`     // why the state is not known
	Objects  int64  `json:"objects"`            // that need it, in all places
	Seeds    int64  `json:"seeds"`
	Open     int64  `json:"open"` // of these

	described bool // State is that of DescribeKey
}

// A Failure is why some DEKs, seeds or objects were not opened.
type Failure struct {
	Key     string `json:"key,omitempty"`
	Lost    bool   `json:"lost"` // they cannot be read so; else that is not known
	Code    string `json:"code,omitempty"`
	Reason  string `json:"reason"`
	Objects int64  `json:"objects"`
	Seeds   int64  `json:"seeds"`
	Example string `json:"example"` // the path of one
}

func newReport(r *audit.Report, f *findings, keys []Key, o Options) *Report {
	out := &Report{
		APIVersion: audit.APIVersion, Kind: Kind, Places: []PlaceReport{}, Opened: o.Open, Keys: []KeyReport{}, Failures: []Failure{},
		NotRead: r.NotRead, Question: r.Verdict,
	}
	if o.Opener != nil {
		out.By = report.Plain(o.Opener.String())
	}
	for i, p := range r.Places {
		out.Places = append(out.Places, placeReport(p, f.places[i]))
	}
	out.Keys = keyReports(f, keys)
	out.Failures = failures(f, o)
	out.Verdict = verdict(out, r, f, o)
	return out
}

func placeReport(p audit.PlaceReport, f *placeFindings) PlaceReport {
	out := PlaceReport{
		Place: p.Place, Live: p.Live, Revision: p.Revision, Prefixes: p.Prefixes, Keys: p.Keys, Plaintext: f.plaintext,
		Rows: []Row{}, OlderRead: p.OlderRead, Older: older(p),
	}
	type under struct {
		base
		key keyref.ID
	}
	rows := map[under]*Row{}
	for u, n := range f.usages {
		at := under{base: u.base}
		if u.source != nil {
			at.key = u.source.key()
		}
		row := rows[at]
		if row == nil {
			row = &Row{
				Resource: report.Plain(u.resource), Format: string(u.format), Provider: report.Clip(u.provider, maxText),
				Key: quoted(string(at.key)),
			}
			rows[at] = row
		}
		row.add(u.source, n)
	}
	for _, row := range rows {
		out.Rows = append(out.Rows, *row)
	}
	slices.SortFunc(out.Rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(b.Format, a.Format), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Key, b.Key))
	})
	return out
}

func (row *Row) add(s *source, n *count) {
	row.Objects += n.objects
	if s != nil {
		row.Seeds++
		if s.isOpen() {
			row.Open++
		}
	}
	row.ObjectsOpened += n.opened
	row.ObjectsFailed += n.failed
	row.PaddingOnly += n.padding
	row.GCM += n.gcm
	row.CBC += n.cbc
}

// maxText bounds a text out of etcd: a key_id's length.
const maxText = 1024

func quoted(text string) string {
	if text == "" {
		return ""
	}
	return report.Clip(text, maxText)
}

// older counts what is encrypted, as audit does.
func older(p audit.PlaceReport) []Older {
	count := map[string]int64{}
	for _, row := range p.Rows {
		switch {
		case row.Older == 0 || row.Format == string(stored.Plaintext):
		case row.KeyID != "":
			count[string(keyref.ParseState(row.KeyID).Key)] += row.Older
		default:
			count[row.Format+" "+row.Provider] += row.Older
		}
	}
	out := []Older{}
	for _, under := range slices.Sorted(maps.Keys(count)) {
		out = append(out, Older{under, count[under]})
	}
	return out
}

// keyReports are of all keys that something needs, and of those that were given.
func keyReports(f *findings, given []Key) []KeyReport {
	all := map[keyref.ID]*KeyReport{}
	of := func(name keyref.ID) *KeyReport {
		k := all[name]
		if k == nil {
			k = &KeyReport{Key: quoted(string(name)), State: Unknown}
			all[name] = k
		}
		return k
	}
	for _, g := range given {
		of(cmp.Or(g.ARN, keyref.ARN(g.Name)).ID()).describe(g)
	}
	counted := map[*source]bool{}
	for _, p := range f.places {
		for u, n := range p.usages {
			if u.source == nil || u.source.key() == "" {
				continue
			}
			k := of(u.source.key())
			k.Objects += n.objects
			if !counted[u.source] {
				counted[u.source] = true
				k.use(u.source)
			}
		}
	}
	var out []KeyReport
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[name])
	}
	return append([]KeyReport{}, out...)
}

// describe enters what KMS says of a key. Of two replicas, that counts which can be used.
func (k *KeyReport) describe(g Key) {
	if k.Given && (k.State == Enabled || g.State == Unknown) {
		return
	}
	k.Given, k.State, k.Note, k.Deletion, k.described = true, g.State, g.Note, "", g.State != Unknown
	if !g.Deletion.IsZero() {
		k.Deletion = g.Deletion.UTC().Format(time.RFC3339)
	}
}

// use enters what came of a DEK or seed. A Decrypt that is refused tells the key's state
// where DescribeKey does not, or says that all is well.
func (k *KeyReport) use(s *source) {
	k.Seeds++
	if s.isOpen() {
		k.Open++
	}
	if s.wrong == nil {
		return
	}
	state := s.wrong.State
	ofAnother := k.Given && (state == NotListed || state == Foreign)
	if !ofAnother && state.severity() > k.State.severity() && (!k.described || k.State == Enabled && state.Refuses()) {
		k.State = state
	}
}

// severity orders what several answers say of one key. Damaged is below all: it is said
// of bytes.
func (s State) severity() int {
	return slices.Index([]State{
		Unknown, Enabled, Unavailable, Unreachable, NotListed, Foreign, PendingImport, Denied, NotFound, Disabled, PendingDeletion,
	}, s)
}

// failures are grouped by key and reason.
func failures(f *findings, o Options) []Failure {
	type group struct {
		key          keyref.ID
		code, reason string
		lost         bool
	}
	all := map[group]*Failure{}
	seen := map[group]map[*source]bool{}
	add := func(g group, s *source, objects int64, example string) {
		one := all[g]
		if one == nil {
			one = &Failure{Key: quoted(string(g.key)), Lost: g.lost, Code: g.code, Reason: g.reason}
			all[g], seen[g] = one, map[*source]bool{}
		}
		if example = report.Clip(example, maxText); one.Example == "" || example < one.Example {
			one.Example = example
		}
		one.Objects += objects
		if s != nil && !seen[g][s] {
			seen[g][s] = true
			one.Seeds++
		}
	}
	for _, p := range f.places {
		for u, n := range p.usages {
			g := group{}
			if u.source != nil {
				g.key = u.source.key()
			}
			if not := why(u, o); not != nil {
				g.code, g.reason, g.lost = not.code, not.reason, not.lost
				add(g, u.source, n.objects, n.example)
			}
			if n.failed > 0 {
				g.code, g.reason, g.lost = "", notByItsKey(u), true
				add(g, nil, n.failed, n.failedPath)
			}
			if n.keyless > 0 && o.Audit.Config != nil {
				g.code, g.reason, g.lost = "", under(u.base)+": "+report.Plain(o.Audit.ConfigName)+" has no key of this name", true
				add(g, nil, n.keyless, n.example)
			}
			if n.noProvider > 0 {
				g.code, g.reason, g.lost = "", noProvider(u.base, o), true
				add(g, nil, n.noProvider, n.example)
			}
		}
		if p.unreadPlain > 0 {
			add(group{reason: noProvider(base{format: stored.Plaintext}, o), lost: true}, nil, p.unreadPlain, p.plainPath)
		}
	}
	out := []Failure{}
	for _, one := range all {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b Failure) int {
		lost := func(f Failure) int {
			if f.Lost {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(lost(a), lost(b)), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// notOpen is why a DEK or seed is not open, or a local key was not tried.
type notOpen struct {
	code, reason string
	lost         bool
}

// why returns nil where nothing is wrong.
func why(u usage, o Options) *notOpen {
	s := u.source
	unknown := func(reason string) *notOpen { return &notOpen{reason: under(u.base) + ": " + reason} }
	switch {
	case s == nil && !o.Open:
		return unknown("a local key is tried with --open alone")
	case s == nil && o.Audit.Config == nil:
		return unknown("the key is in the EncryptionConfiguration, give that with --encryption-config")
	case s == nil, s.isOpen():
		return nil
	case s.wrong != nil:
		return &notOpen{s.wrong.Code, cmp.Or(s.wrong.Text, string(s.wrong.State)), s.wrong.State.Refuses()}
	case s.left:
		return unknown("not asked for, since --sample leaves them out")
	case o.Opener == nil:
		return unknown("nobody was asked: say whom, with --config, --key or --socket")
	}
	return unknown("not asked for, after nobody answered for several others")
}

func under(b base) string {
	if b.provider == "" {
		return string(b.format)
	}
	return string(b.format) + " " + report.Clip(b.provider, 64)
}

func notByItsKey(u usage) string {
	if u.source != nil {
		return under(u.base) + ": its DEK is open and does not open it at this path: it was changed, or moved from another path"
	}
	return under(u.base) + ": the key of this name does not open it at this path: another key had the name, or it was changed"
}

func noProvider(b base, o Options) string {
	return under(b) + ": no provider of " + report.Plain(o.Audit.ConfigName) + " reads it, so no API server with that file can"
}
