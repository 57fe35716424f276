package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// adviceSnapshot is what remains where a living etcd cannot be read.
const adviceSnapshot = "A snapshot can be read instead: etcdctl snapshot save FILE, then --snapshot FILE"

// explain makes an error of etcd's client one for people. What the caller itself
// caused is returned as it is.
func (m *member) explain(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*eachError](err); ok {
		return e.err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	said := &store.Error{Place: m.endpoint.url, Reason: err.Error(), Err: err}
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		said.Err = store.ErrCompacted
		said.Reason = fmt.Sprintf("etcd compacted revision %d while it was being read, after %d keys", m.revision, m.progress.Keys)
		said.Next = "Try again; where it is too slow for that, read a snapshot, which nothing compacts: etcdctl snapshot save FILE, then --snapshot FILE"
	case errors.Is(err, rpctypes.ErrFutureRev):
		said.Reason = fmt.Sprintf("it does not have revision %d yet: the member behind this address lags, or the address leads to several", m.revision)
		said.Next = "Give the address of one member by --endpoints"
	case errors.Is(err, errDenied):
		said.Reason = "etcd does not let " + m.user() + " read this"
		said.Next = "Give its role read on the prefix: etcdctl role grant-permission ROLE read /registry/ --prefix"
	case errors.Is(err, rpctypes.ErrUserEmpty):
		said.Reason = "etcd has users of its own and was told none"
		said.Next = "Give --user and its password (ETCDCTL_USER), or --cert and --key of a user's certificate"
	case errors.Is(err, rpctypes.ErrAuthFailed):
		said.Reason = "etcd does not know user " + m.options.User + " with this password"
		said.Next = "Check ETCDCTL_USER and ETCDCTL_PASSWORD"
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout),
		errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost):
		said.Reason = fmt.Sprintf("the member has no leader, so its cluster has lost the majority of its members (%v)", err)
		said.Next = "Bring members back first. Do not remove or restore one for this. " + adviceSnapshot
	case errors.Is(err, errSilent):
		said.Reason = fmt.Sprintf("no answer within %v%s", m.limits.answer, m.soFar())
		said.Next = "Is its disk or its node overloaded? " + adviceSnapshot
	case errors.Is(err, errGone), code(err) == codes.Unavailable:
		said.Reason = fmt.Sprintf("etcd has left, and was not back within %v%s", m.limits.away, m.soFar())
		said.Next = "Is it running (crictl ps -a --name etcd)? Run this again when it is; nothing that was read counts"
	case code(err) == codes.Unimplemented:
		said.Reason = "the server speaks gRPC and is not etcd"
		said.Next = "Is it etcd's client address? An API server's is another"
	}
	return said
}

// soFar says how far the Read was.
func (m *member) soFar() string {
	if m.revision == 0 {
		return ""
	}
	return fmt.Sprintf(", after %d of %d keys", m.progress.Keys, m.progress.Total)
}

func (m *member) user() string {
	if m.options.User != "" {
		return "user " + m.options.User
	}
	return "the user that this certificate names"
}

func code(err error) codes.Code {
	if known, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return known.Code()
	}
	return status.Code(err)
}
