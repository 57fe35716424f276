package doctor

import (
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/docs"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// A Status is how one check ended. Its text is part of the JSON form.
type Status string

// How a check ends.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failure Status = "failure"
	Skipped Status = "not checked" // something before it failed, or it does not apply
)

// A Report is all that was looked at. Its JSON form is version 1: fields are
// added and never change their meaning.
type Report struct {
	Version  int     `json:"version"`
	OK       bool    `json:"ok"` // no failure; there may be warnings
	Failures int     `json:"failures"`
	Warnings int     `json:"warnings"`
	Groups   []Group `json:"groups"`
}

// A Group is the checks of one thing, in order.
type Group struct {
	Title  string  `json:"title"`
	Checks []Check `json:"checks"`

	called cause.Names
}

// A Check is one line. With a warning or a failure go a code, why, what to do and
// where to read on.
type Check struct {
	Status Status  `json:"status"`
	Text   string  `json:"text"`
	Code   string  `json:"code,omitempty"`
	Cause  string  `json:"cause,omitempty"`
	Next   string  `json:"next,omitempty"`
	Link   *string `json:"link,omitempty"` // "" where this build knows no address; nil where there is no code

	page string // of docs, that explains the code
}

// link says where the code is explained: at an address, if the pages have one.
func (c *Check) link(base string) {
	if c.Code != "" {
		url := docs.URL(base, docs.Code(c.page, c.Code))
		c.Link = &url
	}
}

// readOn is what a person does to read on.
func (c *Check) readOn() string {
	if c.Link != nil && *c.Link != "" {
		return *c.Link
	}
	return cause.Explain(c.Code)
}

func (g *Group) ok(text string)      { g.Checks = append(g.Checks, Check{Status: OK, Text: text}) }
func (g *Group) skipped(text string) { g.Checks = append(g.Checks, Check{Status: Skipped, Text: text}) }

// found adds what only this room finds. The text says what was found; the cause is
// the code's, with what was seen behind it.
func (g *Group) found(code Code, text, seen string) { g.advise(code, text, seen, code.Info().Next) }

// advise is found with an instruction that knows more than the code's.
func (g *Group) advise(code Code, text, seen, next string) {
	g.tell(code, code.Info().Status, text, seen, next)
}

func (g *Group) tell(code Code, status Status, text, seen, next string) {
	info := code.Info()
	g.add(Check{
		Status: status, Text: text, Code: info.ID, Cause: withSeen(info.What, seen), Next: next, page: docs.DoctorCodes,
	})
}

// failed adds what the daemon itself would say of a call.
func (g *Group) failed(text string, e *cause.Error) {
	g.add(Check{
		Status: Failure, Text: text, Code: e.Code.String(), Cause: withSeen(e.What(), said(e)), Next: e.CalledBy(g.called).Next(), page: docs.Errors,
	})
}

// add adds a finding once: what several keys or sockets share is mended once.
func (g *Group) add(c Check) {
	if slices.ContainsFunc(g.Checks, func(o Check) bool { return o.Code == c.Code && o.Cause == c.Cause && o.Next == c.Next }) {
		g.skipped(c.Text + ": by the same " + c.Code)
		return
	}
	g.Checks = append(g.Checks, c)
}

func withSeen(why, seen string) string {
	if seen == "" {
		return why
	}
	return why + " (" + seen + ")"
}

// said is AWS's own words, as the log has them.
func said(e *cause.Error) string {
	var words []string
	for _, w := range []string{e.Asked(), e.AWSCode} {
		if w != "" {
			words = append(words, w)
		}
	}
	if e.Said != "" {
		words = append(words, cause.Quote(e.Said))
	}
	return strings.Join(words, ": ")
}

// count sums up what the groups have.
func (r *Report) count() {
	r.Failures, r.Warnings = 0, 0
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			switch c.Status {
			case Failure:
				r.Failures++
			case Warning:
				r.Warnings++
			case OK, Skipped:
			}
		}
	}
	r.OK = r.Failures == 0
}

// rounded makes a duration short enough for a line.
func rounded(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}
