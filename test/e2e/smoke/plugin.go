package smoke

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	v2 "k8s.io/kms/apis/v2"
)

// patience bounds the wait for a program to say what it should, of which a refusal
// takes ten seconds: it is confirmed before it is told.
const patience = 90 * time.Second

// A plugin is the program, running, and an API server's two clients of it.
type plugin struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	conn *grpc.ClientConn
	v1   v1beta1.KeyManagementServiceClient
	v2   v2.KeyManagementServiceClient
}

// start runs the program with the caller's environment, whose credentials it takes.
func (r *run) start(name, key string, args ...string) (*plugin, error) {
	socket := filepath.Join(r.dir, name+".sock")
	p := &plugin{log: new(bytes.Buffer)}
	argv := append([]string{"--key=" + key, "--listen=" + socket, "--health-port=127.0.0.1:0"}, args...)
	p.cmd = exec.Command(r.Program, argv...) //nolint:noctx // stop ends it
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = os.Environ()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.conn, p.v1, p.v2 = conn, v1beta1.NewKeyManagementServiceClient(conn), v2.NewKeyManagementServiceClient(conn)
	return p, nil
}

// stop ends the program, which has to go in peace. A nil plugin has ended.
func (p *plugin) stop() error {
	if p == nil {
		return nil
	}
	var closed error
	if p.conn != nil {
		closed = p.conn.Close()
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	killer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer killer.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("the program ended with %w; its log:\n%s", err, p.log)
	}
	return closed
}

// healthy waits until Status is ok, and fails where it says that the key is refused.
func (p *plugin) healthy(ctx context.Context) (*v2.StatusResponse, error) {
	var told *v2.StatusResponse
	err := p.until(ctx, func(s *v2.StatusResponse, err error) (bool, error) {
		if status.Code(err) == codes.FailedPrecondition {
			return false, err
		}
		told = s
		return err == nil && s.Healthz == "ok", nil
	})
	return told, err
}

// refused waits until Status is an error of a refused key, and returns its code.
func (p *plugin) refused(ctx context.Context) (saw string, err error) {
	err = p.until(ctx, func(_ *v2.StatusResponse, err error) (bool, error) {
		_, after, found := strings.Cut(fmt.Sprint(err), "KMS01")
		if status.Code(err) != codes.FailedPrecondition || !found || len(after) < 2 {
			return false, nil
		}
		saw = "KMS01" + after[:2]
		return true, nil
	})
	return saw, err
}

// until asks for Status, four times a second, until done says so or fails. It gives up
// after patience with the last answer, which says what to do.
func (p *plugin) until(ctx context.Context, done func(*v2.StatusResponse, error) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	for last := "nothing"; ; {
		s, err := p.v2.Status(ctx, &v2.StatusRequest{})
		if is, failed := done(s, err); is || failed != nil {
			return failed
		}
		if ctx.Err() == nil { // else it is about the end of the wait
			last = fmt.Sprintf("%q, %v", s.GetHealthz(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s Status still answers %s", patience, last)
		case <-tick.C:
		}
	}
}
