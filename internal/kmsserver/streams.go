package kmsserver

import (
	"container/list"
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
)

const (
	// maxStreams bounds the streams of one connection, answers that nobody takes
	// included. It is four times what admission lets through, since gRPC's clients
	// queue behind it, Status too.
	maxStreams = 4 * maxUnderWay
	// maxSilent bounds the streams of one connection whose message is not there yet.
	// A caller sends it together with the head, so a good one never has as many.
	maxSilent = 1024
	// maxSilentOfAll bounds them over all connections of a socket.
	maxSilentOfAll = 2 * maxSilent
	// silentTime is what a stream has for its message.
	silentTime = handshakeTime
	// maxHead bounds the head of a stream. An API server's has a few hundred bytes.
	maxHead = 8 << 10
	// flowWindow is gRPC's least. It does not grow: else each stream of a fast
	// connection could keep 16 MB waiting.
	flowWindow = 64 << 10
)

// silentStreams are the streams of one server whose message has not come. Each
// costs a goroutine before admission has seen it. Of too many, the one that has
// been silent for longest ends, so that a newcomer gets in, Status among them.
//
// gRPC's own limit would queue newcomers instead; and a newcomer that a tap handle
// refuses leaves its deadline's timer behind for as long as the caller chose, so none
// is refused here.
type silentStreams struct {
	mu    sync.Mutex
	of    map[*peer.Peer]*list.List // connection → its *silentStream, the oldest first; one that is empty goes with the next sweep
	count int
	armed bool // a sweep is due

	log   func() *slog.Logger
	quiet rate.Sometimes
}

// A silentStream is one of them. One that ended before its message came stays among
// them until its time is up, or a newcomer takes its place: to be told of each end
// would cost every call more than that.
type silentStream struct {
	context.Context //nolint:containedctx // the stream's own; this is what gRPC hands on

	all   *silentStreams
	of    *list.List    // of its connection
	place *list.Element // in of; nil: it has spoken, or was taken out
	end   context.CancelFunc
	began time.Time
}

type silentKey struct{}

// Value finds the stream itself too.
func (t *silentStream) Value(key any) any {
	if key == (silentKey{}) {
		return t
	}
	return t.Context.Value(key)
}

func newSilentStreams(log func() *slog.Logger) *silentStreams {
	return &silentStreams{of: map[*peer.Peer]*list.List{}, log: log, quiet: rate.Sometimes{Interval: window}}
}

// begin is gRPC's tap handle: it sees each stream as its head arrives.
func (s *silentStreams) begin(ctx context.Context, _ *tap.Info) (context.Context, error) {
	conn, _ := peer.FromContext(ctx) // one for each connection, see grpc.Server.serveStreams
	ctx, end := context.WithCancel(ctx)
	t := &silentStream{all: s, Context: ctx, end: end, began: time.Now()}
	s.mu.Lock()
	s.add(t, conn)
	victim := s.victim(t.of)
	if !s.armed {
		s.armed = true
		time.AfterFunc(silentTime, s.sweep)
	}
	s.mu.Unlock()
	if victim != nil {
		s.drop(victim, "streams that sent no message are ended: too many are open")
	}
	return t, nil
}

// add enters a stream of a connection. The caller holds the lock.
func (s *silentStreams) add(t *silentStream, conn *peer.Peer) {
	if s.of[conn] == nil {
		s.of[conn] = list.New()
	}
	t.of = s.of[conn]
	t.place = t.of.PushBack(t)
	s.count++
}

// victim takes out the stream that ends for a newcomer, nil where none has to. The
// caller holds the lock.
func (s *silentStreams) victim(from *list.List) *silentStream {
	if from.Len() <= maxSilent {
		if s.count <= maxSilentOfAll {
			return nil
		}
		for _, l := range s.of {
			if l.Len() > from.Len() {
				from = l
			}
		}
	}
	t, _ := from.Front().Value.(*silentStream)
	s.remove(t)
	return t
}

// remove forgets a stream. The caller holds the lock.
func (s *silentStreams) remove(t *silentStream) {
	if t.place == nil {
		return
	}
	t.of.Remove(t.place)
	t.place = nil
	s.count--
}

func (s *silentStreams) drop(t *silentStream, why string) {
	ended := t.Err() != nil
	t.end()
	if ended {
		return
	}
	s.quiet.Do(func() {
		s.log().Warn(why, "limit_of_a_connection", maxSilent, "limit", maxSilentOfAll, "time", silentTime.String())
	})
}

// sweep ends the streams whose time is up.
func (s *silentStreams) sweep() {
	var late []*silentStream
	s.mu.Lock()
	next := time.Duration(-1)
	for conn, l := range s.of {
		for l.Len() > 0 {
			t, _ := l.Front().Value.(*silentStream)
			left := silentTime - time.Since(t.began)
			if left > 0 {
				if next < 0 || left < next {
					next = left
				}
				break
			}
			s.remove(t)
			late = append(late, t)
		}
		if l.Len() == 0 {
			delete(s.of, conn)
		}
	}
	if s.armed = next >= 0; s.armed {
		time.AfterFunc(next, s.sweep)
	}
	s.mu.Unlock()
	for _, t := range late {
		s.drop(t, "streams that sent no message in time are ended")
	}
}

func (s *silentStreams) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// heard is the server's interceptor: it runs when a stream's message is there.
func heard(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if t, ok := ctx.Value(silentKey{}).(*silentStream); ok {
		t.all.mu.Lock()
		t.all.remove(t)
		t.all.mu.Unlock()
	}
	return handle(ctx, req)
}
