package rewrite

import (
	"fmt"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// sentence is what the report comes to. It says "all" only where nothing is left.
func (r *Report) sentence() string {
	parts := []string{r.finding()}
	if r.Result != Refused && r.Result != Planned {
		parts = append(parts, r.counts()...)
	}
	parts = append(parts, r.Reasons...)
	parts = append(parts, r.basis()...)
	return strings.Join(parts, "; ") + "."
}

func (r *Report) finding() string {
	stale := report.Count(r.Stale)
	rewritten := fmt.Sprintf("%s of %s rewritten", report.Count(r.Rewritten), stale)
	if r.Stale == 0 {
		rewritten = "nothing was stale"
	}
	switch r.Result {
	case Clean:
		if r.Stale == 0 {
			return "nothing is stale"
		}
		return "nothing stale is left: " + rewritten
	case LeftOver:
		return rewritten + "; " + report.Plural(r.LeftCount, "needs you", "need you")
	case NotKnown:
		return "not known whether anything stale is left: " + rewritten + r.remainder()
	case NotProved:
		return fmt.Sprintf("sent, not proved: %s of %s were written as the API server says%s", report.Count(r.Rewritten), stale, r.remainder())
	case Refused:
		return "nothing was sent: API servers do not all write under one key, or nobody knows"
	case Interrupted:
		return fmt.Sprintf("interrupted: %s of %s were rewritten, and no request is under way; what is written stays, and the next run goes on with the rest", report.Count(r.Rewritten), stale)
	case Stopped:
		return "stopped: " + rewritten + r.remainder()
	case Planned:
		return fmt.Sprintf("dry run: %s would be sent, nothing was", report.Plural(r.Stale-r.unsendable(), "object", "objects")) + r.lost()
	}
	return string(r.Result)
}

func (r *Report) remainder() string {
	if r.LeftCount == 0 {
		return ""
	}
	return ", " + report.Plural(r.LeftCount, "is left", "are left")
}

// unsendable counts what no request can reach.
func (r *Report) unsendable() (n int64) {
	for _, l := range r.Left {
		if l.Outcome != OutcomeNotSent {
			n++
		}
	}
	return n
}

func (r *Report) lost() string {
	if n := r.unsendable(); n > 0 {
		return "; " + report.Plural(n, "needs you", "need you")
	}
	return ""
}

func (r *Report) counts() (out []string) {
	for _, c := range []struct {
		n    int64
		text string
	}{
		{r.ByOthers, "no longer stale by other writes or deletions"},
		{r.Gone, "gone"},
		{r.Fresh, "not written, since the API server takes them for fresh"},
		{int64(len(r.Changed)), "longer or shorter than before"},
	} {
		if c.n > 0 {
			out = append(out, report.Count(c.n)+" "+c.text)
		}
	}
	return out
}

func (r *Report) basis() (out []string) {
	if r.Read != "" && r.Result != Interrupted {
		out = append(out, "read: "+r.Read)
	}
	if r.APIServers != "" && r.Result != Refused { // its reasons say it
		out = append(out, "API servers: "+r.APIServers)
	}
	if r.Result == Refused {
		out = append(out, "look at kubectl kms status, and run this again when it says that they have converged")
	}
	if r.Result == Clean {
		out = append(out, "older revisions and backups from before are not rewritten")
	}
	return out
}
