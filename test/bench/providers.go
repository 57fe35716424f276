package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	manyProviders = 20
	keysEach      = 2 // as amid a rotation: one writes, one reads
)

// measureProviders is what each of many providers costs over the first: one
// process with one, one with many, side by side. An API server's connection to
// each socket is open throughout. Both run as shipped: the many collect their heap
// sooner than the one does, which is part of what they cost over it.
func measureProviders(ctx context.Context, b *bench) ([]row, error) {
	const (
		settle = 5 * time.Second
		// A key is checked at the start and 30 s later, looked at after 45 s, and
		// from then on checked and looked at by turns, twice in 59 s: a minute
		// that begins here has as much as any later one.
		quiet = 35 * time.Second
		count = time.Minute
	)
	one, err := b.newCrowd(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer one.end()
	many, err := b.newCrowd(ctx, manyProviders)
	if err != nil {
		return nil, err
	}
	defer many.end()
	began := time.Now()
	for _, step := range []struct {
		at time.Duration
		do func(*crowd) error
	}{
		{settle, func(c *crowd) (err error) { c.fresh, err = c.measure(ctx); return err }},
		{quiet, func(c *crowd) (err error) { c.before, err = c.measure(ctx); return err }},
		{quiet + count, func(c *crowd) (err error) { c.idle, err = c.measure(ctx); return err }},
		{quiet + count, func(c *crowd) error { return c.load(b.slice()) }}, //nolint:contextcheck // each call has a time of its own
		{quiet + count, func(c *crowd) (err error) { c.loaded, err = c.measure(ctx); return err }},
	} {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Until(began.Add(step.at))):
		}
		for _, c := range []*crowd{one, many} {
			if err := step.do(c); err != nil {
				return nil, fmt.Errorf("%d providers: %w", c.size(), err)
			}
		}
	}
	return compareCrowds(one, many), nil
}

// compareCrowds says what each of many costs over the first.
func compareCrowds(one, many *crowd) []row {
	const mostMemory = 1e6
	over := func(of func(*crowd) float64) float64 {
		return (of(many) - of(one)) / float64(many.size()-one.size())
	}
	memory := func(when string, of func(*crowd) figures) row {
		resident := func(c *crowd) float64 { return float64(of(c).resident) }
		each := over(resident)
		return row{
			what:     fmt.Sprintf("%d providers, %s: memory of each over the first", many.size(), when),
			must:     "at most 1 MB RSS",
			measured: fmt.Sprintf("%.2f MB (%.1f MB, one alone %.1f MB)", each/1e6, resident(many)/1e6, resident(one)/1e6),
			pass:     each <= mostMemory,
		}
	}
	idle := memory("idle", func(c *crowd) figures { return c.idle })
	idle.measured += fmt.Sprintf("; %.1f goroutines, %.1f descriptors",
		over(func(c *crowd) float64 { return c.idle.goroutines }), over(func(c *crowd) float64 { return c.idle.descriptors }))
	calls := func(c *crowd) float64 { return float64(c.idle.calls-c.before.calls) / float64(c.size()) }
	return []row{
		{
			what:     fmt.Sprintf("%d providers, idle: KMS calls of each in a minute", many.size()),
			must:     "as many as of one alone",
			measured: fmt.Sprintf("%.2f; one alone %.2f", calls(many), calls(one)),
			pass:     math.Round(calls(many)) == math.Round(calls(one)) && calls(one) > 0, // one may have been repeated
		},
		memory("just started", func(c *crowd) figures { return c.fresh }),
		idle,
		memory(fmt.Sprintf("after load of %d callers", manyCallers), func(c *crowd) figures { return c.loaded }),
	}
}

// A crowd is a plugin with a number of providers by file, and a KMS of its own,
// so that its calls can be counted.
type crowd struct {
	kms    *kms
	plugin *plugin

	fresh, before, idle, loaded figures
}

func (c *crowd) size() int { return len(c.plugin.sockets) }

func (b *bench) newCrowd(ctx context.Context, size int) (*crowd, error) {
	k, err := startKMS(ctx)
	if err != nil {
		return nil, err
	}
	p, err := b.startProviders(ctx, k, size)
	if err != nil {
		k.end()
		return nil, err
	}
	return &crowd{kms: k, plugin: p}, nil
}

func (c *crowd) end() {
	c.plugin.end()
	c.kms.end()
}

// startProviders starts the plugin with a file and waits until every socket's
// Status is ok. Each provider has a socket and keys of its own.
func (b *bench) startProviders(ctx context.Context, k *kms, size int) (*plugin, error) {
	p, err := b.newPlugin(size)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(p.dir, "configuration.yaml")
	if err := writeConfiguration(file, p.sockets, k); err != nil {
		return nil, err
	}
	if err := b.exec(ctx, p, "--config="+file); err != nil {
		return nil, err
	}
	if err := p.waitAll(ctx); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

func writeConfiguration(file string, sockets []string, k *kms) error {
	var text strings.Builder
	text.WriteString("apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nproviders:\n")
	for i, socket := range sockets {
		fmt.Fprintf(&text, "- name: cluster-%d\n  listen: %q\n  keys:\n", i, socket)
		for range keysEach {
			arn, err := k.createKey()
			if err != nil {
				return err
			}
			fmt.Fprintf(&text, "  - {key: %q, region: %q, endpoint: %q}\n", arn, region, k.url)
		}
	}
	return os.WriteFile(file, []byte(text.String()), 0o600)
}

// load has callers on one socket after the other: what many calls at once cost
// is no matter of how many providers they go to.
func (c *crowd) load(span time.Duration) error {
	for _, conn := range c.plugin.conns {
		r := drive(manyCallers, span/time.Duration(c.size()), 0, func() func(context.Context) error { return cryptCaller(conn) })
		if r.Errors > 0 {
			return fmt.Errorf("%d of %d calls failed: %s", r.Errors, r.Calls, r.FirstError)
		}
	}
	return nil
}

// figures are what a crowd uses at some time, and the KMS calls until then.
type figures struct {
	resident                int
	calls                   int
	goroutines, descriptors float64
}

func (c *crowd) measure(ctx context.Context) (f figures, err error) {
	if f.resident, _, err = residentBytes(c.plugin.pid()); err != nil { // before metrics are made, which costs some
		return f, err
	}
	if f.calls, err = c.kms.calls(); err != nil {
		return f, err
	}
	values, err := c.plugin.metrics(ctx)
	f.goroutines, f.descriptors = values["go_goroutines"], values["process_open_fds"]
	return f, err
}

// metrics are the plugin's, by name and labels as they are printed.
func (p *plugin) metrics(ctx context.Context) (map[string]float64, error) {
	address, err := p.healthAddress()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	return values, lines.Err()
}

// healthAddress is where metrics are, by the log.
func (p *plugin) healthAddress() (string, error) {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		var said struct{ Msg, Address string }
		if err := json.Unmarshal([]byte(line), &said); err == nil && said.Address != "" {
			return said.Address, nil
		}
	}
	return "", fmt.Errorf("the plugin's log names no address of metrics; it ends:\n%s", p.tail())
}
