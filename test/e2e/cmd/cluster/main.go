// Command cluster runs an etcd and a kube-apiserver for whoever tries commands on
// them, until SIGINT. It prints what such a shell needs in its environment, one
// variable a line, and then a line "ready".
//
// It does what the kubelet does for both: each has a file in $MANIFESTS, ends when
// that is taken away, and starts again when it is put back.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

func main() {
	kms := flag.String("kms", "", "URL of the KMS that this cluster encrypts with from its start; none: Secrets lie in the clear")
	key := flag.String("key", "", "the key there")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *kms, *key, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// stopLimit is longer than the plugin waits for its running calls.
const stopLimit = 30 * time.Second

// run does everything, and undoes it when ctx ends.
func run(ctx context.Context, kms, key string, out, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "kms-cluster-")
	if err != nil {
		return err
	}
	var undo []func() error // in the order of the starts
	defer func() {
		for _, end := range slices.Backward(undo) {
			err = errors.Join(err, end())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	host, err := cluster.NewHost(ctx, dir, progress)
	if err != nil {
		return err
	}
	clients, err := cluster.BuildClients(ctx, progress)
	if err != nil {
		return err
	}
	programs := filepath.Join(dir, "bin")
	if err := os.Mkdir(programs, 0o700); err != nil {
		return err
	}
	for name, path := range map[string]string{
		"kubectl": clients.Kubectl, "etcdctl": clients.Etcdctl, "etcdutl": clients.Etcdutl, "etcd": host.Bin.Etcd,
	} {
		if err := os.Symlink(path, filepath.Join(programs, name)); err != nil {
			return err
		}
	}

	etcd, err := host.Etcd(ctx, dir)
	if etcd != nil {
		undo = append(undo, etcd.Close)
	}
	if err != nil {
		return err
	}
	var providers []cluster.Provider
	if kms != "" {
		provider := cluster.Provider{Name: "aws-encryption-provider", Version: "v2", Socket: filepath.Join(dir, "socket.sock")}
		providers = append(providers, provider)
		plugin, err := host.Plugin(ctx, cluster.PluginConfig{Dir: dir, KMS: kms, Keys: []string{key}, Sockets: []string{provider.Socket}})
		if plugin != nil {
			undo = append(undo, func() error { return plugin.Stop(stopLimit) })
		}
		if err != nil {
			return err
		}
	}
	api, err := host.APIServer(ctx, cluster.APIServerConfig{
		Dir: dir, Etcd: etcd.URL, Encryption: cluster.Encryption(providers...), AutomaticReload: true,
	})
	if api != nil {
		undo = append(undo, api.Kill)
	}
	if err != nil {
		return err
	}
	manifests := filepath.Join(dir, "manifests")
	if err := os.Mkdir(manifests, 0o700); err != nil {
		return err
	}
	pods := map[string]pod{"etcd.yaml": etcd, "kube-apiserver.yaml": api}
	for name := range pods {
		if err := os.WriteFile(filepath.Join(manifests, name), nil, 0o600); err != nil {
			return err
		}
	}
	free, err := host.Address(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "PROGRAMS=%s\nKUBECONFIG=%s\nETCDCTL_ENDPOINTS=%s\nETCD_DATA=%s\nENCRYPTION=%s\nMANIFESTS=%s\nHEALTH=%s\nready\n",
		programs, api.Kubeconfig, etcd.URL, filepath.Join(dir, "etcd"), api.EncryptionFile, manifests, free)
	return keep(ctx, manifests, pods)
}

// A pod is what the kubelet would run.
type pod interface {
	Running() bool
	Kill() error
	Start(ctx context.Context) error
}

// keep runs each pod while its manifest is there, until ctx ends.
func keep(ctx context.Context, manifests string, pods map[string]pod) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, name := range slices.Sorted(maps.Keys(pods)) { // etcd first
			_, err := os.Stat(filepath.Join(manifests, name))
			switch p := pods[name]; {
			case err == nil && !p.Running():
				if err := p.Start(ctx); err != nil && ctx.Err() == nil {
					return err
				}
			case errors.Is(err, os.ErrNotExist) && p.Running():
				if err := p.Kill(); err != nil {
					return err
				}
			}
		}
	}
}
