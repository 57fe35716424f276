package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// An Answer to a question.
type Answer string

// Answers. "Not known" is one where something in doubt is all that is between it
// and yes.
const (
	Yes      Answer = "yes"
	No       Answer = "no"
	NotKnown Answer = "not known"
)

// A Verdict is an answer and what it rests on.
type Verdict struct {
	Question  string   `json:"question"` // expect-only or expect-unused
	Key       string   `json:"key"`
	Resources []string `json:"resources"` // that it is about
	Answer    Answer   `json:"answer"`
	Asked     int64    `json:"objects"` // that it is about
	Against   int64    `json:"against"` // of these; older revisions too where the question is whether a key is unused
	Reasons   []string `json:"reasons"` // why the answer is not yes
	Text      string   `json:"text"`    // all of it, in one sentence
}

// Complete reports whether all was read and understood. What may be elsewhere, or at
// another time, is not a part of it.
func (r *Report) Complete() bool { return len(r.Incomplete()) == 0 }

// Incomplete says, each in a few words, what was not read or not understood.
func (r *Report) Incomplete() []string {
	reasons := slices.Clone(r.NotRead)
	for i, what := range reasons {
		reasons[i] = "not read: " + what
	}
	for _, p := range r.Places {
		if n := p.Unreadable.Count; n > 0 {
			reasons = append(reasons, fmt.Sprintf("%s of %s could not be read", report.Plural(n, "value", "values"), p.Place))
		}
		for _, caveat := range p.Caveats { // sentences, which become parts of one
			reasons = append(reasons, strings.TrimSuffix(strings.ReplaceAll(caveat, ". ", "; "), "."))
		}
	}
	return reasons
}

// notRead lists what may hold objects of the same API servers, or of others, and was not read.
func notRead(places []PlaceReport, readings []*reading, o Options, aggregated map[string]bool) []string {
	out := []string{}
	for _, p := range places {
		for _, prefix := range p.Unread {
			out = append(out, fmt.Sprintf("%s in %s", prefix, p.Place))
		}
	}
	for _, name := range o.Elsewhere {
		if !slices.ContainsFunc(readings, func(r *reading) bool { return r.hasObjects(name) }) {
			out = append(out, report.Plain(name)+" in an etcd of their own")
		}
	}
	if aggregated[""] {
		out = append(out, "what aggregated API servers store, if there are any: their list is encrypted")
	}
	var others []string
	for _, group := range slices.Sorted(maps.Keys(aggregated)) {
		if group != "" {
			others = append(others, "what the aggregated API server of "+report.Plain(group)+" stores")
		}
	}
	return append(out, few(others, "aggregated API servers")...)
}

// hasObjects reports whether the place holds objects of a resource, named as in an
// EncryptionConfiguration.
func (r *reading) hasObjects(name string) bool {
	for at, t := range r.rows {
		if t.objects > 0 && encryptionconfig.Covers(name, at.resource.name, at.resource.group) {
			return true
		}
	}
	return false
}

// evidence is what all places say about a question.
type evidence struct {
	asked, against, older int64
	found                 map[string]bool  // resources in question with an object
	rows                  map[string]int64 // that are against it, in words
	rowDoubts             map[string]bool  // what is in doubt about rows, in words
	doubts                []string
	writers               []string         // API servers write so, and it is against it
	outside               map[string]int64 // resources that it is not about, under the key whose use it asks for
}

func (e *evidence) doubt(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(e.doubts, text) {
		e.doubts = append(e.doubts, text)
	}
}

func answer(r *Report, readings []*reading, o Options, s *scope) *Verdict {
	q := o.Question
	e := &evidence{found: map[string]bool{}, rows: map[string]int64{}, rowDoubts: map[string]bool{}, outside: map[string]int64{}}
	for _, reading := range readings {
		for at, t := range reading.rows {
			e.weigh(q, s, at, t)
		}
	}
	e.doubts = few(slices.Sorted(maps.Keys(e.rowDoubts)), "doubts of this kind")
	e.general(r, q, s)
	if slices.ContainsFunc(r.Places, func(p PlaceReport) bool { return p.Live }) {
		e.apiServersSay(r, readings, o, s)
	}
	v := &Verdict{
		Question: q.String(), Key: report.Plain(q.Key.String()), Resources: plain(s.names),
		Asked: e.asked, Against: e.against + e.older, Reasons: append(e.words(), e.doubts...),
	}
	switch {
	case v.Against > 0, len(e.writers) > 0:
		v.Answer = No
	case len(e.doubts) > 0:
		v.Answer = NotKnown
	default:
		v.Answer, v.Reasons = Yes, []string{}
	}
	v.Text = r.sentence(v, e, q, s)
	return v
}

