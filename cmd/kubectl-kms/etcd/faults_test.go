package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// ways are how an etcd is read.
func ways() []struct {
	name    string
	version etcdtest.Version
	pages   bool
} {
	return []struct {
		name    string
		version etcdtest.Version
		pages   bool
	}{
		{"3.7 by streams", etcdtest.V37, false},
		{"3.7 by pages", etcdtest.V37, true},
		{"3.6", etcdtest.V36, false},
	}
}

// Values are so large that etcd cannot send them all before the first was taken.
const (
	bigKeys  = 300
	bigValue = 200_000
)

func fill(e *etcdtest.Etcd) {
	for i := range bigKeys {
		e.Put(fmt.Sprintf("/registry/secrets/%03d", i), strings.Repeat("x", bigValue))
	}
}

// want checks an error's words.
func want(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v\ndoes not say %q", err, word)
		}
	}
}

// TestACompactionMidwayEndsIt: what comes after is of another revision, and does not
// count with what came before.
func TestACompactionMidwayEndsIt(t *testing.T) {
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t, way.version, cluster.EtcdOptions{})
			fill(e)
			r := reader(t, e.URL)
			r.limits.firstPage, r.limits.page, r.limits.noStreams = 5, 5, way.pages
			began := 0
			begin := func(compact bool) func(store.KeyValue) error {
				began++
				first := true
				return func(store.KeyValue) error {
					if compact && first {
						e.Compact(e.Put("/registry/secrets/299", "newer"))
					}
					first = false
					return nil
				}
			}
			reading, err := r.Read(t.Context(), []string{"/registry"}, begin(true))
			if !errors.Is(err, store.ErrCompacted) || reading.Keys != 0 {
				t.Fatalf("Read: %+v, %v; want ErrCompacted", reading, err)
			}
			want(t, err, e.URL, "compacted revision", "--snapshot FILE")

			began = 0
			reading, err = store.ReadTwice(t.Context(), r, []string{"/registry"}, func() func(store.KeyValue) error { return begin(began == 0) })
			if err != nil || reading.Keys != bigKeys || began != 2 {
				t.Errorf("ReadTwice, compacted once: %d keys in %d attempts, %v", reading.Keys, began, err)
			}
			began = 0
			_, err = store.ReadTwice(t.Context(), r, []string{"/registry"}, func() func(store.KeyValue) error { return begin(true) })
			if !errors.Is(err, store.ErrCompacted) || began != 2 {
				t.Errorf("ReadTwice, compacted twice: %v after %d attempts", err, began)
			}
		})
	}
}

// TestAnEtcdThatLeavesEndsIt: killed midway and not started again.
func TestAnEtcdThatLeavesEndsIt(t *testing.T) {
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t, way.version, cluster.EtcdOptions{})
			fill(e)
			r := reader(t, e.URL)
			r.limits.firstPage, r.limits.page, r.limits.noStreams, r.limits.away = 5, 5, way.pages, time.Second
			calls := 0
			start := time.Now()
			reading, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error {
				if calls++; calls == 12 {
					return e.Kill()
				}
				return nil
			})
			want(t, err, e.URL, "etcd has left", "of 300 keys", "nothing that was read counts")
			if took := time.Since(start); took > time.Minute || reading.Keys != 0 {
				t.Errorf("it took %v and returned %+v", took, reading)
			}
		})
	}
}

// TestAnEtcdThatComesBackIsReadOn: a member that is restarted midway still has the
// revision; each key is given once.
func TestAnEtcdThatComesBackIsReadOn(t *testing.T) {
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t, way.version, cluster.EtcdOptions{})
			fill(e)
			r := reader(t, e.URL)
			r.limits.firstPage, r.limits.page, r.limits.noStreams, r.limits.away = 5, 5, way.pages, time.Minute
			seen := map[string]int{}
			reading, err := r.Read(t.Context(), []string{"/registry"}, func(kv store.KeyValue) error {
				seen[string(kv.Key)]++
				if len(seen) == 12 {
					if err := e.Kill(); err != nil {
						return err
					}
					if err := e.Start(t.Context()); err != nil {
						return err
					}
					e.Put("/registry/secrets/299", "later")
				}
				if string(kv.Value) == "later" {
					return errors.New("a value of a later revision")
				}
				return nil
			})
			if err != nil || reading.Keys != bigKeys || len(seen) != bigKeys {
				t.Fatalf("%d keys, %d different ones, %v", reading.Keys, len(seen), err)
			}
			for key, n := range seen {
				if n != 1 {
					t.Errorf("%s was given %d times", key, n)
				}
			}
		})
	}
}

