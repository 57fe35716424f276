package rewrite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
)

// errInARow ends a round.
var errInARow = errors.New("too many failures in a row")

// A run is one call of [Run].
type run struct {
	o       Options
	gate    Gate
	lister  Lister
	patcher Patcher
	pace    *pace
	report  *Report

	keys    map[string]string // that API servers write under
	members string            // which API servers those are

	mu     sync.Mutex // guards what follows, the last Round of the report and its Changed, while a round runs
	tracks map[string]*track
	inARow int
	last   string // cause of the last failure
}

// A track is what is known of an object that was in a list.
type track struct {
	state    ending
	revision int64 // at which it was sent
	why      Left
	written  bool  // in any round
	wrote    int64 // the revision that was written last
}

// Run has everything that is stale written again. An error means that it ended before
// anything was sent; what happened after that is in the report.
func Run(ctx context.Context, o Options, gate Gate, lister Lister, patcher Patcher, admissions Admissions) (*Report, error) {
	o = o.filled()
	r := &run{
		o: o, gate: gate, lister: lister, patcher: patcher, pace: newPace(o.Rate), tracks: map[string]*track{},
		report: &Report{
			APIVersion: APIVersion, Kind: Kind, DryRun: o.DryRun, Keys: map[string]string{}, Plan: []PlanRow{}, Rounds: []Round{},
			Left: []Left{}, Changed: []Change{}, Reasons: []string{}, Admission: AdmissionReport{Mutating: []string{}},
		},
	}
	judged, err := gate.Judge(ctx)
	if err != nil {
		return nil, err
	}
	r.report.APIServers, r.report.RestsOn = judged.Basis, judged.RestsOn
	if !judged.Converged {
		r.conclude(Refused, judged.Reasons)
		return r.report, nil
	}
	r.keys, r.members = judged.Keys, judged.Members
	if r.keys != nil {
		r.report.Keys = r.keys
	}
	work, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.prepare(ctx, work, admissions); err != nil {
		return nil, err
	}
	if o.DryRun {
		r.planned(work)
		return r.report, nil
	}
	r.rounds(ctx, work)
	return r.report, nil
}

// list reads what is stale, and remembers it.
func (r *run) list(ctx context.Context) (*Work, error) {
	r.o.Progress.listing.Store(true)
	defer r.o.Progress.listing.Store(false)
	work, err := r.lister.List(ctx, r.keys)
	if err != nil {
		return nil, err
	}
	r.report.Read = work.Basis
	for _, o := range work.Stale {
		if r.tracks[o.name()] == nil {
			r.tracks[o.name()] = &track{}
		}
	}
	return work, r.patcher.Learn(ctx, work.resources())
}

// prepare says what will be done.
func (r *run) prepare(ctx context.Context, work *Work, admissions Admissions) error {
	r.report.Plan = r.plan(work)
	resources := work.resources()
	r.report.Admission.Why = "nothing is stale, so it was not asked for"
	if len(resources) > 0 && admissions != nil {
		found, err := admissions.Of(ctx, resources)
		if err != nil {
			return err
		}
		r.report.Admission = AdmissionReport{Known: found.Unknown == "", Why: found.Unknown, Mutating: append([]string{}, found.Mutating...)}
	}
	if r.o.Announce == nil {
		return nil
	}
	return r.o.Announce(r.report)
}

// resources are those of what is stale, in the order of the list.
func (w *Work) resources() (out []Resource) {
	for _, o := range w.Stale {
		if !slices.Contains(out, o.Resource) {
			out = append(out, o.Resource)
		}
	}
	return out
}

func (r *run) plan(work *Work) []PlanRow {
	rows := map[[2]string]*PlanRow{}
	for _, o := range work.Stale {
		at := [2]string{o.Resource.String(), o.Under}
		if rows[at] == nil {
			rows[at] = &PlanRow{Resource: shown(at[0]), Under: at[1], Orphaned: r.patcher.Serves(o.Resource)}
		}
		rows[at].Objects++
		if o.Doubt {
			rows[at].InDoubt++
		}
	}
	out := []PlanRow{}
	for _, row := range rows {
		out = append(out, *row)
	}
	slices.SortFunc(out, func(a, b PlanRow) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Under, b.Under))
	})
	return out
}

// planned concludes a dry run.
func (r *run) planned(work *Work) {
	r.report.Stale = int64(len(work.Stale) + len(work.Lost))
	for _, o := range work.Stale {
		l := Left{Path: shown(o.name()), Resource: shown(o.Resource.String()), Outcome: OutcomeNotSent, Cause: "stored under " + o.Under}
		if why := r.patcher.Serves(o.Resource); why != "" {
			l.Outcome, l.Cause, l.Next = OutcomeOrphaned, why, nextOrphaned
		}
		r.report.Left = append(r.report.Left, l)
	}
	r.setLeft(append(r.report.Left, work.Lost...))
	r.conclude(Planned, work.NotRead)
}

