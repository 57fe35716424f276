package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// A trouble is what befalls one key of two.
type trouble struct {
	name         string
	begin, end   func() error
	p99          []time.Duration // of the other key's callers, by cycle
	callsInTotal int
}

// measureNeighbour is two pairs in one process: what the callers on one key see
// while the other is in trouble. Traffic on the key in trouble goes on in every
// phase; the control phases take their turn with the others.
func measureNeighbour(ctx context.Context, b *bench) ([]row, error) {
	const (
		sufferers = 4
		most      = 1.5
		phase     = 3 * time.Second // a call that hangs fails after 2.5
	)
	k, err := startKMS(ctx)
	if err != nil {
		return nil, err
	}
	defer k.end()
	bad := k.key
	good, err := k.createKey()
	if err != nil {
		return nil, err
	}
	if err := k.slow(kmsLatency); err != nil {
		return nil, err
	}
	p, err := b.startPlugin(ctx, k.url, []string{bad, good})
	if err != nil {
		return nil, err
	}
	defer p.end()
	c, err := startCallers(ctx)
	if err != nil {
		return nil, err
	}
	defer c.end()
	ask := func(method string) func() error { return func() error { return k.call(method, bad, &None{}) } }
	nothing := func() error { return nil }
	control := &trouble{name: "control", begin: nothing, end: nothing}
	troubles := []*trouble{
		control,
		{name: "disabled", begin: ask("Disable"), end: ask("Enable")},
		{name: "hanging", begin: func() error { return k.inject(kmsemulator.Fault{Kind: kmsemulator.Hang, Key: bad}) }, end: k.mend},
		{name: "denied", begin: ask("Deny"), end: ask("Allow")},
	}
	load := Load{Socket: p.sockets[1], Op: cryptOp, Callers: manyCallers, For: phase}
	if _, err := c.flawless(load); err != nil { // warm
		return nil, err
	}
	for cycle := range b.rounds() {
		for i := range troubles {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			t := troubles[(cycle+i)%len(troubles)]
			if err := t.begin(); err != nil {
				return nil, err
			}
			suffering := c.begin(Load{Socket: p.sockets[0], Op: cryptOp, Callers: sufferers, For: load.For, Pace: kmsLatency})
			r, err := c.flawless(load)
			ended := t.end()
			s, sufferingErr := suffering.wait()
			if err := errors.Join(err, ended, sufferingErr); err != nil {
				return nil, fmt.Errorf("other key %s: %w", t.name, err)
			}
			if (t == control) != (s.Errors == 0) {
				return nil, fmt.Errorf("other key %s: %d of its %d calls failed: %s", t.name, s.Errors, s.Calls, s.FirstError)
			}
			if err := c.served(ctx, p.sockets[0]); err != nil {
				return nil, fmt.Errorf("after other key %s: %w", t.name, err)
			}
			t.p99 = append(t.p99, r.P99)
			t.callsInTotal += r.Calls
			b.note("  cycle %d: other key %-8s p99 %v, max %v of %d", cycle+1, t.name, milli(r.P99), milli(r.Max), r.Calls)
		}
	}
	var rows []row
	for _, t := range troubles[1:] {
		ours, normal := median(t.p99), median(control.p99)
		rows = append(rows, row{
			what:     fmt.Sprintf("two pairs, one key %s: p99 of %d callers on the other", t.name, manyCallers),
			must:     "at most 1.5 times the control phases', no error",
			measured: fmt.Sprintf("%v; control %v (%.2f times); %d calls", milli(ours), milli(normal), ratio(ours, normal), t.callsInTotal),
			pass:     ratio(ours, normal) <= most,
		})
	}
	return rows, nil
}