// TestASilentEtcdEndsIt: its process is stopped, and its connections stay.
func TestASilentEtcdEndsIt(t *testing.T) {
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t, way.version, cluster.EtcdOptions{})
			fill(e)
			r := reader(t, e.URL)
			r.limits.firstPage, r.limits.page, r.limits.noStreams, r.limits.answer = 5, 5, way.pages, time.Second
			calls := 0
			start := time.Now()
			_, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error {
				if calls++; calls == 12 {
					return e.Signal(syscall.SIGSTOP)
				}
				return nil
			})
			want(t, err, e.URL, "no answer within 1s, after", "of 300 keys", "--snapshot FILE")
			if took := time.Since(start); took > time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestAnswersOfAnotherStateEndIt: a reading is true of one revision of one cluster, or
// it fails.
func TestAnswersOfAnotherStateEndIt(t *testing.T) {
	late := func(answer *pb.RangeResponse) { answer.Kvs[0].ModRevision = fakeRevision + 1 }
	moved := func(answer *pb.RangeResponse) { answer.Header.ClusterId++ }
	second := func(change func(*pb.RangeResponse)) func(int64, *pb.RangeResponse) error {
		return func(asked int64, answer *pb.RangeResponse) error {
			if asked == 2 {
				change(answer)
			}
			return nil
		}
	}
	all := func(f *fake, last func(*pb.RangeResponse)) func(*pb.RangeRequest, grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
		return func(r *pb.RangeRequest, s grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
			return f.parts(r, s, len(f.keys), last)
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(f *fake)
		words string
	}{
		{"a page of a later revision", func(f *fake) { f.answer = second(late) }, "was asked for revision 700 and gave a key of revision 701"},
		{"a page of another cluster", func(f *fake) { f.answer = second(moved) }, "the cluster behind the address has changed from c1 to c2"},
		{"a page that is short", func(f *fake) {
			f.answer = second(func(answer *pb.RangeResponse) { answer.Kvs = answer.Kvs[1:] })
		}, "counts 50 keys at revision 700 and gave 49"},
		{"an empty page with more", func(f *fake) {
			f.answer = second(func(answer *pb.RangeResponse) { answer.Kvs = nil })
		}, "says that more follows an empty page"},
		{"a stream of a later revision", func(f *fake) { f.stream = all(f, late) }, "gave a key of revision 701"},
		{"a stream of another cluster", func(f *fake) { f.stream = all(f, moved) }, "has changed from c1 to c2"},
		{"a stream that ends early, again and again", func(f *fake) {
			f.stream = func(r *pb.RangeRequest, s grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
				return f.parts(r, s, 0, nil)
			}
		}, "etcd has left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{keys: fakeKeys(50)}
			c.spoil(f)
			r := reader(t, f.start(t))
			r.limits.firstPage, r.limits.page, r.limits.pause = 10, 10, time.Millisecond
			_, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil })
			want(t, err, c.words)
		})
	}
}

// TestWhatPassesIsAskedAgain: none of these ends a Read.
func TestWhatPassesIsAskedAgain(t *testing.T) {
	at := func(n int64, err error) func(int64, *pb.RangeResponse) error {
		return func(asked int64, _ *pb.RangeResponse) error {
			if asked == n || asked == n+1 {
				return err
			}
			return nil
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(f *fake)
	}{
		{"a revision that the member does not have yet", func(f *fake) { f.answer = at(1, rpctypes.ErrGRPCFutureRev) }},
		{"a leader that is elected", func(f *fake) { f.answer = at(3, rpctypes.ErrGRPCNoLeader) }},
		{"a page that is larger than the client takes", func(f *fake) {
			f.answer = func(_ int64, answer *pb.RangeResponse) error {
				if len(answer.Kvs) > 3 {
					return status.Error(codes.ResourceExhausted, "grpc: received message larger than max")
				}
				return nil
			}
		}},
		{"a stream that ends early", func(f *fake) {
			f.stream = func(r *pb.RangeRequest, s grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
				return f.parts(r, s, 20, nil)
			}
		}},
		{"a part that is larger than the client takes", func(f *fake) {
			f.stream = func(r *pb.RangeRequest, s grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
				if err := f.parts(r, s, 20, nil); err != nil {
					return err
				}
				return status.Error(codes.ResourceExhausted, "grpc: received message larger than max")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{keys: fakeKeys(50)}
			c.spoil(f)
			r := reader(t, f.start(t))
			r.limits.firstPage, r.limits.page, r.limits.pause = 10, 10, time.Millisecond
			seen := map[string]bool{}
			reading, err := r.Read(t.Context(), []string{"/registry"}, func(kv store.KeyValue) error {
				seen[string(kv.Key)] = true
				return nil
			})
			if err != nil || reading.Keys != 50 || len(seen) != 50 {
				t.Errorf("%d keys, %d different ones, %v", reading.Keys, len(seen), err)
			}
		})
	}
}

// TestAFutureRevisionEndsItAfterAWhile: a member that never catches up.
func TestAFutureRevisionEndsItAfterAWhile(t *testing.T) {
	f := &fake{keys: fakeKeys(5), answer: func(int64, *pb.RangeResponse) error { return rpctypes.ErrGRPCFutureRev }}
	r := reader(t, f.start(t))
	r.limits.pause = time.Millisecond
	_, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil })
	want(t, err, "does not have revision 700 yet", "--endpoints")
	if n := f.asked.Load(); n != int64(r.limits.tries) {
		t.Errorf("it asked %d times, not %d", n, r.limits.tries)
	}
}

