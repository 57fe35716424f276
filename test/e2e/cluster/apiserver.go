package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// APIServerConfig says how an API server is to run.
type APIServerConfig struct {
	Dir             string // for its files
	Etcd            string // URL
	Encryption      string // EncryptionConfiguration, YAML
	AutomaticReload bool   // read Encryption again when its file changes

	WorkDir  string            // where its process is; empty: where the tests are
	Hostname string            // of its process, where this user may give it one; empty: the machine's
	Modes    string            // of --authorization-mode; empty: AlwaysAllow
	Users    map[string]string // besides the administrator: token → name
}

// An APIServer is a kube-apiserver with a client at its side.
type APIServer struct {
	Program
	*Client

	Kubeconfig     string // file
	EncryptionFile string // its EncryptionConfiguration

	trust    []byte    // its certificate, PEM
	loads    string    // what was last written into it
	written  time.Time // and when
	starting chan struct{}
}

// APIServer starts a kube-apiserver and waits until it is ready. Everything
// that the API server does not need to be told is left at its default.
func (h *Host) APIServer(ctx context.Context, c APIServerConfig) (*APIServer, error) {
	address, err := h.Address(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := newPKI(c.Dir)
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	tokens := []byte(Token + ",admin,1,system:masters\n")
	for token, name := range c.Users {
		tokens = fmt.Appendf(tokens, "%s,%s,%[2]s\n", token, name)
	}
	if err := os.WriteFile(file("tokens.csv"), tokens, 0o600); err != nil {
		return nil, err
	}
	path, err := named(h.Bin.APIServer, c.Dir, c.Hostname)
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	a := &APIServer{
		Client:         newClient("https://"+address, keys.pool),
		Kubeconfig:     file("kubeconfig"),
		EncryptionFile: file("encryption.yaml"),
		starting:       h.starting,
	}
	a.Program = Program{
		Name: "kube-apiserver",
		Path: path,
		Dir:  c.WorkDir,
		Args: []string{
			"--bind-address=127.0.0.1",
			"--secure-port=" + port,
			"--tls-cert-file=" + keys.cert,
			"--tls-private-key-file=" + keys.key,
			"--etcd-servers=" + c.Etcd,
			"--token-auth-file=" + file("tokens.csv"),
			"--authorization-mode=" + cmp.Or(c.Modes, "AlwaysAllow"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + keys.key,
			"--service-account-signing-key-file=" + keys.key,
			"--service-cluster-ip-range=10.0.0.0/24",
			"--endpoint-reconciler-type=none", // it would want an address that pods can reach
			"--feature-gates=KMSv1=true",
			"--encryption-provider-config=" + a.EncryptionFile,
			fmt.Sprintf("--encryption-provider-config-automatic-reload=%t", c.AutomaticReload),
		},
		Env: environment(c.Dir),
		Log: file("kube-apiserver.log"),
	}
	if err := a.SetEncryption(c.Encryption); err != nil {
		return nil, err
	}
	a.trust = keys.pem
	if err := os.WriteFile(a.Kubeconfig, Kubeconfig(Token, a), 0o600); err != nil {
		return nil, err
	}
	return a, a.Start(ctx)
}

// named makes a program run with a host's name of its own: a Lease is named by it. Where
// this user may not do so, it keeps the machine's.
func named(program, dir, hostname string) (path string, err error) {
	if hostname == "" {
		return program, nil
	}
	path = filepath.Join(dir, filepath.Base(program)+".sh")
	return path, os.WriteFile(path, fmt.Appendf(nil, `#!/bin/sh
if unshare --uts true 2>/dev/null; then
  exec unshare --uts sh -c 'hostname %s && exec "$0" "$@"' %q "$@"
fi
exec %[2]q "$@"
`, hostname, program), 0o700)
}

// Start starts the API server, also again after its end, and waits until it is
// ready.
func (a *APIServer) Start(ctx context.Context) error {
	if err := a.StartUnready(ctx); err != nil {
		return err
	}
	return a.WaitReady(ctx, 3*time.Minute)
}

// StartUnready starts the API server and waits only until it answers at all.
func (a *APIServer) StartUnready(ctx context.Context) error {
	select {
	case a.starting <- struct{}{}:
		defer func() { <-a.starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	err := a.serve(ctx, 2*time.Minute, func(ctx context.Context) error {
		_, _, err := a.Check(ctx, "/livez/ping")
		return err
	})
	if err != nil {
		return fmt.Errorf("kube-apiserver does not answer: %w; its log ends:\n%s", err, a.Tail(20))
	}
	return nil
}

// WaitReady waits until /readyz is ok. The error says which checks failed.
func (a *APIServer) WaitReady(ctx context.Context, limit time.Duration) error {
	err := Poll(ctx, startPoll, limit, a.Exited(), func(ctx context.Context) error {
		code, text, err := a.Check(ctx, "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("/readyz is %d:\n%s", code, text)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("kube-apiserver is not ready: %w\nits KMS check: %s\nits log ends:\n%s",
			err, a.kmsChecks(ctx), a.Tail(20))
	}
	return nil
}

// kmsChecks returns the text of each KMS check, which /readyz withholds.
func (a *APIServer) kmsChecks(ctx context.Context) string {
	var texts []string
	for _, path := range []string{KMSCheck, KMSv1Check} {
		code, text, err := a.Check(ctx, path)
		if err == nil && code != http.StatusNotFound {
			texts = append(texts, fmt.Sprintf("%s %d %s", path, code, text))
		}
	}
	return strings.Join(texts, "; ")
}

// SetEncryption replaces the EncryptionConfiguration in one step. A running API
// server that reloads it does so within a minute or two; WaitLoaded tells when.
func (a *APIServer) SetEncryption(yaml string) error {
	a.loads, a.written = yaml, time.Now()
	return replaceFile(a.EncryptionFile, yaml)
}

// WaitLoaded waits until the API server says by its metrics that it works with
// the EncryptionConfiguration that was set last.
func (a *APIServer) WaitLoaded(ctx context.Context, limit time.Duration) error {
	err := Poll(ctx, time.Second, limit, a.Exited(), func(ctx context.Context) error {
		samples, err := a.Metrics(ctx)
		if err != nil {
			return err
		}
		return a.loaded(samples)
	})
	if err != nil {
		return fmt.Errorf("kube-apiserver has not loaded its EncryptionConfiguration: %w; its log ends:\n%s", err, a.Tail(20))
	}
	return nil
}

// loaded returns what the metrics say instead of naming what was set last. Before
// Kubernetes 1.34 there is no hash among them, only when a change was loaded.
func (a *APIServer) loaded(samples Samples) error {
	const (
		hash = "apiserver_encryption_config_controller_last_config_info"
		when = "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds"
	)
	sum := sha256.Sum256([]byte(a.loads))
	labels := map[string]string{"hash": "sha256:" + hex.EncodeToString(sum[:])}
	v, ok := samples.Value(hash, labels)
	if ok && v == 1 {
		return nil
	}
	if at, ok := samples.Value(when, map[string]string{"status": "success"}); ok && len(samples.Named(hash)) == 0 && at >= float64(a.written.Unix()) {
		return nil
	}
	return fmt.Errorf("%s is %v, want %v", hash, samples.Named(hash), labels)
}

// Kubeconfig lets whoever has the token in at the first API server, and trusts the others
// where one of them is asked in its place.
func Kubeconfig(token string, servers ...*APIServer) []byte {
	var trust []byte
	for _, a := range servers {
		trust = append(trust, a.trust...)
	}
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: local
clusters:
- name: local
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: admin
  user:
    token: %s
contexts:
- name: local
  context:
    cluster: local
    user: admin
`, servers[0].url, base64.StdEncoding.EncodeToString(trust), token)
}