// weigh adds a row to the evidence. Older revisions keep a key in use until etcd
// compacts; under which keys they are does not make objects less rewritten.
func (e *evidence) weigh(q *Question, s *scope, at row, t *tally) {
	in, against := s.has(at.resource), q.against(at.under)
	name := report.Plain(at.resource.String())
	older := t.older
	if q.Only {
		older = 0
	}
	switch in {
	case no:
		if !q.Only && against == yes && q.Key.kind != asPlaintext {
			e.outside[name] += t.objects + older
		}
		return
	case notKnown:
		if against != no && t.objects+older > 0 {
			e.rowDoubts[fmt.Sprintf("%s of %s, whose group its path does not tell", report.Plural(t.objects+older, "object", "objects"), name)] = true
		}
		return
	case yes:
	}
	e.asked += t.objects
	if t.objects > 0 {
		for _, text := range s.standFor(at.resource) {
			e.found[report.Plain(text)] = true
		}
	}
	switch against {
	case yes:
		e.against += t.objects
		e.older += older
		if t.objects > 0 {
			words := name + " under " + at.words()
			if key := cmp.Or(string(at.key), at.keyID); q.Only && key != "" {
				words += " (" + report.Clip(key, 256) + ")"
			}
			e.rows[words] += t.objects
		}
	case notKnown:
		if t.objects+older > 0 {
			e.rowDoubts[fmt.Sprintf("%s of %s under %s: %s", numbers(t.objects, older), name, at.words(), at.why(q.Key))] = true
		}
	case no:
	}
}

func numbers(objects, older int64) string {
	var parts []string
	if objects > 0 {
		parts = append(parts, report.Plural(objects, "object", "objects"))
	}
	if older > 0 {
		parts = append(parts, report.Plural(older, "older revision", "older revisions"))
	}
	return strings.Join(parts, " and ")
}

func (u under) words() string {
	text := string(u.format)
	if u.provider != "" {
		text += " " + report.Clip(u.provider, 64)
	}
	return text
}

// why is why nothing tells whether a key protects it.
func (u under) why(k Key) string {
	if k.alias {
		return report.Clip(k.String(), 256) + " is an alias, and no bytes tell which key that names: give the ARN of the key"
	}
	if u.asked && u.key == "" {
		return "KMS did not name their key"
	}
	if u.keyID != "" {
		return "the key_id " + report.Clip(u.keyID, 256) + " is an alias, which does not tell its key"
	}
	return "the bytes do not tell their key, run verify"
}

// notAsked is in every verdict: which key a running API server writes under, no bytes
// tell.
const notAsked = "API servers: not asked"

// general adds what puts every answer in doubt.
func (e *evidence) general(r *Report, q *Question, s *scope) {
	if e.asked == 0 {
		e.doubt("no object of %s was read", list(plain(s.names)))
	}
	if s.config == nil {
		for _, name := range e.missing(s.names) {
			e.doubt("no object of %s was read: is this its name?", name)
		}
	}
	if s.config != nil {
		for _, name := range slices.Sorted(maps.Keys(e.outside)) {
			e.doubt("%s of %s, which %s does not encrypt, under it", report.Plural(e.outside[name], "object", "objects"), name, report.Plain(s.from))
		}
	}
	for _, p := range r.Places {
		if !q.Only && !p.OlderRead {
			e.doubt("older revisions were not read in %s, and nothing before the next compaction proves a key unused", p.Place)
		}
	}
	for _, reason := range r.Incomplete() {
		e.doubt("%s", reason)
	}
}

// missing are the resources among names, wildcards left out, of which nothing was read.
// Whoever types a name may have mistyped it; a configuration may be ahead of its cluster.
func (e *evidence) missing(names []string) []string {
	var out []string
	for _, name := range names {
		if name = report.Plain(name); !strings.HasPrefix(name, "*") && !e.found[name] && e.asked > 0 {
			out = append(out, name)
		}
	}
	return out
}

// words say what is against it.
func (e *evidence) words() []string {
	out := []string{}
	for _, text := range slices.Sorted(maps.Keys(e.rows)) {
		out = append(out, report.Plural(e.rows[text], "object", "objects")+" of "+text)
	}
	out = few(out, "kinds")
	if e.older > 0 {
		out = append(out, report.Plural(e.older, "older revision", "older revisions")+" under it, until etcd compacts")
	}
	return append(out, few(e.writers, "resources")...)
}

