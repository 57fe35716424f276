package main

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

const (
	// kmsLatency is about what KMS takes within its Region.
	kmsLatency = 10 * time.Millisecond
	// leastRate is what the plugin may not fall below, as a part of the rate of the
	// SDK alone. Both take turns in one run: how many calls a second a machine makes
	// says more about the machine.
	leastRate = 0.90
)

// measureRate is Encrypt and Decrypt over a KMS of realistic latency, compared with
// the SDK alone over the same.
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
	var rates, alone, ratios []float64
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
		var sdk Result
		if err := loop.call("Run", Loop{URL: f.kms.url, Key: f.kms.key, Callers: manyCallers, For: load.For}, &sdk); err != nil {
			return nil, err
		}
		if sdk.Errors > 0 {
			return nil, fmt.Errorf("%d of %d calls of the SDK alone failed: %s", sdk.Errors, sdk.Calls, sdk.FirstError)
		}
		alone = append(alone, sdk.perSecond())
		ratios = append(ratios, r.perSecond()/sdk.perSecond())
	}
	ratio := median(ratios)
	what := "Encrypt/Decrypt at 10 ms KMS latency, 16 callers"
	must := fmt.Sprintf("at least %.2f of the SDK alone, one KMS call each but for a health check, no error", leastRate)
	measured := fmt.Sprintf("%.2f of it (%.0f/s; the SDK alone %.0f/s), p99 %v; %d KMS calls for %d; %d errors",
		ratio, median(rates), median(alone), milli(median(p99)), kmsCalls, all.Calls, all.Errors)
	if all.Errors > 0 {
		measured += ": " + all.FirstError
	}
	return []row{{what, must, measured, ratio >= leastRate && kmsCalls-all.Calls <= b.rounds() && kmsCalls >= all.Calls && all.Errors == 0}}, nil
}
