package main

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// kmsLatency is about what KMS takes within its Region.
const kmsLatency = 10 * time.Millisecond

// measureRate is Encrypt and Decrypt over a KMS of realistic latency.
func measureRate(ctx context.Context, b *bench) ([]row, error) {
	f, err := b.newField(ctx)
	if err != nil {
		return nil, err
	}
	defer f.end()
	if err := f.kms.slow(kmsLatency); err != nil {
		return nil, err
	}
	load := Load{Socket: f.plugin.sockets[0], Op: cryptOp, Callers: manyCallers, For: b.slice()}
	if _, err := f.callers.flawless(load); err != nil { // warm
		return nil, err
	}
	loop, err := start(ctx, "sdk")
	if err != nil {
		return nil, err
	}
	defer loop.end()
	var all Result
	var kmsCalls int
	var rates, ceilings []float64
	var p99 []time.Duration
	for range b.rounds() {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		before, err := f.kms.calls()
		if err != nil {
			return nil, err
		}
		r, err := f.callers.load(load)
		if err != nil {
			return nil, err
		}
		after, err := f.kms.calls()
		if err != nil {
			return nil, err
		}
		kmsCalls += after - before
		all.Calls += r.Calls
		all.Errors += r.Errors
		all.FirstError = cmp.Or(all.FirstError, r.FirstError)
		rates, p99 = append(rates, r.perSecond()), append(p99, r.P99)
		b.note("  %.0f a second, p50 %v, p99 %v, max %v", r.perSecond(), milli(r.P50), milli(r.P99), milli(r.Max))
		var ceiling Result // what this machine, with all else that runs on it, allows
		if err := loop.call("Run", Loop{URL: f.kms.url, Key: f.kms.key, Callers: manyCallers, For: load.For / 3}, &ceiling); err != nil {
			return nil, err
		}
		ceilings = append(ceilings, ceiling.perSecond())
	}
	rate := median(rates)
	const what, must = "Encrypt/Decrypt at 10 ms KMS latency, 16 callers", "at least 1300/s, one KMS call each, no error"
	measured := fmt.Sprintf("%.0f/s (the SDK alone %.0f/s), p99 %v; %d KMS calls for %d; %d errors",
		rate, median(ceilings), milli(median(p99)), kmsCalls, all.Calls, all.Errors)
	if all.Errors > 0 {
		measured += ": " + all.FirstError
	}
	return []row{{what, must, measured, rate >= 1300 && kmsCalls == all.Calls && all.Errors == 0}}, nil
}