// few are no more than a person reads, and how many there are besides.
func few(texts []string, what string) []string {
	const most = 20
	if len(texts) > most {
		return append(texts[:most:most], fmt.Sprintf("and %d more %s", len(texts)-most, what))
	}
	return texts
}

// list names a few of many.
func list(texts []string) string {
	const most = 6
	if len(texts) > most {
		return strings.Join(texts[:most], ", ") + fmt.Sprintf(" and %d more", len(texts)-most)
	}
	return strings.Join(texts, ", ")
}

// sentence is the verdict: the answer, its reasons, and what it rests on.
func (r *Report) sentence(v *Verdict, e *evidence, q *Question, s *scope) string {
	parts := []string{string(v.Answer) + ": " + e.finding(v, q)}
	if v.Answer == Yes {
		parts[0] += fmt.Sprintf(" (%s, by %s)", report.Plural(e.asked, "object", "objects"), report.Plain(s.from))
	}
	if v.Answer == NotKnown {
		parts[0] += ", but " + v.Reasons[0]
		parts = append(parts, v.Reasons[1:]...)
	} else {
		parts = append(parts, v.Reasons...)
	}
	for _, one := range r.basis(e, s) {
		if !slices.Contains(v.Reasons, one) {
			parts = append(parts, one)
		}
	}
	return strings.Join(parts, "; ") + "."
}

// finding is what the answer means.
func (e *evidence) finding(v *Verdict, q *Question) string {
	resources, under := list(v.Resources), "under "+v.Key
	if q.Only {
		under = "not under " + v.Key
	}
	some := fmt.Sprintf("of %s of %s", report.Plural(e.asked, "object", "objects"), resources)
	switch {
	case v.Answer == Yes && q.Only:
		return fmt.Sprintf("every object of %s is under %s", resources, v.Key)
	case v.Answer == Yes:
		return fmt.Sprintf("no object of %s is %s", resources, under)
	case v.Answer == NotKnown:
		return fmt.Sprintf("no object of %s was found that is %s", resources, under)
	case v.Against == 0:
		return fmt.Sprintf("no object of %s was found that is %s, but the next one will be", resources, under)
	case e.against == 0:
		return fmt.Sprintf("none %s is %s, but %s", some, under, numbers(0, e.older))
	case e.against == 1:
		return fmt.Sprintf("1 %s is %s", some, under)
	}
	return fmt.Sprintf("%s %s are %s", report.Count(e.against), some, under)
}

// basis is what every verdict names, whatever it says.
func (r *Report) basis(e *evidence, s *scope) []string {
	var read, snapshots []string
	for _, p := range r.Places {
		text := fmt.Sprintf("%s at revision %d, %s", p.Place, p.Revision, prefixes(p))
		read = append(read, text)
		if !p.Live {
			snapshots = append(snapshots, p.Place)
		}
	}
	out := []string{"read: " + strings.Join(read, ", ")}
	if s.config == nil {
		for _, name := range slices.Sorted(maps.Keys(e.outside)) {
			out = append(out, fmt.Sprintf("outside the question: %s of %s under it", report.Plural(e.outside[name], "object", "objects"), name))
		}
	}
	for _, name := range e.missing(s.named()) {
		if s.config != nil || !slices.Contains(s.names, name) {
			out = append(out, "no object of "+name+" was read")
		}
	}
	if len(snapshots) == len(r.Places) {
		out = append(out, "this speaks of "+these(len(snapshots))+" alone")
	}
	switch {
	case r.APIServers == nil || len(snapshots) == len(r.Places):
		out = append(out, notAsked)
	case r.APIServers.Converged:
		out = append(out, "API servers: "+r.APIServers.Text)
	}
	if len(snapshots) == 0 {
		out = append(out, "snapshots: none given")
	}
	out = append(out, "other backups: not known")
	if len(r.NotRead) == 0 {
		out = append(out, "not read: none")
	}
	return out
}

func these(n int) string {
	if n == 1 {
		return "this snapshot"
	}
	return "these snapshots"
}

func prefixes(p PlaceReport) string {
	if len(p.Prefixes) == 1 {
		return "prefix " + p.Prefixes[0]
	}
	return "prefixes " + strings.Join(p.Prefixes, ", ")
}
