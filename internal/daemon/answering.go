package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v1beta1"
)

const (
	answerTimeout = 2 * time.Second
	// answerMisses is how many times running the process has to be silent before
	// a restart is worth it.
	answerMisses = 3
)

// answering is whether the process answers on one of its own sockets. It is the
// only thing that a restart could mend, so liveness asks for nothing else.
type answering struct {
	mu     sync.Mutex
	misses int
	err    error
}

// watch asks the socket until ctx ends.
func (a *answering) watch(ctx context.Context, every time.Duration, ask func(context.Context) error, log *slog.Logger) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if a.note(ask(ctx)) == answerMisses && ctx.Err() == nil {
			log.Error("this process does not answer on its own socket", "error", a.problem().Error())
		}
	}
}

func (a *answering) note(err error) (misses int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	if err == nil {
		a.misses = 0
	} else {
		a.misses++
	}
	return a.misses
}

// problem returns why the process should be restarted, nil where it should not.
func (a *answering) problem() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.misses < answerMisses {
		return nil
	}
	return a.err
}

// ask asks the socket for its version, as a caller would. Where the file is not
// this process's own, nobody could know: keep looks after that.
func (s *socket) ask(ctx context.Context) error {
	if !s.owns() {
		return nil
	}
	dial := func(ctx context.Context) (net.Conn, error) { return s.itself.dial(ctx, s.path) }
	if err := askBy(ctx, s.path, dial); err != nil && s.owns() {
		return err
	}
	return nil
}

func ask(ctx context.Context, path string) error {
	return askBy(ctx, path, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	})
}

func askBy(ctx context.Context, path string, dial func(context.Context) (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := newClient(dial)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := v1beta1.NewKeyManagementServiceClient(conn).Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"}); err != nil {
		return fmt.Errorf("asking %s for its version: %w", path, err)
	}
	return nil
}

// Connect returns a client of a socket, of whatever name: gRPC's own targets are
// URLs, which a path may not survive.
func Connect(path string) (*grpc.ClientConn, error) {
	return newClient(func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) })
}

func newClient(dial func(context.Context) (net.Conn, error)) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
}
