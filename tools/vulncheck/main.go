// Command vulncheck runs govulncheck in each directory of modules that it is
// given and fails where a known vulnerability is reached.
//
// The vulnerabilities come from the Go module golang.org/x/vulndb, at the
// version and checksum of vulndb.txt, through the Go module proxy: the check
// needs no website and gives the same answer every time. `vulncheck -update
// FILE` writes the newest version to FILE.
//
// What only a newer Go fixes is listed in accepted.txt, printed each time, and
// does not fail the check.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const database = "golang.org/x/vulndb"

//go:embed vulndb.txt
var pinned string

//go:embed accepted.txt
var acceptedList string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "vulncheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	set := flag.NewFlagSet("vulncheck", flag.ContinueOnError)
	set.SetOutput(progress)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	scanner := set.String("govulncheck", filepath.Join(filepath.Dir(self), "govulncheck"), "`PROGRAM` that scans")
	tags := set.String("tags", "", "build `TAGS` of the program")
	tests := set.Bool("test", false, "scan tests too")
	update := set.String("update", "", "write the newest version of the database to `FILE`, and scan nothing")
	if err := set.Parse(args); err != nil {
		return err
	}
	if *update != "" {
		db, err := download(ctx, "latest")
		if err != nil {
			return err
		}
		return os.WriteFile(*update, []byte(db.line()), 0o644)
	}
	if set.NArg() == 0 {
		return errors.New("name at least one directory of a module")
	}
	accepted, err := parseAccepted(acceptedList)
	if err != nil {
		return err
	}
	fields := strings.Fields(pinned)
	if len(fields) != 3 || fields[0] != database {
		return fmt.Errorf("vulndb.txt says %q, want module, version and checksum", pinned)
	}
	db, err := download(ctx, fields[1])
	if err != nil {
		return err
	}
	if db.Sum != fields[2] {
		return fmt.Errorf("%s %s has checksum %s, want %s", database, db.Version, db.Sum, fields[2])
	}
	// govulncheck reads a flat directory of entries as well as the layout of the
	// website. It takes an empty one for a world without vulnerabilities.
	entries := filepath.Join(db.Dir, "data", "osv")
	known, err := filepath.Glob(filepath.Join(entries, "GO-*.json"))
	if err != nil || len(known) == 0 {
		return fmt.Errorf("%s %s holds no entries in data/osv (%w)", database, db.Version, err)
	}
	fmt.Fprintf(out, "%d entries of %s %s\n", len(known), database, db.Version)

	failed := 0
	for _, dir := range set.Args() {
		start := time.Now()
		argv := []string{"-C", dir, "-db", "file://" + filepath.ToSlash(entries), "-format", "json", "-tags", *tags}
		if *tests {
			argv = append(argv, "-test")
		}
		cmd := exec.CommandContext(ctx, *scanner, append(argv, "./...")...)
		cmd.Stderr = progress
		stream, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("govulncheck in %s: %w", dir, err)
		}
		r, err := read(bytes.NewReader(stream))
		if err != nil {
			return fmt.Errorf("govulncheck in %s: %w", dir, err)
		}
		failed += r.print(out, dir, time.Since(start), accepted)
	}
	if failed > 0 {
		return fmt.Errorf("%d reached vulnerabilities: update the module or the Go that has the fix", failed)
	}
	return nil
}

// A release is what the Go command says of a downloaded module.
type release struct{ Version, Dir, Sum, Error string }

func (r release) line() string { return database + " " + r.Version + " " + r.Sum + "\n" }

// download fetches the database's module into the module cache, from outside of
// any module, so that no go.mod has a say in its version.
func download(ctx context.Context, version string) (release, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", database+"@"+version)
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	stdout, err := cmd.Output() // a failure stands in the JSON
	var r release
	if jerr := json.Unmarshal(stdout, &r); jerr != nil {
		return release{}, fmt.Errorf("go mod download %s@%s: %w", database, version, errors.Join(err, jerr))
	}
	if r.Error != "" {
		return release{}, fmt.Errorf("go mod download %s@%s: %s", database, version, r.Error)
	}
	return r, err
}

// A message is one of govulncheck's output, as far as this program reads it.
type message struct {
	Config *struct {
		GoVersion string `json:"go_version"`
		ScanLevel string `json:"scan_level"`
	}
	OSV *struct {
		ID, Summary string
	}
	Finding *struct {
		OSV          string
		FixedVersion string `json:"fixed_version"`
		Trace        []frame
	}
}

