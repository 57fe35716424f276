// Command bench measures the plugin and prints a table of what must be and
// what is.
//
//	make bench
//	go run -C test/bench . [-short] [-only NAME,...] [-plugin FILE]
//
// The plugin is the real binary, built as it is shipped. The KMS emulator, the
// callers and whatever the plugin is compared with are processes of their own:
// this same binary, told by its environment which of them to be. What is
// compared runs by turns in one run, and medians count, so that a machine with
// other work on it changes the figures and not the verdicts; the header says how
// loaded it was. Linux only.
//
// The exit code is 0 when every figure holds, 1 when one does not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(runRole(role, os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// A row is one line of the table.
type row struct {
	what     string
	must     string
	measured string
	pass     bool
}

// A section measures rows that share a set-up.
type section struct {
	name string
	run  func(context.Context, *bench) ([]row, error)
}

func sections() []section {
	return []section{
		{"hang", measureHang},
		{"neighbour", measureNeighbour},
		{"rate", measureRate},
		{"cpu", measureCPU},
		{"status", measureStatus},
		{"busy", measureBusy},
		{"start", measureStart},
		{"memory", measureMemory},
		{"providers", measureProviders},
	}
}

// A bench is what the sections share.
type bench struct {
	dir    string // of sockets and logs, gone at the end
	plugin string // the binary under test
	short  bool   // a look, not a verdict
	note   func(format string, args ...any)
}

// rounds is how often what is compared takes its turn.
func (b *bench) rounds() int {
	if b.short {
		return 2
	}
	return 5
}

// slice is how long one turn lasts.
func (b *bench) slice() time.Duration {
	if b.short {
		return time.Second
	}
	return 3 * time.Second
}

func run(ctx context.Context, args []string, out, progress io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	short := flags.Bool("short", false, "fewer and shorter rounds: a look, not a verdict")
	only := flags.String("only", "", "comma list of `NAMES` to measure: "+strings.Join(names(), ", "))
	plugin := flags.String("plugin", "", "`FILE` of a ready plugin to measure; default: built from the checkout")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	chosen, err := choose(*only)
	if err != nil {
		fmt.Fprintf(progress, "bench: %v\n", err)
		return 2
	}
	held, err := measure(ctx, chosen, *plugin, *short, out, progress)
	if err != nil {
		fmt.Fprintf(progress, "bench: %v\n", err)
	}
	if err != nil || !held {
		return 1
	}
	return 0
}

func names() []string {
	var all []string
	for _, s := range sections() {
		all = append(all, s.name)
	}
	return all
}

func choose(only string) ([]section, error) {
	if only == "" {
		return sections(), nil
	}
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("-only: there is no %q, but %s", name, strings.Join(names(), ", "))
		}
	}
	return slices.DeleteFunc(sections(), func(s section) bool { return !slices.Contains(wanted, s.name) }), nil
}

// measure runs the sections and prints the table. held says that every row
// passed.
func measure(ctx context.Context, chosen []section, plugin string, short bool, out, progress io.Writer) (held bool, err error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{dir: dir, plugin: plugin, short: short, note: func(format string, args ...any) {
		fmt.Fprintf(progress, format+"\n", args...)
	}}
	if b.plugin == "" {
		b.note("building the plugin")
		if b.plugin, err = buildPlugin(ctx, dir); err != nil {
			return false, err
		}
	}
	before := loadAverage()
	start := time.Now()
	var rows []row
	for _, s := range chosen {
		b.note("measuring %s", s.name)
		measured, err := s.run(ctx, b)
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			measured = append(measured, row{what: s.name, must: "be measured", measured: err.Error()})
		}
		rows = append(rows, measured...)
	}
	fmt.Fprintf(out, "%s, %d CPUs, %s; load average %s before, %s after %v\n\n",
		runtime.Version(), runtime.NumCPU(), cpuModel(), before, loadAverage(), time.Since(start).Round(time.Second))
	return printTable(out, rows)
}

func printTable(out io.Writer, rows []row) (held bool, err error) {
	held = true
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tmust be\tmeasured\t")
	fmt.Fprintln(table, "----\t-------\t--------\t")
	for _, r := range rows {
		verdict := "pass"
		if !r.pass {
			verdict, held = "FAIL", false
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.what, r.must, strings.ReplaceAll(r.measured, "\n", " "), verdict)
	}
	return held, table.Flush()
}
