// Package etcd reads what API servers have stored from a living etcd, as of one
// revision.
//
// [New] is where to begin. A Read asks one member for the revision of the moment, by a
// read that the whole cluster confirms, and then for everything at that revision. It
// asks etcd 3.7 for a stream and an older one for pages. etcd counts all that is left
// for each page, so small pages take time that grows with the square of the number of
// keys.
//
// Every wait is bounded. A member that is restarted meanwhile is waited for, and the
// Read goes on where it was, at the same revision. It never goes on at another one:
// where etcd has compacted the revision, Read ends with [store.ErrCompacted].
//
// The source is etcd's own, of 3.7: server/etcdserver/v3_server.go and
// client/v3/kv.go.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A Reader reads a living etcd. It implements [store.Reader]. Only one Read runs at a
// time; it opens a connection of its own and closes it.
type Reader struct {
	options   Options
	endpoints []endpoint
	tls       *tls.Config // nil: the options do not speak of TLS
	limits    limits
}

// limits are bounds of time and size. Tests set others.
type limits struct {
	answer     time.Duration // for an answer, or the next part of one
	away       time.Duration // for a connection that is lost to come back
	pause      time.Duration // before the same question is asked again
	tries      int           // in a row that bring nothing
	firstPage  int64         // keys; pages grow from there
	page       int64         // keys in a page at most
	bigAnswer  int           // bytes; the page after such a one is half as large
	noStreams  bool          // asks for pages at once
	afterChunk func()        // called when each has had a page or a part of a stream
}

const (
	maxMessage = 64 << 20 // bytes of one answer that the client takes
	bigAnswer  = 16 << 20
)

func defaultLimits() limits {
	return limits{
		answer: time.Minute, away: 15 * time.Second, pause: 200 * time.Millisecond, tries: 20,
		firstPage: 1000, page: 10_000, bigAnswer: bigAnswer,
	}
}

// New returns a Reader of the etcd that the options name. It reads the files that they
// name, and does not connect.
func New(o Options) (*Reader, error) {
	if len(o.Endpoints) == 0 {
		return nil, errors.New("no endpoint of etcd is given")
	}
	r := &Reader{options: o, limits: defaultLimits()}
	for _, text := range o.Endpoints {
		e, err := parseEndpoint(text, o.secure())
		if err != nil {
			return nil, err
		}
		r.endpoints = append(r.endpoints, e)
	}
	var err error
	r.tls, err = o.load()
	return r, err
}

// Read implements [store.Reader].
func (r *Reader) Read(ctx context.Context, prefixes []string, each func(store.KeyValue) error) (store.Reading, error) {
	below := store.NewPrefixes(prefixes)
	m, err := r.connect(ctx, below)
	if err != nil {
		return store.Reading{}, err
	}
	defer m.close()
	reading, err := m.read(ctx, below, each)
	if err != nil {
		return store.Reading{}, m.explain(ctx, err)
	}
	reading.Place = m.endpoint.url
	if r.options.InsecureSkipVerify && m.endpoint.tls {
		reading.Caveats = append(reading.Caveats, "The certificate of "+m.endpoint.url+" was not checked: it may be another server than etcd.")
	}
	if m.cluster == 0 {
		reading.Caveats = append(reading.Caveats, m.endpoint.url+" is not etcd but speaks its protocol, as kine does: nobody knows whether all of it is of one revision.")
	}
	return reading, nil
}

// read reads everything at the revision that m found.
func (m *member) read(ctx context.Context, prefixes store.Prefixes, each func(store.KeyValue) error) (store.Reading, error) {
	ranges := prefixes.Ranges()
	counts := make([]int64, len(ranges))
	for i, rg := range ranges {
		answer, err := m.get(ctx, rg.Start, clientv3.WithRange(rg.End), clientv3.WithCountOnly(), clientv3.WithRev(m.revision), clientv3.WithSerializable())
		if err != nil {
			return store.Reading{}, err
		}
		counts[i] = answer.Count
		m.progress.Total += answer.Count
	}
	for i, rg := range ranges {
		before := m.progress.Keys
		if err := m.readRange(ctx, rg, each); err != nil {
			return store.Reading{}, err
		}
		if got := m.progress.Keys - before; got != counts[i] {
			return store.Reading{}, fmt.Errorf("it counts %d keys at revision %d and gave %d", counts[i], m.revision, got)
		}
	}
	unread, err := m.others(ctx, prefixes)
	return store.Reading{Revision: m.revision, Keys: m.progress.Keys, Unread: unread}, err
}

// readRange reads a range to its end, over losses of the connection.
func (m *member) readRange(ctx context.Context, rg store.Range, each func(store.KeyValue) error) error {
	next := rg.Start
	take := func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			if err := m.give(ctx, kv, each); err != nil {
				return err
			}
			next = string(kv.Key) + "\x00"
		}
		m.report()
		return nil
	}
	for failed := 0; ; {
		from := next
		ask := m.pages
		if !m.noStreams {
			ask = m.stream
		}
		err := ask(ctx, store.Range{Start: from, End: rg.End}, take)
		switch {
		case err == nil:
			return nil
		case !m.noStreams && refusesStreams(err):
			m.noStreams = true
			continue
		case !passes(err):
			return err
		}
		if failed++; next != from {
			failed = 1
		}
		if failed >= m.limits.tries {
			return err
		}
		if err := wait(ctx, m.limits.pause); err != nil {
			return err
		}
	}
}

