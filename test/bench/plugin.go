package main

import (
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
	"k8s.io/kms/apis/v2"
)

// buildPlugin builds the plugin as it is shipped.
func buildPlugin(ctx context.Context, dir string) (string, error) {
	file := filepath.Join(dir, "aws-encryption-provider")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w",
		"-o", file, "./cmd/aws-encryption-provider")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return file, nil
}

// A plugin is the program under test, running.
type plugin struct {
	cmd     *exec.Cmd
	dir     string // of its files
	log     string
	sockets []string
	conns   []*grpc.ClientConn // one for each socket
}

// startPlugin starts the plugin and waits until every socket's Status is ok.
func (b *bench) startPlugin(ctx context.Context, url string, keys []string, args ...string) (*plugin, error) {
	p, err := b.execPlugin(ctx, url, keys, args...)
	if err != nil {
		return nil, err
	}
	if err := p.waitAll(ctx); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// execPlugin starts the plugin, with flags, and waits for nothing.
func (b *bench) execPlugin(ctx context.Context, url string, keys []string, args ...string) (*plugin, error) {
	p, err := b.newPlugin(len(keys))
	if err != nil {
		return nil, err
	}
	if err := b.exec(ctx, p, append([]string{
		"-key=" + strings.Join(keys, ","), "-region=" + region, "-listen=" + strings.Join(p.sockets, ","), "--kms-endpoint=" + url,
	}, args...)...); err != nil {
		return nil, err
	}
	return p, nil
}

// newPlugin is one that has not started, with as many sockets.
func (b *bench) newPlugin(sockets int) (*plugin, error) {
	dir, err := os.MkdirTemp(b.dir, "plugin-")
	if err != nil {
		return nil, err
	}
	p := &plugin{dir: dir, log: filepath.Join(dir, "log")}
	for i := range sockets {
		p.sockets = append(p.sockets, filepath.Join(dir, fmt.Sprintf("%d.sock", i)))
	}
	return p, nil
}

// exec starts the process. On an error none is left.
func (b *bench) exec(ctx context.Context, p *plugin, args ...string) error {
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	p.cmd = exec.CommandContext(ctx, b.plugin, append(args, "--health-port=127.0.0.1:0")...)
	p.cmd.Env = environment()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = childAttr()
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting the plugin: %w", err)
	}
	for _, s := range p.sockets {
		conn, err := dial(s)
		if err != nil {
			p.end()
			return err
		}
		p.conns = append(p.conns, conn)
	}
	return nil
}

func (p *plugin) pid() int { return p.cmd.Process.Pid }

// end ends the process as an operator does.
func (p *plugin) end() {
	for _, c := range p.conns {
		_ = c.Close()
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

func isOK(s *v2.StatusResponse, err error) bool { return err == nil && s.Healthz == "ok" }

// waitAll waits until every socket's Status is ok.
func (p *plugin) waitAll(ctx context.Context) error {
	for i := range p.conns {
		if err := p.waitStatus(ctx, i, 15*time.Second, isOK); err != nil {
			return err
		}
	}
	return nil
}

// waitStatus polls Status until it is as wanted.
func (p *plugin) waitStatus(ctx context.Context, i int, limit time.Duration, wanted func(*v2.StatusResponse, error) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	for {
		if _, err := os.Stat(p.sockets[i]); err == nil { // or gRPC's back-off would be waited for
			s, err := v2.NewKeyManagementServiceClient(p.conns[i]).Status(ctx, &v2.StatusRequest{}, grpc.WaitForReady(true))
			if ctx.Err() == nil && wanted(s, err) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for Status: %w; the plugin's log:\n%s", context.Cause(ctx), p.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tail is the end of the log.
func (p *plugin) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1000):])
}

// sample returns one of each of the plugin's answers.
func (p *plugin) sample(ctx context.Context) (Canned, error) {
	client := v2.NewKeyManagementServiceClient(p.conns[0])
	status, err1 := client.Status(ctx, &v2.StatusRequest{})
	sealed, err2 := client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: seed(), Uid: uid})
	if err := errors.Join(err1, err2); err != nil {
		return Canned{}, fmt.Errorf("sampling the plugin's answers: %w", err)
	}
	return Canned{
		Version: status.Version, Healthz: status.Healthz, KeyID: status.KeyId,
		Ciphertext: sealed.Ciphertext, Annotations: sealed.Annotations, Plaintext: seed(),
	}, nil
}
