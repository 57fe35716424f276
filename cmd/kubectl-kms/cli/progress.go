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
	start    time.Time
}

// run shows progress until ctx ends, and takes the bar away then.
func (t *ticker) run(ctx context.Context) {
	show(ctx, t.w, t.terminal, t.bar, func() string { return t.place() + ": " + t.text() })
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

func (t *ticker) bar() string {
	f, ok := t.fraction()
	return barOf(f, ok, t.text())
}

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
	took := time.Since(t.start)
	keys, bytes := t.progress.Keys()
	text := fmt.Sprintf("%s, %s MB, %s keys/s", report.Plural(keys, "key", "keys"), report.Count(bytes>>20), report.Count(rate(keys, took)))
	if f, ok := t.fraction(); ok && len(t.names) == 1 {
		left := time.Duration(float64(took) * (1 - f) / f).Round(time.Second)
		return fmt.Sprintf("%d%%, %s, %s left", int(f*100), text, left)
	}
	return text
}

func rate(n int64, in time.Duration) int64 {
	if in <= 0 {
		return 0
	}
	return int64(float64(n) / in.Seconds())
}
