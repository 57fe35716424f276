package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/snapshot"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// The bench reads an etcd of KUBECTL_KMS_BENCH_KEYS keys (200,000) of 1 kB:
//
//	KUBECTL_KMS_BENCH_KEYS=1000000 go -C cmd/kubectl-kms test -run '^$' -bench Readers -benchtime 1x -timeout 2h ./etcd
//
// What is compared runs by turns, each in a process of its own, and medians count. It
// fails where a figure does not hold; below 200,000 keys what is done once weighs too
// much for that.
const (
	benchKeys   = "KUBECTL_KMS_BENCH_KEYS"
	benchRole   = "KUBECTL_KMS_BENCH_ROLE"
	benchPlace  = "KUBECTL_KMS_BENCH_PLACE"
	benchRounds = 3
	benchValue  = 1000
	benchPage   = 10_000
)

// What must hold.
const (
	mostPages    = 1.3 // times etcd's own read by the same pages
	mostStream   = 0.8
	mostSnapshot = 30 * time.Second // for a million keys
	mostMemory   = 200e6            // bytes that no file backs
)

// A figure is what a process of the bench found.
type figure struct {
	Keys    int64
	Took    time.Duration
	RSSAnon int64 // bytes, at its highest
}

func BenchmarkReaders(b *testing.B) {
	keys := 200_000
	if text := os.Getenv(benchKeys); text != "" {
		var err error
		if keys, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	e := etcdtest.Start(b, etcdtest.V37, cluster.EtcdOptions{})
	began := time.Now()
	fillMany(b, e.Client(), keys)
	file := filepath.Join(b.TempDir(), "snapshot")
	e.Snapshot(file)
	b.Logf("%d keys of %d bytes, written in %v; %d cores", keys, benchValue, time.Since(began).Round(time.Second), runtime.NumCPU())

	figures := map[string][]figure{}
	roles := []string{"etcd's own pages", "pages", "stream", "snapshot"}
	for b.Loop() {
		for range benchRounds {
			for _, role := range roles {
				place := e.URL
				if role == "snapshot" {
					place = file
				}
				f := runRole(b, role, place)
				if f.Keys != int64(keys) {
					b.Fatalf("%s read %d keys of %d", role, f.Keys, keys)
				}
				figures[role] = append(figures[role], f)
			}
		}
	}
	own := median(figures[roles[0]])
	for _, role := range roles {
		took := median(figures[role])
		memory := slices.MaxFunc(figures[role], func(a, b figure) int { return int(a.RSSAnon - b.RSSAnon) }).RSSAnon
		b.Logf("%-18s %8v  %.2f of etcd's own pages, RssAnon %d MB", role, took.Round(time.Millisecond), float64(took)/float64(own), memory/1e6)
		if memory > mostMemory && role != roles[0] {
			b.Errorf("%s took %d MB of memory", role, memory/1e6)
		}
	}
	if ratio := float64(median(figures["pages"])) / float64(own); ratio > mostPages {
		b.Errorf("pages take %.2f times as long as etcd's own", ratio)
	}
	if ratio := float64(median(figures["stream"])) / float64(own); ratio > mostStream {
		b.Errorf("a stream takes %.2f times as long as etcd's own pages", ratio)
	}
	if took := median(figures["snapshot"]); took > mostSnapshot {
		b.Errorf("a snapshot takes %v", took)
	}
}

func median(figures []figure) time.Duration {
	figures = slices.Clone(figures)
	slices.SortFunc(figures, func(a, b figure) int { return int(a.Took - b.Took) })
	return figures[len(figures)/2].Took
}

// fillMany writes keys as fast as etcd takes them.
func fillMany(b *testing.B, c *clientv3.Client, keys int) {
	b.Helper()
	const ops, writers = 100, 8
	value := strings.Repeat("x", benchValue)
	batches := make(chan int)
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for from := range batches {
				var puts []clientv3.Op
				for i := from; i < min(from+ops, keys); i++ {
					puts = append(puts, clientv3.OpPut(fmt.Sprintf("/registry/secrets/ns-%03d/name-%07d", i%300, i), value))
				}
				if _, err := c.Txn(b.Context()).Then(puts...).Commit(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for from := 0; from < keys; from += ops {
		batches <- from
	}
	close(batches)
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// runRole runs a role of the bench in a process of its own.
func runRole(b *testing.B, role, place string) (f figure) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), benchRole+"="+role, benchPlace+"="+place)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil {
		b.Fatalf("%s: %v: %s", role, err, out)
	}
	return f
}

// playRole is such a process.
func playRole(role, place string, out io.Writer) error {
	ctx, done := context.WithCancel(context.Background())
	highest := make(chan int64)
	go func() { highest <- watchMemory(ctx) }() // ends with ctx
	start := time.Now()
	var f figure
	var err error
	each := func(store.KeyValue) error { return nil }
	var reading store.Reading
	switch role {
	case "pages", "stream":
		var r *Reader
		if r, err = New(Options{Endpoints: []string{place}}); err == nil {
			r.limits.noStreams = role == "pages"
			reading, err = r.Read(ctx, []string{"/registry"}, each)
		}
		f.Keys = reading.Keys
	case "snapshot":
		reading, err = snapshot.New(place, snapshot.Options{}).Read(ctx, []string{"/registry"}, each)
		f.Keys = reading.Keys
	default:
		f.Keys, err = ownPages(ctx, place)
	}
	f.Took = time.Since(start)
	done()
	f.RSSAnon = <-highest
	return errors.Join(err, json.NewEncoder(out).Encode(f))
}

// ownPages reads by etcd's own client, and does nothing with what it reads.
func ownPages(ctx context.Context, url string) (keys int64, err error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	revision := int64(0)
	for start := "/registry/"; ; {
		answer, err := c.Get(ctx, start, clientv3.WithRange("/registry0"), clientv3.WithLimit(benchPage), clientv3.WithRev(revision), clientv3.WithSerializable())
		if err != nil {
			return 0, err
		}
		revision = answer.Header.Revision
		if keys += int64(len(answer.Kvs)); !answer.More {
			return keys, nil
		}
		start = string(answer.Kvs[len(answer.Kvs)-1].Key) + "\x00"
	}
}

// watchMemory returns the highest RssAnon of this process until ctx ends.
func watchMemory(ctx context.Context) (highest int64) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return -1
		}
		_, rest, _ := strings.Cut(string(text), "RssAnon:")
		fields := strings.Fields(rest)
		if len(fields) > 0 {
			kb, _ := strconv.ParseInt(fields[0], 10, 64)
			highest = max(highest, kb<<10)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return highest
}
