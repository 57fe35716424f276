package etcd

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The fake etcd has these.
const (
	fakeRevision = 700
	fakeCluster  = 0xc1
)

// A fake is an etcd that answers as no sound one does, or a rare one.
type fake struct {
	pb.UnimplementedKVServer

	keys []string

	asked atomic.Int64 // Ranges that ask for values

	answer func(asked int64, answer *pb.RangeResponse) error // changes or refuses the answer to such a one; may be nil
	stream func(*pb.RangeRequest, grpc.ServerStreamingServer[pb.RangeStreamResponse]) error
}

// start serves the fake and returns its address.
func (f *fake) start(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterKVServer(s, f)
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	return "http://" + l.Addr().String()
}

// fakeKeys are n keys below /registry.
func fakeKeys(n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprintf("/registry/%04d", i))
	}
	return keys
}

func header() *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: fakeRevision, ClusterId: fakeCluster}
}

func (f *fake) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	answer := &pb.RangeResponse{Header: header()}
	for _, key := range f.keys {
		if key < string(r.Key) || len(r.RangeEnd) == 0 && key != string(r.Key) || string(r.RangeEnd) != "\x00" && key >= string(r.RangeEnd) {
			continue
		}
		if answer.Count++; r.CountOnly {
			continue
		}
		if r.Limit > 0 && int64(len(answer.Kvs)) == r.Limit {
			answer.More = true
			continue
		}
		answer.Kvs = append(answer.Kvs, &mvccpb.KeyValue{Key: []byte(key), Value: []byte("value"), ModRevision: 1})
	}
	if f.answer != nil && r.Limit > 1 {
		if err := f.answer(f.asked.Add(1), answer); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

func (f *fake) RangeStream(r *pb.RangeRequest, s grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	if f.stream == nil {
		return status.Error(codes.Unimplemented, "unknown method RangeStream")
	}
	return f.stream(r, s)
}

// parts sends the keys from the request's on, one by one, and the last with a header.
func (f *fake) parts(r *pb.RangeRequest, s grpc.ServerStreamingServer[pb.RangeStreamResponse], most int, last func(*pb.RangeResponse)) error {
	from, _ := slices.BinarySearchFunc(f.keys, string(r.Key), strings.Compare)
	for i, key := range f.keys[from:] {
		if i == most {
			return nil
		}
		part := &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: []byte(key), ModRevision: 1}}}
		if from+i == len(f.keys)-1 {
			part.Header = header()
			if last != nil {
				last(part)
			}
		}
		if err := s.Send(&pb.RangeStreamResponse{RangeResponse: part}); err != nil {
			return err
		}
	}
	return nil
}
