package unwrap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// callTime bounds one call of a plugin: more than any API server gives it.
const callTime = 40 * time.Second

// Sockets are plugins that run. They implement [verify.Opener]. A plugin that has a
// cache keeps what it unwraps, as after a call of an API server.
type Sockets struct {
	plugins []*plugin
	serving Serving
	gate    Gate
}

type plugin struct {
	path string
	conn *grpc.ClientConn
}

// NewSockets connects to plugins, each by the path of its socket or @NAME. serving, where
// it is not nil, tells which of them an entry is served by; where it tells none, all are
// asked.
func NewSockets(ctx context.Context, paths []string, serving Serving, gate Gate) (*Sockets, error) {
	s := &Sockets{serving: serving, gate: gate}
	for _, path := range paths {
		if err := reach(ctx, path); err != nil {
			s.Close()
			return nil, err
		}
		dial := func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		conn, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("%s: %w", report.Plain(path), err)
		}
		s.plugins = append(s.plugins, &plugin{path, conn})
	}
	return s, nil
}

// reach connects once, and says what keeps this user from it.
func reach(ctx context.Context, path string) error {
	conn, err := (&net.Dialer{Timeout: callTime}).DialContext(ctx, "unix", path)
	name := "the socket " + report.Plain(path)
	switch {
	case err == nil:
		_ = conn.Close()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		return errors.New(name + " is not there: run this on the node of the plugin, and give the path that the node has")
	case errors.Is(err, fs.ErrPermission):
		return errors.New(name + " does not let this user in: run this as root; change no owner and no mode for it")
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("no process serves " + name + ": look whether the plugin of this node runs; restart no API server before it does")
	}
	return fmt.Errorf("%s cannot be reached: %w", name, err)
}

// Close closes the connections.
func (s *Sockets) Close() {
	for _, p := range s.plugins {
		_ = p.conn.Close()
	}
}

// String names the sockets.
func (s *Sockets) String() string {
	paths := make([]string, len(s.plugins))
	for i, p := range s.plugins {
		paths[i] = p.path
	}
	return "the running plugin at " + strings.Join(paths, ", ")
}

// Keys implements [verify.Opener]: a plugin names none.
func (*Sockets) Keys(context.Context) ([]verify.Key, error) { return nil, nil }

// Open implements [verify.Opener].
func (s *Sockets) Open(ctx context.Context, w verify.Wrapped) (verify.Unwrapped, error) {
	var refusals []*verify.Refusal
	for _, p := range s.of(w) {
		if err := s.gate(ctx); err != nil {
			return verify.Unwrapped{}, err
		}
		plain, err := p.decrypt(ctx, w)
		if err == nil {
			return verify.Unwrapped{Secret: plain}, nil
		}
		if ctx.Err() != nil {
			return verify.Unwrapped{}, ctx.Err()
		}
		refusals = append(refusals, p.refusal(w, err))
	}
	return verify.Unwrapped{}, worst(refusals)
}

// of returns the plugins that may serve an entry.
func (s *Sockets) of(w verify.Wrapped) []*plugin {
	socket := s.serving.socketOf(w)
	i := slices.IndexFunc(s.plugins, func(p *plugin) bool { return socket != "" && p.path == socket })
	if i < 0 {
		return s.plugins
	}
	return s.plugins[i : i+1]
}

// decrypt asks as kube-apiserver does (k8s.io/apiserver, envelope/grpc_service.go and
// envelope/kmsv2/grpc_service.go).
func (p *plugin) decrypt(ctx context.Context, w verify.Wrapped) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if w.Version == "v1" {
		out, err := v1beta1.NewKeyManagementServiceClient(p.conn).Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: w.Ciphertext})
		return out.GetPlain(), err
	}
	out, err := v2.NewKeyManagementServiceClient(p.conn).Decrypt(ctx, &v2.DecryptRequest{
		Ciphertext: w.Ciphertext, Uid: uid(), KeyId: w.KeyID, Annotations: w.Annotations,
	})
	return out.GetPlaintext(), err
}

// uid names one call in the plugin's log, in the form that API servers give it.
func uid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its contract
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// refusal is what a plugin's error means. This project's own begins with a code; of
// others only gRPC's code tells whether it may pass.
func (p *plugin) refusal(w verify.Wrapped, err error) *verify.Refusal {
	st := status.Convert(err)
	id, rest, _ := strings.Cut(st.Message(), " ")
	for _, code := range cause.Codes() {
		if code.String() == strings.TrimSuffix(id, ":") {
			_, with, _ := strings.Cut(rest, " with ")
			e := &cause.Error{Code: code, Op: "Decrypt", Key: string(keyIn(with))}
			r := refusal(e)
			if e.Key != "" && w.Version == "v2" { // of v1 it is one of several that were asked
				r.Keys = []string{e.Key}
			}
			return r
		}
	}
	const most = 400
	r := &verify.Refusal{State: verify.Unknown, Text: fmt.Sprintf("the plugin at %s says: %s", report.Plain(p.path), report.Clip(st.Message(), most))}
	switch st.Code() { //nolint:exhaustive // the others tell nothing
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted:
		r.State, r.Again = verify.Unreachable, true
	case codes.PermissionDenied:
		r.State = verify.Denied
	case codes.InvalidArgument, codes.NotFound, codes.DataLoss, codes.FailedPrecondition, codes.OutOfRange:
		r.State = verify.Damaged
	default:
	}
	return r
}
