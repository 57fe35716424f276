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
	k, key, err := oneKey()
	if err != nil {
		return nil, err
	}
	defer k.end()
	p, err := b.startPlugin(ctx, k.url, []string{key}, "--outage-grace=0")
	if err != nil {
		return nil, err
	}
	defer p.end()
	c, err := startCallers()
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
		measured: fmt.Sprintf("p99 %v, max %v of %d; named after %v, ok after %v", micro(r.P99), micro(r.Max), r.Calls,
			named.Round(100*time.Millisecond), time.Since(start).Round(time.Millisecond)),
		pass: r.P99 < limit,
	}}, nil
}

// measureBusy is Status beside 128 callers whose KMS calls hang.
func measureBusy(ctx context.Context, b *bench) ([]row, error) {
	const (
		span    = 10 * time.Second // a call that hangs fails after 2.5
		hanging = 128
		limit   = 50 * time.Millisecond
	)
	k, key, err := oneKey()
	if err != nil {
		return nil, err
	}
	defer k.end()
	p, err := b.startPlugin(ctx, k.url, []string{key})
	if err != nil {
		return nil, err
	}
	defer p.end()
	c, err := startCallers()
	if err != nil {
		return nil, err
	}
	defer c.end()
	if err := k.inject(hang()); err != nil {
		return nil, err
	}
	traffic := c.begin(Load{Socket: p.sockets[0], Op: cryptOp, Callers: hanging, For: span})
	r, err := c.flawless(Load{Socket: p.sockets[0], Op: statusOp, Callers: statusCallers, For: span, Pace: statusPace})
	mended := k.mend()
	t, trafficErr := traffic.wait()
	if err := errors.Join(err, mended, trafficErr); err != nil {
		return nil, err
	}
	return []row{{
		what:     fmt.Sprintf("Status beside %d callers whose KMS calls hang", hanging),
		must:     "under 50 ms, all of them",
		measured: fmt.Sprintf("max %v, p99 %v of %d; %d calls hung", micro(r.Max), micro(r.P99), r.Calls, t.Errors),
		pass:     r.Max < limit && t.Errors >= hanging,
	}}, nil
}

func oneKey() (k *kms, key string, err error) {
	if k, err = startKMS(); err != nil {
		return nil, "", err
	}
	if key, err = k.createKey(); err != nil {
		k.end()
		return nil, "", err
	}
	return k, key, nil
}