// rounds sends what is stale and lists again, until nothing is left that another round
// could change.
func (r *run) rounds(ctx context.Context, work *Work) {
	for range r.o.Rounds {
		objects := r.sendable(work)
		if len(objects) == 0 {
			break
		}
		err := r.round(ctx, objects)
		if ctx.Err() != nil {
			r.interrupted()
			return
		}
		if !r.lister.Proves() {
			r.unproved(err)
			return
		}
		again, listed := r.list(ctx)
		if ctx.Err() != nil {
			r.interrupted()
			return
		}
		if listed != nil {
			r.unread(listed)
			return
		}
		work = again
		if err != nil {
			r.end(ctx, work, err)
			return
		}
		switch reasons := r.judge(ctx); {
		case ctx.Err() != nil:
			r.interrupted()
			return
		case len(reasons) > 0:
			r.finish(work, reasons, nil)
			return
		}
	}
	r.end(ctx, work, nil)
}

// end asks the API servers for the last time.
func (r *run) end(ctx context.Context, work *Work, err error) {
	reasons := r.judge(ctx)
	if ctx.Err() != nil {
		r.interrupted()
		return
	}
	r.finish(work, reasons, err)
}

// judge asks the API servers once more, and returns why they do not write as they did in
// the beginning.
func (r *run) judge(ctx context.Context) []string {
	now, err := r.gate.Judge(ctx)
	switch {
	case err != nil:
		return []string{"API servers could not be asked again: " + err.Error()}
	case !now.Converged:
		return append([]string{"API servers no longer agree"}, now.Reasons...)
	case !maps.Equal(now.Keys, r.keys):
		return []string{"API servers write under another key than when this began: run it again"}
	case now.Members != r.members:
		return []string{"an API server has started, restarted or ended meanwhile, and may have written in another way: run it again"}
	}
	r.report.APIServers, r.report.RestsOn = now.Basis, now.RestsOn
	return nil
}

// sendable are the objects whose fate another request can change, in an order that
// spreads those that are refused for one reason.
func (r *run) sendable(work *Work) []Object {
	var out []Object
	for _, o := range work.Stale {
		t := r.tracks[o.name()]
		refusedBefore := t.revision == o.Revision && t.state == refused
		if !refusedBefore && !t.fresh(o) && r.patcher.Serves(o.Resource) == "" {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b Object) int { return cmp.Compare(place(a), place(b)) })
	return out
}

// fresh reports whether an object whose bytes leave it in doubt is known to be fresh: this
// run has written it, or the API server has said so.
func (t *track) fresh(o Object) bool {
	return o.Doubt && (t.written && t.wrote == o.Revision || t.state == notWritten && t.revision == o.Revision)
}

func place(o Object) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(o.name()))
	return h.Sum64()
}