type frame struct {
	Module, Version, Package, Function, Receiver string
	Position                                     *struct {
		Filename string
		Line     int
	}
}

// A vulnerability is one that a module's code reaches.
type vulnerability struct {
	id, summary, module, pkg, found, fixed string
	from                                   string // where our code calls it
}

type report struct {
	goVersion string
	reached   []vulnerability
	imported  int // vulnerabilities in required code that nothing calls
}

// read reads govulncheck's JSON stream. A finding whose first frame names no
// function is one of code that is required or imported but not called.
func read(stream io.Reader) (report, error) {
	var r report
	level := ""
	summaries := map[string]string{}
	reached := map[string]vulnerability{}
	uncalled := map[string]bool{}
	for dec := json.NewDecoder(stream); ; {
		var m message
		err := dec.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return report{}, err
		}
		switch {
		case m.Config != nil:
			r.goVersion, level = m.Config.GoVersion, m.Config.ScanLevel
		case m.OSV != nil:
			summaries[m.OSV.ID] = m.OSV.Summary
		case m.Finding != nil && len(m.Finding.Trace) > 0:
			f := m.Finding
			vulnerable := f.Trace[0]
			if vulnerable.Function == "" {
				uncalled[f.OSV] = true
				continue
			}
			if _, ok := reached[f.OSV]; ok {
				continue
			}
			reached[f.OSV] = vulnerability{
				id: f.OSV, module: vulnerable.Module, pkg: vulnerable.Package,
				found: vulnerable.Version, fixed: f.FixedVersion,
				from: caller(f.Trace),
			}
		}
	}
	if level != "symbol" {
		return report{}, fmt.Errorf("govulncheck scanned at level %q, want symbol", level)
	}
	for id, v := range reached {
		delete(uncalled, id)
		v.summary = summaries[id]
		r.reached = append(r.reached, v)
	}
	slices.SortFunc(r.reached, func(a, b vulnerability) int { return strings.Compare(a.id, b.id) })
	r.imported = len(uncalled)
	return r, nil
}

// caller is the outermost frame of a trace: our own code.
func caller(trace []frame) string {
	last := trace[len(trace)-1]
	name := last.Package + "."
	if last.Receiver != "" {
		name += strings.TrimPrefix(last.Receiver, "*") + "."
	}
	name += last.Function
	if last.Position != nil && last.Position.Filename != "" {
		name = fmt.Sprintf("%s (%s:%d)", name, last.Position.Filename, last.Position.Line)
	}
	return name
}

// print writes the report and returns how many vulnerabilities nobody accepted.
func (r report) print(out io.Writer, dir string, took time.Duration, accepted map[string]string) (failed int) {
	var known int
	for _, v := range r.reached {
		fixed := v.fixed
		if fixed == "" {
			fixed = "no release yet"
		}
		if v.module == "stdlib" && accepted[v.id] != "" && accepted[v.id] == "go"+strings.TrimPrefix(v.fixed, "v") {
			known++
			fmt.Fprintf(out, "  %s, accepted until Go is %s: %s\n", v.id, accepted[v.id], v.summary)
			continue
		}
		failed++
		fmt.Fprintf(out, "  %s REACHED: %s\n    in %s of %s %s, fixed in %s; called from %s\n",
			v.id, v.summary, v.pkg, v.module, v.found, fixed, v.from)
	}
	fmt.Fprintf(out, "%s: %d vulnerabilities reached, %d more that only a newer Go than %s fixes, %d in code that is not called (%v)\n",
		dir, failed, known, r.goVersion, r.imported, took.Round(100*time.Millisecond))
	return failed
}

// parseAccepted maps the ID of each accepted vulnerability to the Go release
// that fixes it.
func parseAccepted(text string) (map[string]string, error) {
	accepted := map[string]string{}
	for n, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.SplitN(line, "\t", 3)
		if len(f) != 3 || !strings.HasPrefix(f[0], "GO-") || !strings.HasPrefix(f[1], "go1.") || f[2] == "" {
			return nil, fmt.Errorf("accepted.txt:%d: %q is not an ID, a Go release and a word about it", n+1, line)
		}
		if accepted[f[0]] != "" {
			return nil, fmt.Errorf("accepted.txt:%d: %s is listed twice", n+1, f[0])
		}
		accepted[f[0]] = f[1]
	}
	return accepted, nil
}
