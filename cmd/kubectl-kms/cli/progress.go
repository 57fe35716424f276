package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// How often progress is shown.
const (
	eachBar  = 200 * time.Millisecond
	eachLine = 10 * time.Second
)

// A ticker shows how far a reading is: as a bar that moves on a terminal, else as a line
// now and then.
type ticker struct {
	w        io.Writer
	terminal bool
	progress *audit.Progress
	names    []string
	began    func() time.Time
	other    func() *view // nil, or what to show instead; its nil: the reading
}

// A view is how far something else than a reading is.
type view struct {
	what, text string
	fraction   float64 // 0: not known
}

// reads takes the names of places, and returns the places.
func (t *ticker) reads(places []place) (all []audit.Place) {
	for _, p := range places {
		all = append(all, p.Place)
		t.names = append(t.names, p.name)
	}
	return all
}

// during shows progress while work runs.
func (t *ticker) during(ctx context.Context, work func()) {
	showing, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // ends with showing
		defer close(ended)
		t.run(showing)
	}()
	work()
	stop()
	<-ended
}

// run shows progress until ctx ends, and takes the bar away then.
func (t *ticker) run(ctx context.Context) {
	show(ctx, t.w, t.terminal, func() string { return t.now().bar() }, func() string { now := t.now(); return now.what + ": " + now.text })
}

// show shows how far something is until ctx ends: a bar that moves on a terminal, and is
// taken away then, or else a line now and then.
func show(ctx context.Context, w io.Writer, terminal bool, bar, line func() string) {
	each := eachLine
	if terminal {
		each = eachBar
	}
	tick := time.NewTicker(each)
	defer tick.Stop()
	shown := false
	for {
		select {
		case <-ctx.Done():
			if shown {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return
		case <-tick.C:
			if terminal {
				shown = true
				fmt.Fprint(w, "\r\x1b[K"+bar())
			} else {
				fmt.Fprintf(w, "%s: %s\n", displayName, line())
			}
		}
	}
}

func (t *ticker) place() string { return report.Plain(t.names[t.progress.Place()]) }

// fraction is how much of the present place was read, and ok whether its reader tells.
func (t *ticker) fraction() (f float64, ok bool) {
	done, total := t.progress.Done()
	if done <= 0 || total <= 0 {
		return 0, false
	}
	return min(float64(done)/float64(total), 1), true
}

// now is what to show.
func (t *ticker) now() *view {
	if t.other != nil {
		if s := t.other(); s != nil {
			return s
		}
	}
	f, _ := t.fraction()
	return &view{what: t.place(), text: t.text(), fraction: f}
}

func (s *view) bar() string { return barOf(s.fraction, s.fraction > 0, s.text) }

// barOf fits 79 columns, so that no terminal breaks it. known is whether the fraction is.
func barOf(fraction float64, known bool, text string) string {
	const cells = 20
	if known {
		full := int(fraction * cells)
		text = "[" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "] " + text
	}
	if len(text) >= report.Columns {
		text = text[:report.Columns-1]
	}
	return text
}

func (t *ticker) text() string {
	took := time.Since(t.began())
	keys, bytes := t.progress.Keys()
	text := fmt.Sprintf("%s, %s MB, %s keys/s", report.Plural(keys, "key", "keys"), report.Count(bytes>>20), report.Count(perSecond(keys, took)))
	if f, ok := t.fraction(); ok && len(t.names) == 1 {
		left := time.Duration(float64(took) * (1 - f) / f).Round(time.Second)
		return fmt.Sprintf("%d%%, %s, %s left", int(f*100), text, left)
	}
	return text
}

func perSecond(n int64, in time.Duration) int64 {
	if in <= 0 {
		return 0
	}
	return int64(float64(n) / in.Seconds())
}
