package settings

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/smithy-go/logging"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// maxSDKLines is how many different lines are told between two equal ones.
const maxSDKLines = 64

// A sdkLog takes the SDK's own log lines, which would go to standard error as
// they are. Each is quoted and cut as all foreign words are, at its level; equal
// ones come once a minute, with how many were left out. A nil log takes them and
// tells nobody.
type sdkLog struct {
	log   *slog.Logger
	pause time.Duration // the least between two equal lines

	mu   sync.Mutex
	told map[string]*toldLine
}

type toldLine struct {
	at      time.Time
	leftOut int
}

// Logf takes a line.
func (l *sdkLog) Logf(classification logging.Classification, format string, v ...any) {
	level := slog.LevelWarn
	if classification == logging.Debug {
		level = slog.LevelDebug
	}
	ctx := context.Background() // the SDK hands over none
	if l.log == nil || !l.log.Enabled(ctx, level) {
		return
	}
	line := cause.Quote(fmt.Sprintf(format, v...))
	leftOut, ok := l.tell(level.String() + line)
	if !ok {
		return
	}
	attrs := []slog.Attr{slog.String("said", line)}
	if leftOut > 0 {
		attrs = append(attrs, slog.Int("left_out", leftOut))
	}
	l.log.LogAttrs(ctx, level, "the AWS SDK reports", attrs...)
}

// tell reports whether a line is to be told now, and how often it was left out since
// it was last told.
func (l *sdkLog) tell(line string) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	t := l.told[line]
	switch {
	case t != nil && now.Sub(t.at) < l.pause:
		t.leftOut++
		return 0, false
	case t != nil:
		leftOut = t.leftOut
	default:
		l.forgetLocked(now)
		if len(l.told) >= maxSDKLines {
			return 0, false
		}
	}
	if l.told == nil {
		l.told = map[string]*toldLine{}
	}
	l.told[line] = &toldLine{at: now}
	return leftOut, true
}

// forgetLocked drops lines that have not come again for long, when there are many.
func (l *sdkLog) forgetLocked(now time.Time) {
	if len(l.told) < maxSDKLines {
		return
	}
	for line, t := range l.told {
		if now.Sub(t.at) >= l.pause {
			delete(l.told, line)
		}
	}
}

// warnOfUnread tells that a shared file counts as empty for the SDK, wherever
// credentials are found then.
func (l *sdkLog) warnOfUnread(unread *UnreadError) {
	if l.log == nil || unread == nil {
		return
	}
	if _, ok := l.tell(unread.Error()); ok {
		l.log.Warn("a file of AWS settings cannot be read, and counts as empty", slog.String("error", unread.Error()), slog.String("next", unread.check()))
	}
}