// TestAClusterWithoutLeaderIsNamed: the linearizable read that begins a Read needs one.
func TestAClusterWithoutLeaderIsNamed(t *testing.T) {
	m := &member{endpoint: endpoint{url: "https://a:2379"}, limits: defaultLimits()}
	for _, cause := range []error{rpctypes.ErrNoLeader, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail} {
		want(t, m.explain(t.Context(), cause), "https://a:2379: the member has no leader", "majority", "Do not remove or restore one", "--snapshot FILE")
	}
}

// TestPagesFollowTheSizeOfValues: large ones make pages small, and small ones large
// again.
func TestPagesFollowTheSizeOfValues(t *testing.T) {
	m := &member{limits: defaultLimits(), page: defaultLimits().firstPage}
	for _, c := range []struct {
		bytes int
		want  int64
	}{
		{1 << 20, 4000},
		{4 << 20, 8000},
		{8 << 20, 8000},
		{7 << 20, 10_000},
		{16 << 20, 10_000},
		{17 << 20, 5000},
		{40 << 20, 2500},
		{1 << 10, 10_000},
		{0, 10_000},
	} {
		if m.resize(c.bytes); m.page != c.want {
			t.Errorf("after an answer of %d bytes the page has %d keys, want %d", c.bytes, m.page, c.want)
		}
	}
	m.page = 1
	if m.resize(60 << 20); m.page != 1 {
		t.Errorf("a page of %d keys", m.page)
	}
}

// TestProgressIsTold: it grows, and ends with all.
func TestProgressIsTold(t *testing.T) {
	f := &fake{keys: append(fakeKeys(50), "/zzz")}
	r := reader(t, f.start(t))
	r.limits.firstPage, r.limits.page = 10, 10
	var told []store.Progress
	r.options.Progress = func(p store.Progress) { told = append(told, p) }
	reading, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil })
	if err != nil || len(told) != 5 {
		t.Fatalf("told %d times, %v", len(told), err)
	}
	for i, p := range told {
		n := int64(10 * (i + 1))
		if p != (store.Progress{Keys: n, Bytes: n * int64(len("/registry/0000value")), Done: n, Total: 50}) {
			t.Errorf("told %+v as number %d", p, i)
		}
	}
	if reading.Keys != 50 {
		t.Errorf("%d keys", reading.Keys)
	}
}

// TestOneMemberOfSeveralIsRead: the first that answers; where none does, each is named.
func TestOneMemberOfSeveralIsRead(t *testing.T) {
	f := &fake{keys: fakeKeys(5)}
	dead := []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}
	url := f.start(t)
	r, err := New(Options{Endpoints: append(dead, url)})
	if err != nil {
		t.Fatal(err)
	}
	reading, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil })
	if err != nil || reading.Place != url {
		t.Errorf("read %q, %v", reading.Place, err)
	}
	r, err = New(Options{Endpoints: dead})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Read(t.Context(), nil, nil)
	want(t, err, dead[0]+": nothing listens there", dead[1]+": nothing listens there")
}

// TestACancelledConnectEnds: no step of connecting outlives its context.
func TestACancelledConnectEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := reader(t, (&fake{}).start(t)).Read(ctx, []string{"/registry"}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Read: %v", err)
	}
}
