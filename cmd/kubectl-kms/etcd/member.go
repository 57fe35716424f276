package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A member is one of etcd's, for one Read.
type member struct {
	options  Options
	limits   limits
	endpoint endpoint
	client   *clientv3.Client

	revision int64  // that everything is read at
	cluster  uint64 // its id, which etcd always has: k3s-io/kine, pkg/server, sends none

	noStreams bool // is known to have none
	page      int64
	progress  store.Progress
}

// These say why a Read ends where etcd itself did not say it.
var (
	errSilent = errors.New("no answer in time")
	errGone   = errors.New("the connection is lost")
	errDenied = rpctypes.ErrPermissionDenied
)

// connect returns the first member that answers. Where none does, the error has what
// each said.
func (r *Reader) connect(ctx context.Context, below store.Prefixes) (*member, error) {
	var failed []error
	for _, e := range r.endpoints {
		m, err := r.try(ctx, e, below)
		if err == nil {
			return m, nil
		}
		switch failed = append(failed, err); {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case refused(err): // as every other member would
			return nil, err
		}
	}
	return nil, errors.Join(failed...)
}

// refused reports whether a member answered, and does not let this user read.
func refused(err error) bool {
	return errors.Is(err, errDenied) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrAuthFailed)
}

// try connects to one member and asks it for the revision.
func (r *Reader) try(ctx context.Context, e endpoint, below store.Prefixes) (*member, error) {
	config := r.tls
	if e.tls && config == nil {
		config = r.options.bare()
	}
	if err := r.options.probe(ctx, e, config); err != nil {
		return nil, err
	}
	m := &member{options: r.options, limits: r.limits, endpoint: e, page: r.limits.firstPage, noStreams: r.limits.noStreams}
	settings := clientv3.Config{
		Endpoints:            []string{e.url},
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		MaxCallRecvMsgSize:   maxMessage,
		MaxUnaryRetries:      3,
		Username:             r.options.User,
		Password:             string(r.options.Password),
		Logger:               zap.NewNop(),
		// etcd is near: no proxy of the environment is asked. A slow reader of one page
		// does not make the connection sleep.
		DialOptions: []grpc.DialOption{grpc.WithNoProxy(), grpc.WithIdleTimeout(0)},
	}
	if e.tls {
		settings.TLS = config
	}
	if r.options.ServerName != "" {
		settings.DialOptions = append(settings.DialOptions, grpc.WithAuthority(r.options.ServerName))
	}
	var err error
	if m.client, err = clientv3.New(settings); err != nil {
		return nil, m.explain(ctx, err)
	}
	if err := m.begin(ctx, below); err != nil {
		m.close()
		return nil, m.explain(ctx, err)
	}
	return m, nil
}

// begin asks for the revision, by a key that need not exist: whoever may read a prefix
// may read it.
func (m *member) begin(ctx context.Context, below store.Prefixes) error {
	key := "/"
	if ranges := below.Ranges(); len(ranges) > 0 {
		key = ranges[0].Start
	}
	answer, err := m.get(ctx, key)
	if err != nil {
		return err
	}
	m.revision, m.cluster = answer.Header.Revision, answer.Header.ClusterId
	return nil
}

func (m *member) close() { _ = m.client.Close() } // nothing that was only read is lost

// get asks once. The client asks again itself where a member restarts; the limit of
// time is that of all its tries.
func (m *member) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(m.limits.answer, func() { cancel(errSilent) })
	defer late.Stop()
	stop := m.watch(ctx, cancel)
	defer stop()
	answer, err := m.client.Get(ctx, key, options...)
	if err != nil {
		return nil, causeOr(ctx, err)
	}
	return answer, m.sameCluster(answer.Header.ClusterId)
}

// causeOr returns why ctx has ended, where it has, and else err.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// sameCluster refuses answers of another cluster than the one that named the revision,
// such as one restored from a backup at the same address.
func (m *member) sameCluster(id uint64) error {
	if m.cluster != 0 && id != m.cluster {
		return fmt.Errorf("the cluster behind the address has changed from %x to %x", m.cluster, id)
	}
	return nil
}

// watch cancels what waits for the member when the connection is lost and does not come
// back in time. The caller calls stop, which waits until it has ended.
func (m *member) watch(ctx context.Context, cancel context.CancelCauseFunc) (stop func()) {
	ctx, done := context.WithCancel(ctx)
	ended := make(chan struct{})
	conn := m.client.ActiveConnection()
	go func() { // ends with ctx
		defer close(ended)
		for ctx.Err() == nil {
			if state := conn.GetState(); state == connectivity.Ready {
				conn.WaitForStateChange(ctx, state)
			} else if !backInTime(ctx, conn, m.limits.away) {
				cancel(errGone)
				return
			}
		}
	}()
	return func() {
		done()
		<-ended
	}
}

// backInTime waits until the connection is ready. It is true also when ctx has ended.
func backInTime(ctx context.Context, conn *grpc.ClientConn, limit time.Duration) bool {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(limited, state) {
			return ctx.Err() != nil
		}
	}
	return true
}

// refusesStreams reports whether a server does not know streams, or makes their parts
// larger than the client takes.
func refusesStreams(err error) bool {
	code := status.Code(err)
	return code == codes.Unimplemented || code == codes.ResourceExhausted
}

// passes reports whether the same question may be answered in a moment.
func passes(err error) bool {
	if errors.Is(err, rpctypes.ErrFutureRev) { // another member behind the same address, which lags
		return true
	}
	if known, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return known.Code() == codes.Unavailable
	}
	return status.Code(err) == codes.Unavailable
}
