package verify

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// A Verdict is whether all can be read, and what that rests on.
type Verdict struct {
	Answer  audit.Answer `json:"answer"`  // that to the question counts too, where one was asked
	Objects int64        `json:"objects"` // that a key protects
	Lost    int64        `json:"lost"`    // of these and of those in the clear: they cannot be read so
	Unknown int64        `json:"unknown"` // nobody knows whether they can
	Reasons []string     `json:"reasons"` // why the answer is not yes
	Text    string       `json:"text"`    // all of it, in one sentence
}

// verdict weighs everything. What was not read, understood or asked makes a yes a "not
// known"; one object that cannot be read makes it a no.
func verdict(r *Report, read *audit.Report, f *findings, o Options) Verdict {
	v := Verdict{Reasons: []string{}}
	for _, p := range r.Places {
		for _, row := range p.Rows {
			v.Objects += row.Objects
		}
	}
	seeds := f.needed()
	v.Lost, v.Unknown = f.lost(o)
	ending := r.ending()
	no := v.Lost > 0 || len(ending) > 0
	for _, one := range r.Failures {
		if one.Lost {
			v.Reasons = append(v.Reasons, r.inShort(one))
		}
	}
	v.Reasons = append(v.Reasons, ending...)
	doubts := r.doubts(read, f)
	if r.Question != nil {
		no = no || r.Question.Answer == audit.No
		if r.Question.Answer != audit.Yes {
			doubts = append(doubts, fmt.Sprintf("the answer to --%s is %q", r.Question.Question, r.Question.Answer))
		}
	}
	v.Reasons = few(append(v.Reasons, doubts...))
	switch {
	case no:
		v.Answer = audit.No
	case len(doubts) > 0:
		v.Answer = audit.NotKnown
	default:
		v.Answer = audit.Yes
	}
	parts := []string{string(v.Answer) + ": " + r.finding(&v, seeds)}
	reasons := v.Reasons
	if v.Answer == audit.NotKnown {
		parts[0] += ", but " + reasons[0]
		reasons = reasons[1:]
	}
	parts = append(parts, reasons...)
	v.Text = strings.Join(append(parts, r.basis(o)...), "; ") + "."
	return v
}

// lost counts objects, each once.
func (f *findings) lost(o Options) (lost, unknown int64) {
	for _, p := range f.places {
		for u, n := range p.usages {
			not := why(u, o)
			switch {
			case not != nil && not.lost:
				lost += n.objects
			case not != nil:
				lost += n.noProvider
				unknown += n.objects - n.noProvider
			case o.Open: // whatever kept it from being opened
				lost += max(n.noProvider, n.objects-n.opened)
			default:
				lost += n.noProvider
			}
		}
		lost += p.unreadPlain
	}
	return lost, unknown
}

// ending names keys that still opened something and are on their way out, which KMS
// takes a while to tell everybody.
func (r *Report) ending() []string {
	var out []string
	for _, k := range r.Keys {
		if k.Open > 0 && k.Open == k.Seeds && (k.State == Disabled || k.State == PendingDeletion) {
			out = append(out, fmt.Sprintf("%s still opened %s and is %s", k.Key, report.Plural(k.Open, "DEK or seed", "DEKs and seeds"), k.stateText()))
		}
	}
	return out
}

// doubts are what keeps the answer from being yes without making it no.
func (r *Report) doubts(read *audit.Report, f *findings) []string {
	var out []string
	for _, one := range r.Failures {
		if !one.Lost {
			out = append(out, r.inShort(one))
		}
	}
	for _, name := range f.nameless {
		out = append(out, fmt.Sprintf("no object of %s was read: is this its name?", report.Plain(name)))
	}
	if f.nothing && len(f.nameless) == 0 {
		out = append(out, "no object was read")
	}
	for _, reason := range read.Incomplete() {
		if !slices.Contains(out, reason) {
			out = append(out, reason)
		}
	}
	return out
}

// inShort is a failure in a part of a sentence.
func (r *Report) inShort(f Failure) string {
	text := report.Plural(f.Objects, "object", "objects")
	if f.Key != "" {
		text += " under " + f.Key
		if i := slices.IndexFunc(r.Keys, func(k KeyReport) bool { return k.Key == f.Key }); i >= 0 && f.Lost {
			text += " (" + r.Keys[i].stateText() + ")"
		}
	}
	if f.Code != "" {
		return text + ": " + f.Code
	}
	reason, _, _ := strings.Cut(f.Reason, "; ")
	return text + ": " + reason
}

// finding is what the answer means.
func (r *Report) finding(v *Verdict, seeds int64) string {
	what := report.Plural(v.Objects, "encrypted object", "encrypted objects")
	if seeds > 0 {
		what += " under " + report.Plural(seeds, "DEK or seed", "DEKs and seeds")
	}
	switch {
	case v.Lost > 0:
		return fmt.Sprintf("%s of %s cannot be read", report.Count(v.Lost), what)
	case v.Objects == 0:
		return "nothing that was read needs a key"
	case v.Answer == audit.No:
		return what + ", of which all that was asked for open"
	case v.Answer == audit.NotKnown:
		return what + ", of which none was found that cannot be read"
	case r.Opened:
		return what + ", all opened"
	}
	return what + ", which all open"
}

// basis is what every verdict names, whatever it says.
func (r *Report) basis(o Options) []string {
	var out []string
	if r.By != "" {
		out = append(out, "by "+r.By)
	}
	switch {
	case !r.Opened:
		out = append(out, "the objects themselves were not opened, which --open does")
	case r.padded() > 0:
		out = append(out, fmt.Sprintf("of %s in AES-CBC only the padding proves it", report.Plural(r.padded(), "object", "objects")))
	}
	var read []string
	live := false
	for _, p := range r.Places {
		read = append(read, fmt.Sprintf("%s at revision %d, %s", p.Place, p.Revision, prefixes(p.Prefixes)))
		live = live || p.Live
	}
	out = append(out, "read: "+strings.Join(read, ", "))
	if len(o.Audit.Resources) > 0 {
		out = append(out, "of "+strings.Join(o.Audit.Resources, ", ")+" alone, by --resources")
	}
	if live {
		out = append(out, "true of one revision")
	}
	out = append(out, "other backups: not known")
	if len(r.NotRead) == 0 {
		out = append(out, "not read: none")
	}
	return out
}

func (r *Report) padded() (n int64) {
	for _, p := range r.Places {
		for _, row := range p.Rows {
			n += row.PaddingOnly
		}
	}
	return n
}

// few are no more than a person reads.
func few(texts []string) []string {
	const most = 20
	if len(texts) > most {
		return append(texts[:most:most], fmt.Sprintf("and %d more reasons", len(texts)-most))
	}
	return texts
}

func prefixes(all []string) string {
	if len(all) == 1 {
		return "prefix " + all[0]
	}
	return "prefixes " + strings.Join(all, ", ")
}

// stateText is a key's state in words.
func (k KeyReport) stateText() string {
	day, _, _ := strings.Cut(k.Deletion, "T")
	switch {
	case day != "":
		return string(k.State) + " on " + day
	case k.State == Unknown && k.Open > 0:
		return "opens; its state is not known"
	case k.State == Unknown:
		return "its state is not known"
	}
	return string(k.State)
}