// round sends objects, each once. It returns [errInARow] where it gave up.
func (r *run) round(ctx context.Context, objects []Object) error {
	r.report.Rounds = append(r.report.Rounds, Round{Objects: int64(len(objects))})
	r.o.Progress.begin(len(objects))
	r.inARow = 0
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	queue := make(chan Object)
	var workers sync.WaitGroup
	for range min(r.o.Workers, len(objects)) {
		workers.Go(func() { // ends with the queue
			for o := range queue {
				if e := r.send(ctx, o); r.note(o, e) {
					stop(errInARow)
				}
			}
		})
	}
	for _, o := range objects {
		select {
		case queue <- o:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	workers.Wait()
	if errors.Is(context.Cause(ctx), errInARow) {
		return errInARow
	}
	return nil
}

// note enters what became of an object, and reports whether to give up.
func (r *run) note(o Object, e end) (enough bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, t := &r.report.Rounds[len(r.report.Rounds)-1], r.tracks[o.name()]
	at.Conflicts += e.conflicts
	if e.outcome == ended {
		return false
	}
	t.state, t.revision, t.why = e.outcome, e.object.Revision, e.why
	switch e.outcome {
	case written:
		at.Written++
		t.written, t.wrote = true, e.revision
		r.o.Progress.written.Add(1)
		r.compare(at, e)
	case notWritten:
		at.NotWritten++
	case byOthers:
		at.ByOthers++
	case gone:
		at.Gone++
	case refused:
		at.Refused++
	case failed:
		at.Failed++
	case ended:
	}
	r.o.Progress.done.Add(1)
	if e.outcome != refused && e.outcome != failed {
		r.inARow = 0
		return false
	}
	r.o.Progress.failed.Add(1)
	r.inARow++
	r.last = e.why.Cause
	return r.inARow >= r.o.InARow
}

func (r *run) compare(at *Round, e end) {
	switch {
	case !e.compared:
		r.report.NotCompared++
	case e.change != nil:
		at.Changed++
		r.report.Changed = append(r.report.Changed, *e.change)
	}
}

// What to do about an object that is left, and why it is where that is not a request's
// answer.
const (
	nextOrphaned = "Serve the resource again for as long as this runs, or delete the object if nobody needs it"
	nextStatus   = "Look at kubectl kms status, then run this again"
)

func (r *run) left(o Object) Left {
	t := r.tracks[o.name()]
	l := Left{Outcome: OutcomeNotSent, Cause: "it became stale after the last round began", Next: nextStatus}
	why := r.patcher.Serves(o.Resource)
	switch {
	case why != "":
		l = Left{Outcome: OutcomeOrphaned, Cause: why, Next: nextOrphaned}
	case t.state == refused, t.state == failed:
		l = t.why
	case t.state == notWritten:
		l = Left{Outcome: OutcomeNotWritten, Cause: "the API server takes it for fresh: its encryption configuration or key is not the one that was asked for", Next: nextStatus}
	case t.written:
		l = Left{Outcome: OutcomeWritten, Cause: "it was rewritten and is stale again: an API server still writes as before", Next: nextStatus}
	}
	l.Path, l.Resource = shown(o.name()), shown(o.Resource.String())
	return l
}

// finish counts by the last list.
func (r *run) finish(work *Work, reasons []string, ended error) {
	still := map[string]bool{}
	left := slices.Clone(work.Lost)
	for _, o := range work.Stale {
		t := r.tracks[o.name()]
		switch {
		case t.fresh(o) && t.state == notWritten:
			r.report.Fresh++
			still[o.name()] = true
			continue
		case t.fresh(o):
			continue
		}
		still[o.name()] = true
		left = append(left, r.left(o))
	}
	for name, t := range r.tracks {
		switch {
		case still[name]:
		case t.state == gone:
			r.report.Gone++
		case t.written:
			r.report.Rewritten++
		default:
			r.report.ByOthers++
		}
	}
	r.report.Stale = int64(len(r.tracks) + len(work.Lost))
	r.setLeft(left)
	switch {
	case ended != nil:
		r.conclude(Stopped, append([]string{r.inARowText()}, reasons...))
	case len(reasons) > 0:
		r.conclude(NotKnown, append(reasons, work.NotRead...))
	case len(left) > 0:
		r.conclude(LeftOver, work.NotRead)
	case len(work.NotRead) > 0:
		r.conclude(NotKnown, work.NotRead)
	default:
		r.conclude(Clean, nil)
	}
}

func (r *run) inARowText() string {
	return fmt.Sprintf("%d failures in a row, the last: %s", r.o.InARow, r.last)
}

// sent counts by answers, where no list follows.
func (r *run) sent() (open []Left) {
	for name, t := range r.tracks {
		switch {
		case t.state == gone:
			r.report.Gone++
		case t.written && t.state == written:
			r.report.Rewritten++
		case t.state == byOthers:
			r.report.ByOthers++
		case t.state == notWritten:
			r.report.Fresh++
		case t.state == refused, t.state == failed:
			l := t.why
			l.Path = shown(name)
			open = append(open, l)
		default:
			open = append(open, Left{Path: shown(name), Outcome: OutcomeNotSent, Cause: "the run ended before it", Next: nextAgain})
		}
	}
	r.report.Stale = int64(len(r.tracks))
	return open
}

func (r *run) interrupted() {
	open := r.sent()
	r.report.LeftCount = int64(len(open)) // without a list: these may be fresh by now
	r.conclude(Interrupted, nil)
}

func (r *run) unread(err error) {
	r.setLeft(r.sent())
	r.conclude(NotKnown, []string{"what is stale could not be listed again: " + err.Error()})
}

func (r *run) unproved(err error) {
	r.setLeft(r.sent())
	if err != nil {
		r.conclude(Stopped, []string{r.inARowText()})
		return
	}
	r.conclude(NotProved, nil)
}

func (r *run) setLeft(left []Left) {
	if left == nil {
		left = []Left{}
	}
	slices.SortFunc(left, func(a, b Left) int { return cmp.Compare(a.Path, b.Path) })
	r.report.Left, r.report.LeftCount = left, int64(len(left))
}

// conclude ends the report.
func (r *run) conclude(result Result, reasons []string) {
	slices.SortFunc(r.report.Changed, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	r.report.Result = result
	if reasons != nil {
		r.report.Reasons = reasons
	}
	r.report.Text = r.report.sentence()
}
