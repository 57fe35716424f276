package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"
)

// measureStart is the time from exec to the first Encrypt that works.
func measureStart(ctx context.Context, b *bench) ([]row, error) {
	const limit = 80 * time.Millisecond
	k, err := startKMS(ctx)
	if err != nil {
		return nil, err
	}
	defer k.end()
	starts := 20
	if b.short {
		starts = 5
	}
	var took []time.Duration
	for range starts + 1 {
		one, err := b.timeStart(ctx, k.url, k.key)
		if err != nil {
			return nil, err
		}
		took = append(took, one)
	}
	took = took[1:] // the first reads the binary from the disk
	return []row{{
		what:     "exec to first successful Encrypt, emulator at 0 ms",
		must:     "median at most 80 ms",
		measured: fmt.Sprintf("median %v of %d (%v to %v)", milli(median(took)), starts, milli(quantile(took, 0)), milli(quantile(took, 1))),
		pass:     median(took) <= limit,
	}}, nil
}

func (b *bench) timeStart(ctx context.Context, url, key string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	start := time.Now()
	p, err := b.execPlugin(ctx, url, []string{key})
	if err != nil {
		return 0, err
	}
	defer p.end()
	wire, err := dialPatiently(ctx, p.sockets[0])
	if err != nil {
		return 0, fmt.Errorf("%w; the plugin's log:\n%s", err, p.tail())
	}
	conn, err := over(wire)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if _, err := v2.NewKeyManagementServiceClient(conn).Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed(), Uid: uid}); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// dialPatiently connects as soon as somebody listens.
func dialPatiently(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		time.Sleep(time.Millisecond)
	}
}

// over makes a client that uses one connection.
func over(wire net.Conn) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if wire == nil {
				return nil, errors.New("the connection has been used")
			}
			c := wire
			wire = nil
			return c, nil
		}))
}

// measureMemory is the resident memory, and the size of the binary.
func measureMemory(ctx context.Context, b *bench) ([]row, error) {
	const (
		mostIdle   = 24e6
		mostOwn    = 8e6
		mostLoaded = 42e6
		mostBinary = 20e6
		settle     = 5 * time.Second
	)
	f, err := b.newField(ctx)
	if err != nil {
		return nil, err
	}
	defer f.end()
	time.Sleep(settle)
	idle, own, err := residentBytes(f.plugin.pid())
	if err != nil {
		return nil, err
	}
	megabytes := func(n int) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	rows := []row{{
		"memory, one key, idle", "at most 24 MB RSS, 8 MB without the binary's pages",
		fmt.Sprintf("%s, %s", megabytes(idle), megabytes(own)), idle <= mostIdle && own <= mostOwn,
	}}
	for _, callers := range []int{manyCallers, 8 * manyCallers} {
		for _, op := range []string{cryptOp, statusOp} {
			if _, err := f.callers.flawless(Load{Socket: f.plugin.sockets[0], Op: op, Callers: callers, For: b.slice()}); err != nil {
				return nil, err
			}
		}
		loaded, _, err := residentBytes(f.plugin.pid())
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{fmt.Sprintf("memory, one key, after load of %d callers", callers), "at most 42 MB RSS", megabytes(loaded), loaded <= mostLoaded})
	}
	file, err := os.Stat(b.plugin)
	if err != nil {
		return nil, err
	}
	return append(rows, row{"stripped binary", "at most 20 MB", megabytes(int(file.Size())), file.Size() <= mostBinary}), nil
}
