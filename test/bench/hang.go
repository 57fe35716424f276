package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

const (
	statusCallers = 4
	statusPace    = 10 * time.Millisecond
)

func hang() kmsemulator.Fault { return kmsemulator.Fault{Kind: kmsemulator.Hang} }

// measureHang is Status while KMS hangs for 30 s and traffic hangs with it, then
// until Status is ok again.
func measureHang(ctx context.Context, b *bench) ([]row, error) {
	const (
		length   = 30 * time.Second // an outage is one after 20
		recovery = 15 * time.Second
		limit    = 50 * time.Millisecond
	)
	k, err := startKMS(ctx)
	if err != nil {
		return nil, err
	}
	defer k.end()
	p, err := b.startPlugin(ctx, k.url, []string{k.key}, "--outage-grace=0")
	if err != nil {
		return nil, err
	}
	defer p.end()
	c, err := startCallers(ctx)
	if err != nil {
		return nil, err
	}
	defer c.end()
	if err := k.inject(hang()); err != nil {
		return nil, err
	}
	start := time.Now()
	traffic := c.begin(Load{Socket: p.sockets[0], Op: cryptOp, Callers: statusCallers, For: length})
	polls := c.begin(Load{Socket: p.sockets[0], Op: statusOp, Callers: statusCallers, For: length, Pace: statusPace})
	if err := p.waitStatus(ctx, 0, length, func(s *v2.StatusResponse, err error) bool { return !isOK(s, err) }); err != nil {
		return nil, err
	}
	named := time.Since(start)
	r, err := polls.wait()
	_, trafficErr := traffic.wait()
	mended := k.mend()
	if err := errors.Join(err, trafficErr, mended); err != nil {
		return nil, err
	}
	start = time.Now()
	if err := p.waitStatus(ctx, 0, recovery, isOK); err != nil {
		return nil, err
	}
	return []row{{
		what: "Status, KMS hanging 30 s, grace 0",
		must: "p99 under 50 ms; names the cause, then ok within 15 s",
		measured: fmt.Sprintf("p99 %v, max %v of %d; named after %v, ok after %v", milli(r.P99), milli(r.Max), r.Calls,
			named.Round(100*time.Millisecond), time.Since(start).Round(time.Millisecond)),
		pass: r.P99 < limit,
	}}, nil
}

// measureBusy is Status beside 128 callers whose KMS calls hang. On a machine
// that has other work a single answer may come late for reasons of its own, so
// the worst of each of several slices counts by its median; what a bare server
// that does nothing else shows in the same slices stands beside it.
func measureBusy(ctx context.Context, b *bench) ([]row, error) {
	const (
		hanging = 128
		slices  = 5
		slice   = 2 * time.Second
		limit   = 50 * time.Millisecond
	)
	f, err := b.newField(ctx)
	if err != nil {
		return nil, err
	}
	defer f.end()
	if err := f.kms.inject(hang()); err != nil {
		return nil, err
	}
	traffic := f.callers.begin(Load{Socket: f.plugin.sockets[0], Op: cryptOp, Callers: hanging, For: slices * slice})
	poll := Load{Op: statusOp, Callers: statusCallers, For: slice, Pace: statusPace}
	var worst, bareWorst, p99 []time.Duration
	for range slices {
		poll.Socket = f.socket
		bare := f.callers.begin(poll)
		poll.Socket = f.plugin.sockets[0]
		r, err := f.callers.flawless(poll)
		bareResult, bareErr := bare.wait()
		if err := errors.Join(err, bareErr, ctx.Err()); err != nil {
			return nil, err
		}
		worst, p99, bareWorst = append(worst, r.Max), append(p99, r.P99), append(bareWorst, bareResult.Max)
		b.note("  Status p99 %v, max %v; bare server's max %v", milli(r.P99), milli(r.Max), milli(bareResult.Max))
	}
	mended := f.kms.mend()
	t, trafficErr := traffic.wait()
	if err := errors.Join(mended, trafficErr); err != nil {
		return nil, err
	}
	return []row{{
		what:     fmt.Sprintf("Status beside %d callers whose KMS calls hang", hanging),
		must:     "under 50 ms",
		measured: fmt.Sprintf("max %v (bare server %v), p99 %v; %d calls hung", milli(median(worst)), milli(median(bareWorst)), milli(median(p99)), t.Errors),
		pass:     median(worst) < limit && t.Errors >= hanging,
	}}, nil
}
