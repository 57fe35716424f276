package etcd

import (
	"context"
	"net"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A kine answers as k3s' does: its headers have a revision and no cluster.
type kine struct {
	*fake
}

func (k kine) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	answer, err := k.fake.Range(ctx, r)
	if err == nil {
		answer.Header = &pb.ResponseHeader{Revision: fakeRevision}
	}
	return answer, err
}

func TestWhatIsNotEtcdIsNamed(t *testing.T) {
	f := &fake{keys: fakeKeys(3)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterKVServer(s, kine{f})
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	for endpoint, want := range map[string]int{"http://" + l.Addr().String(): 1, f.start(t): 0} {
		r, err := New(Options{Endpoints: []string{endpoint}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil })
		if err != nil || got.Keys != 3 || len(got.Caveats) != want || want == 1 && !strings.Contains(got.Caveats[0], "not etcd") {
			t.Errorf("%+v, %v: want 3 keys and %d caveats", got, err, want)
		}
	}
}
