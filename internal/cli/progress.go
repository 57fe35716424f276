package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stillEvery is how long a command that is not at a terminal says nothing.
const stillEvery = 5 * time.Second

// A progress tells whoever waits for doctor what it is at. A terminal is shown each
// group as it begins, in place. Elsewhere, as in a log, there is a line every
// stillEvery, and none where all is quick.
type progress struct {
	out   io.Writer
	shows bool // in place
	began time.Time
	lines *lineWriter // nil: none are written
	end   chan struct{}
	ended chan struct{}
	once  sync.Once

	mu   sync.Mutex
	what string
}

func newProgress(s Streams, terminal bool, form string) *progress {
	p := &progress{what: "reading files", out: s.Err, shows: terminal && form == "table", began: time.Now(), end: make(chan struct{}), ended: make(chan struct{})}
	if terminal {
		close(p.ended)
		return p
	}
	p.lines = newLineWriter(s.Err, func(int64) {})
	go p.run() // ends with stop
	return p
}

func (p *progress) run() {
	defer close(p.ended)
	ticker := time.NewTicker(stillEvery)
	defer ticker.Stop()
	for {
		select {
		case <-p.end:
			return
		case <-ticker.C:
			p.mu.Lock()
			what := p.what
			p.mu.Unlock()
			fmt.Fprintf(p.lines, "%s: still %s (%d s)\n", programName, what, int(time.Since(p.began).Seconds()))
		}
	}
}

// stop ends what is told, all of which is written then unless nobody reads it.
func (p *progress) stop() {
	p.once.Do(func() {
		close(p.end)
		<-p.ended
		if p.lines != nil {
			p.lines.Close()
		}
	})
}

func (p *progress) does(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what = what
}

// group tells that the doctor has come to a group of checks.
func (p *progress) group(title string) {
	p.does("looking at " + title)
	if p.shows {
		fmt.Fprintf(p.out, "\r\x1b[Klooking at %s ...", title)
	}
}

// question tells whom the doctor asks.
func (p *progress) question(whom string) { p.does("asking " + whom) }

// looked tells that a look has ended.
func (p *progress) looked() {
	if p.shows {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// isTerminal reports whether a person sees what is written.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
