package cli

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A log has a line every five seconds of what goes on, and none where all is quick; a
// terminal is shown each group in place, of a table.
func TestProgressIsTold(t *testing.T) {
	t.Parallel()
	const inPlace = "\r\x1b[Klooking at keys ...\r\x1b[K"
	for name, c := range map[string]struct {
		terminal bool
		form     string
		lasts    time.Duration
		want     string
	}{
		"a log, quick":                {false, "table", 4 * time.Second, ""},
		"a log":                       {false, "table", 12 * time.Second, "aws-encryption-provider: still asking KMS about a (5 s)\naws-encryption-provider: still asking KMS about a (10 s)\n"},
		"a program":                   {false, "json", 6 * time.Second, "aws-encryption-provider: still asking KMS about a (5 s)\n"},
		"a terminal":                  {true, "table", time.Minute, inPlace},
		"a terminal, of another form": {true, "short", time.Minute, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			p := newProgress(Streams{Err: &out}, c.terminal, c.form)
			p.group("keys")
			p.question("KMS about a")
			time.Sleep(c.lasts)
			p.looked()
			p.stop()
			p.stop() // as deferred
			if out.String() != c.want {
				t.Errorf("%s: says %q, want %q", name, out.String(), c.want)
			}
		})
	}
}

// Nobody who reads standard error holds the doctor up.
func TestProgressWaitsForNoReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		began := time.Now()
		p := newProgress(Streams{Err: writerFunc(func(b []byte) (int, error) { <-hangs; return len(b), nil })}, false, "table")
		p.group("keys")
		time.Sleep(time.Minute)
		p.stop()
		if took := time.Since(began); took > time.Minute+time.Second {
			t.Errorf("took %s", took)
		}
		close(hangs)
	})
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }

func TestProgressNamesTheFileThatItReadsFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(Streams{Err: &out}, false, "table")
		time.Sleep(6 * time.Second)
		p.stop()
		if !strings.Contains(out.String(), "still reading files (5 s)") {
			t.Errorf("says %q", out.String())
		}
	})
}
