package settings

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go/logging"
)

func TestLinesOfTheSDKComeAtTheirLevelOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &sdkLog{pause: time.Minute, log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		lines := func() (lines []string) {
			defer out.Reset()
			return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		}
		for range 1000 {
			l.Logf(logging.Warn, "falling back to %s\nAuthorization: hidden", "IMDSv1")
		}
		l.Logf(logging.Debug, "a profile is ignored")
		got := lines()
		if len(got) != 2 || !strings.Contains(got[0], "level=WARN") || !strings.Contains(got[0], `falling back to IMDSv1`) || !strings.Contains(got[1], "level=DEBUG") {
			t.Errorf("got %q, want a line of each level", got)
		}
		if text := strings.Join(got, ""); strings.Contains(text, "hidden") || strings.Contains(text, "left_out") {
			t.Errorf("got %q, want first lines alone", got)
		}
		time.Sleep(l.pause)
		l.Logf(logging.Warn, "falling back to %s", "IMDSv1")
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "left_out=999") {
			t.Errorf("a minute later: %q, want the line with what was left out", got)
		}
		for n := range 10_000 {
			l.Logf(logging.Warn, "line %d", n)
		}
		if got := lines(); len(got) >= maxSDKLines {
			t.Errorf("%d different lines at once, want fewer than %d", len(got), maxSDKLines)
		}
		time.Sleep(l.pause)
		l.Logf(logging.Warn, "another line")
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "another line") {
			t.Errorf("after a flood: %q, want the line", got)
		}
		l.Logf(logging.Warn, "%s", strings.Repeat("x", 5000))
		if got := lines(); len(got[0]) > 400 {
			t.Errorf("a line of %d bytes", len(got[0]))
		}
	})
}

func TestLinesOfTheSDKGoNowhereWithoutALog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	(&sdkLog{}).Logf(logging.Warn, "a line")
	(&sdkLog{pause: time.Minute, log: slog.New(slog.NewTextHandler(&out, nil))}).Logf(logging.Debug, "below the level")
	if out.Len() > 0 {
		t.Errorf("got %q, want nothing", out.String())
	}
}