// give hands one key to each. An error of each is not a failure of etcd.
func (m *member) give(ctx context.Context, kv *mvccpb.KeyValue, each func(store.KeyValue) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if kv.ModRevision > m.revision {
		return fmt.Errorf("it was asked for revision %d and gave a key of revision %d", m.revision, kv.ModRevision)
	}
	m.progress.Keys++
	m.progress.Done++
	m.progress.Bytes += int64(len(kv.Key) + len(kv.Value))
	if err := each(store.KeyValue{Key: kv.Key, Value: kv.Value, ModRevision: kv.ModRevision}); err != nil {
		return &eachError{err}
	}
	return nil
}

// An eachError is of the function that keys are given to.
type eachError struct{ err error }

func (e *eachError) Error() string { return e.err.Error() }
func (e *eachError) Unwrap() error { return e.err }

func (m *member) report() {
	if m.options.Progress != nil {
		m.options.Progress(m.progress)
	}
	if m.limits.afterChunk != nil {
		m.limits.afterChunk()
	}
}

// stream asks etcd 3.7 for a range as a stream.
func (m *member) stream(ctx context.Context, rg store.Range, take func([]*mvccpb.KeyValue) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := m.watch(ctx, cancel)
	defer stop()
	parts, err := m.client.GetStream(ctx, rg.Start, clientv3.WithRange(rg.End), clientv3.WithRev(m.revision), clientv3.WithSerializable())
	if err != nil {
		return causeOr(ctx, err)
	}
	defer func() { // the client's goroutine ends when nothing is left to say
		cancel(nil)
		for range parts {
		}
	}()
	whole := false
	for {
		part, more, err := m.nextPart(ctx, parts)
		switch {
		case err != nil:
			return err
		case !more && whole:
			return nil
		case !more:
			return status.Error(codes.Unavailable, "the stream ended before its end")
		}
		if header := part.Header; header != nil { // the last part alone has one
			if err := m.sameCluster(header.ClusterId); err != nil {
				return err
			}
			whole = !part.More
		}
		if err := take(part.Kvs); err != nil {
			return err
		}
	}
}

// nextPart waits for the next part of a stream, for as long as for any answer.
func (m *member) nextPart(ctx context.Context, parts clientv3.GetStreamChan) (part clientv3.RangeStreamResponse, more bool, err error) {
	late := time.NewTimer(m.limits.answer)
	defer late.Stop()
	select {
	case part, more = <-parts:
		if more && part.Err() != nil {
			err = causeOr(ctx, part.Err())
		}
		return part, more, err
	case <-late.C:
		return part, false, errSilent
	case <-ctx.Done():
		return part, false, context.Cause(ctx)
	}
}

// pages asks for a range in pages, whose size follows what the last one weighed.
func (m *member) pages(ctx context.Context, rg store.Range, take func([]*mvccpb.KeyValue) error) error {
	for start := rg.Start; ; {
		answer, err := m.get(ctx, start, clientv3.WithRange(rg.End), clientv3.WithLimit(m.page), clientv3.WithRev(m.revision), clientv3.WithSerializable())
		if status.Code(err) == codes.ResourceExhausted && m.page > 1 { // larger than the client takes
			m.page /= 2
			continue
		}
		if err != nil {
			return err
		}
		size := 0
		for _, kv := range answer.Kvs {
			size += len(kv.Key) + len(kv.Value)
		}
		m.resize(size)
		if err := take(answer.Kvs); err != nil {
			return err
		}
		if !answer.More {
			return nil
		}
		if len(answer.Kvs) == 0 {
			return errors.New("it says that more follows an empty page")
		}
		start = string(answer.Kvs[len(answer.Kvs)-1].Key) + "\x00"
	}
}

// resize sets the next page's size. Values of an unknown size begin with few: an
// etcd that has to load gigabytes for one answer may die of it.
func (m *member) resize(bytes int) {
	switch {
	case bytes > m.limits.bigAnswer:
		m.page = max(1, m.page/2)
	case bytes < m.limits.bigAnswer/4:
		m.page = min(m.limits.page, m.page*4)
	case bytes < m.limits.bigAnswer/2:
		m.page = min(m.limits.page, m.page*2)
	}
}

// others finds what etcd has beside the prefixes, by jumping from one to the next.
func (m *member) others(ctx context.Context, prefixes store.Prefixes) ([]string, error) {
	var found store.Others
	start := ""
	for _, gap := range prefixes.Gaps() {
		for start = max(start, gap.Start); start < gap.End || gap.End == endOfAll; {
			answer, err := m.get(ctx, start, clientv3.WithRange(gap.End), clientv3.WithLimit(1), clientv3.WithKeysOnly(),
				clientv3.WithRev(m.revision), clientv3.WithSerializable())
			if status.Code(err) == codes.PermissionDenied || errors.Is(err, errDenied) {
				return append(found.Unread(), store.UnreadUnknown), nil
			}
			if err != nil {
				return nil, err
			}
			if len(answer.Kvs) == 0 {
				break
			}
			next, more := found.Add(answer.Kvs[0].Key)
			if !more {
				return found.Unread(), nil
			}
			start = next
		}
	}
	return found.Unread(), nil
}

// endOfAll is etcd's word for a range without an end.
const endOfAll = "\x00"

// wait waits, for less long when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
