package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// manyCallers is the number that the comparisons and rates are stated for.
const manyCallers = 16

// A contender takes its turn in a comparison.
type contender struct {
	name string
	pid  int
	run  func(time.Duration) (Result, error)

	cpu  []time.Duration // of the process for one call, by round
	rate []float64       // calls a second, by round
}

func (c *contender) turn(span time.Duration) error {
	before, err := cpuTime(c.pid)
	if err != nil {
		return err
	}
	r, err := c.run(span)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if r.Errors > 0 {
		return fmt.Errorf("%s: %d of %d calls failed: %s", c.name, r.Errors, r.Calls, r.FirstError)
	}
	after, err := cpuTime(c.pid)
	if err != nil {
		return err
	}
	c.cpu = append(c.cpu, (after-before)/time.Duration(r.Calls))
	c.rate = append(c.rate, r.perSecond())
	return nil
}

// compare lets contenders take turns, in an order that rotates, after a warm-up
// that does not count.
func (b *bench) compare(ctx context.Context, contenders ...*contender) error {
	for _, c := range contenders {
		if err := c.turn(b.slice() / 3); err != nil {
			return err
		}
		c.cpu, c.rate = nil, nil
	}
	for round := range b.rounds() {
		for i := range contenders {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := contenders[(round+i)%len(contenders)].turn(b.slice()); err != nil {
				return err
			}
		}
		for _, c := range contenders {
			b.note("  round %d: %-16s %v of CPU a call, %.0f a second", round+1, c.name, c.cpu[round].Round(100*time.Nanosecond), c.rate[round])
		}
	}
	return nil
}

// A field is the plugin, what it calls, who calls it and the bare server that it
// is compared with.
type field struct {
	kms     *kms
	plugin  *plugin
	bare    *child
	socket  string // of the bare server
	callers callers
}

func (b *bench) newField(ctx context.Context) (*field, error) {
	dir, err := os.MkdirTemp(b.dir, "bare-")
	if err != nil {
		return nil, err
	}
	f := &field{socket: filepath.Join(dir, "bare.sock")}
	if err := f.start(ctx, b); err != nil {
		f.end()
		return nil, err
	}
	return f, nil
}

func (f *field) start(ctx context.Context, b *bench) (err error) {
	if f.kms, err = startKMS(ctx); err != nil {
		return err
	}
	if f.plugin, err = b.startPlugin(ctx, f.kms.url, []string{f.kms.key}); err != nil {
		return err
	}
	if f.bare, err = startBare(ctx, f.plugin, f.socket); err != nil {
		return err
	}
	f.callers, err = startCallers(ctx)
	return err
}

// end ends what has started.
func (f *field) end() {
	if f.callers.child != nil {
		f.callers.end()
	}
	if f.bare != nil {
		f.bare.end()
	}
	if f.plugin != nil {
		f.plugin.end()
	}
	if f.kms != nil {
		f.kms.end()
	}
}

func (f *field) pluginDoes(op string) *contender {
	return &contender{name: "plugin", pid: f.plugin.pid(), run: func(span time.Duration) (Result, error) {
		return f.callers.load(Load{Socket: f.plugin.sockets[0], Op: op, Callers: manyCallers, For: span})
	}}
}

func (f *field) bareDoes(op string) *contender {
	return &contender{name: "bare grpc-go", pid: f.bare.pid(), run: func(span time.Duration) (Result, error) {
		return f.callers.load(Load{Socket: f.socket, Op: op, Callers: manyCallers, For: span})
	}}
}

// measureCPU compares what an operation costs with what its two halves cost by
// themselves.
func measureCPU(ctx context.Context, b *bench) ([]row, error) {
	f, err := b.newField(ctx)
	if err != nil {
		return nil, err
	}
	defer f.end()
	loop, err := start(ctx, "sdk")
	if err != nil {
		return nil, err
	}
	defer loop.end()
	plugin, bare := f.pluginDoes(cryptOp), f.bareDoes(cryptOp)
	sdk := &contender{name: "SDK in a loop", pid: loop.pid(), run: func(span time.Duration) (r Result, err error) {
		return r, loop.call("Run", Loop{URL: f.kms.url, Key: f.kms.key, Callers: manyCallers, For: span}, &r)
	}}
	if err := b.compare(ctx, plugin, sdk, bare); err != nil {
		return nil, err
	}
	ours, theirs := median(plugin.cpu), median(sdk.cpu)+median(bare.cpu)
	return []row{{
		what: "CPU per direct operation at 0 ms, plain HTTP",
		must: "at most SDK call + bare grpc-go call",
		measured: fmt.Sprintf("%v; SDK %v + bare %v = %v (%.2f of it)", micro(ours), micro(median(sdk.cpu)), micro(median(bare.cpu)),
			micro(theirs), ratio(ours, theirs)),
		pass: ours <= theirs,
	}}, nil
}

// measureStatus compares Status with the bare server's.
func measureStatus(ctx context.Context, b *bench) ([]row, error) {
	f, err := b.newField(ctx)
	if err != nil {
		return nil, err
	}
	defer f.end()
	plugin, bare := f.pluginDoes(statusOp), f.bareDoes(statusOp)
	if err := b.compare(ctx, plugin, bare); err != nil {
		return nil, err
	}
	rate, bareRate := median(plugin.rate), median(bare.rate)
	cpu, bareCPU := median(plugin.cpu), median(bare.cpu)
	return []row{{
		what:     fmt.Sprintf("Status served, %d callers", manyCallers),
		must:     "at least the bare server's rate",
		measured: fmt.Sprintf("%.0f/s; bare %.0f/s (%.2f of it)", rate, bareRate, rate/bareRate),
		pass:     rate >= bareRate,
	}, {
		what:     fmt.Sprintf("CPU per Status, %d callers", manyCallers),
		must:     "at most 0.8 of the bare server's",
		measured: fmt.Sprintf("%v; bare %v (%.2f of it)", micro(cpu), micro(bareCPU), ratio(cpu, bareCPU)),
		pass:     ratio(cpu, bareCPU) <= .8,
	}}, nil
}

func micro(d time.Duration) time.Duration { return d.Round(100 * time.Nanosecond) }

func milli(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
