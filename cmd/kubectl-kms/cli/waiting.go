package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// A waiting shows what is waited for: on a terminal in one line that changes, else in a
// line now and then.
type waiting struct {
	w        io.Writer
	terminal bool
	start    time.Time
	limit    time.Duration
	said     time.Time // when the last line was written
	shown    bool
}

// pause waits between two questions, and shows why. It ends early when ctx or the limit
// does.
func (w *waiting) pause(ctx context.Context, r *apiservers.Report) error {
	until := min(waitPause, w.limit-time.Since(w.start))
	timer := time.NewTimer(until)
	defer timer.Stop()
	tick := time.NewTicker(eachBar)
	defer tick.Stop()
	for {
		w.show(r)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			return nil
		case <-tick.C:
		}
	}
}

func (w *waiting) show(r *apiservers.Report) {
	text := fmt.Sprintf("%s left, %s", (w.limit - time.Since(w.start)).Round(time.Second), r.Verdict.Answer)
	if len(r.Verdict.Reasons) > 0 {
		text += ": " + r.Verdict.Reasons[0].Text
	}
	if w.terminal {
		if len(text) >= report.Columns {
			text = text[:report.Columns-3] + ".."
		}
		w.shown = true
		fmt.Fprint(w.w, "\r\x1b[K"+text)
		return
	}
	if w.said.IsZero() || time.Since(w.said) >= eachLine {
		w.said = time.Now()
		fmt.Fprintf(w.w, "%s: waiting, %s\n", displayName, text)
	}
}

// end takes the line away.
func (w *waiting) end() {
	if w.shown {
		fmt.Fprint(w.w, "\r\x1b[K")
	}
}
