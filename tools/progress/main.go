// Command progress reads the output of `go test -json` and prints it for a
// person who waits: each test's own output in one piece when the test is done,
// however many run side by side, what still runs every half minute, and the
// closing line of each package as `go test` prints it.
//
// It exits 1 where a package failed or none was seen.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Stdin, os.Stdout, time.Tick(30*time.Second)); err != nil {
		fmt.Fprintln(os.Stderr, "progress:", err)
		os.Exit(1)
	}
}

// An event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
}

// A printer knows what is under way.
type printer struct {
	out     io.Writer
	held    map[string]*strings.Builder // "package test" → its output so far
	started map[string]time.Time        // top-level tests, by the same key
	passed  int
	skipped int
	failed  int
	broken  []string // packages
	ended   int      // packages
}

func run(in io.Reader, out io.Writer, tick <-chan time.Time) error {
	lines := make(chan string)
	var readErr error
	go func() { // ends with the input
		defer close(lines)
		scan := bufio.NewScanner(in)
		scan.Buffer(nil, 16<<20)
		for scan.Scan() {
			lines <- scan.Text()
		}
		readErr = scan.Err()
	}()
	p := printer{out: out, held: map[string]*strings.Builder{}, started: map[string]time.Time{}}
	for open := true; open; {
		select {
		case line, ok := <-lines:
			if open = ok; ok {
				p.line(line)
			}
		case now := <-tick:
			p.waiting(now)
		}
	}
	if readErr != nil {
		return readErr
	}
	for key, held := range p.held { // of a test binary that died
		fmt.Fprintf(out, "=== %s\n%s", key, held)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", p.passed, p.failed, p.skipped)
	if len(p.broken) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(p.broken, ", "))
	}
	if p.ended == 0 {
		return errors.New("no package was tested")
	}
	return nil
}

func (p *printer) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil {
		fmt.Fprintln(p.out, line) // the go command's own words
		return
	}
	top, _, sub := strings.Cut(e.Test, "/")
	key := e.Package + " " + top
	switch e.Action {
	case "run":
		if !sub {
			p.started[key] = time.Now()
		}
	case "output", "build-output":
		p.output(key, e)
	case "pass", "fail", "skip":
		switch {
		case e.Test == "":
			p.ended++
			if e.Action == "fail" {
				p.broken = append(p.broken, e.Package)
			}
		case !sub:
			p.done(key, e)
		}
	case "build-fail":
		p.broken = append(p.broken, "build of "+e.Package)
	}
}

func (p *printer) output(key string, e event) {
	if e.Test == "" {
		if e.Output != "PASS\n" {
			fmt.Fprint(p.out, e.Output)
		}
		return
	}
	for _, noise := range []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME"} {
		if strings.HasPrefix(e.Output, noise) {
			return
		}
	}
	if p.held[key] == nil {
		p.held[key] = &strings.Builder{}
	}
	fmt.Fprint(p.held[key], e.Output)
}

func (p *printer) done(key string, e event) {
	switch e.Action {
	case "pass":
		p.passed++
	case "fail":
		p.failed++
	default:
		p.skipped++
	}
	delete(p.started, key)
	if held := p.held[key]; held != nil {
		fmt.Fprint(p.out, held)
		delete(p.held, key)
	}
}

// waiting says what runs, the longest first.
func (p *printer) waiting(now time.Time) {
	if len(p.started) == 0 {
		return
	}
	var keys []string
	for key := range p.started {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return p.started[a].Compare(p.started[b]) })
	var words []string
	for _, key := range keys {
		if len(words) == 6 {
			words = append(words, fmt.Sprintf("%d more", len(keys)-len(words)))
			break
		}
		_, test, _ := strings.Cut(key, " ")
		words = append(words, fmt.Sprintf("%s (%v)", test, now.Sub(p.started[key]).Round(time.Second)))
	}
	fmt.Fprintf(p.out, "... %d passed, %d failed; running: %s\n", p.passed, p.failed, strings.Join(words, ", "))
}
