// Command cluster runs an etcd and kube-apiservers for whoever tries commands on
// them, until SIGINT. It prints what such a shell needs in its environment, one
// variable a line, and then a line "ready".
//
// A control plane node is a directory: its files lie there, and its programs run in it.
// The program ssh that comes along runs a command there.
//
// It does what the kubelet does for etcd and API servers: each has a file in its node's
// $MANIFESTS, ends when that is taken away, and starts again when it is put back. With
// --restart somebody restarts each API server, one after the other, when its
// EncryptionConfiguration is another one.
package main

import (
	"cmp"
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
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

func main() {
	var o options
	flag.StringVar(&o.kms, "kms", "", "URL of the KMS of the plugins; none with a --key: one of this cluster's own")
	flag.StringVar(&o.keys, "key", "", "ARNs of their keys there, separated by commas; new: one that is made. None: no plugin runs")
	flag.StringVar(&o.writes, "writes", "v2", "what Secrets are encrypted with at first: v2, v1, aescbc or identity")
	flag.IntVar(&o.nodes, "nodes", 1, "control plane nodes")
	flag.BoolVar(&o.restart, "restart", false, "restart an API server when its EncryptionConfiguration changes, in place of waiting until it reloads it")
	flag.StringVar(&o.host, "host", "", "hostname of its API servers; none: that of each node, cp-1 and so on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	kms, keys, writes, host string
	nodes                   int
	restart                 bool
}

// stopLimit is longer than the plugin waits for its running calls.
const stopLimit = 30 * time.Second

// run does everything, and undoes it when ctx ends.
func run(ctx context.Context, o options, out, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "kms-cluster-")
	if err != nil {
		return err
	}
	c := &control{dir: dir, pods: map[string]pod{}}
	defer func() {
		for _, end := range slices.Backward(c.undo) {
			err = errors.Join(err, end())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if c.host, err = cluster.NewHost(ctx, dir, progress); err != nil {
		return err
	}
	if err := c.programs(ctx, progress); err != nil {
		return err
	}
	if err := c.start(ctx, o); err != nil {
		return err
	}
	for _, line := range c.env {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintln(out, "ready")
	return c.keep(ctx, o.restart)
}

// A control plane.
type control struct {
	dir   string
	host  *cluster.Host
	kms   *cluster.KMS // of its own; nil: another's
	ahead atomic.Int64 // of its clock
	etcd  *cluster.Etcd
	nodes []*cluster.APIServer
	pods  map[string]pod // manifest → what runs while it is there
	env   []string
	undo  []func() error // in the order of the starts
}

// programs puts what people type on a node into a directory.
func (c *control) programs(ctx context.Context, progress io.Writer) error {
	clients, err := cluster.BuildClients(ctx, progress)
	if err != nil {
		return err
	}
	programs := filepath.Join(c.dir, "bin")
	if err := os.Mkdir(programs, 0o700); err != nil {
		return err
	}
	for name, path := range map[string]string{
		"kubectl": clients.Kubectl, "etcdctl": clients.Etcdctl, "etcdutl": clients.Etcdutl, "etcd": c.host.Bin.Etcd,
	} {
		if err := os.Symlink(path, filepath.Join(programs, name)); err != nil {
			return err
		}
	}
	c.env = append(c.env, "PROGRAMS="+programs)
	// The health port of the program's package and pods is that of the node.
	return os.WriteFile(filepath.Join(programs, "ssh"), fmt.Appendf(nil, `#!/bin/bash
cd %q/"$1" || exit 255
shift
line="$*"
exec bash -c "${line//127.0.0.1:8083/$(<health)}"
`, c.dir), 0o700)
}

// start starts everything.
func (c *control) start(ctx context.Context, o options) (err error) {
	c.etcd, err = c.host.Etcd(ctx, c.dir)
	if c.etcd != nil {
		c.undo = append(c.undo, c.etcd.Close)
	}
	if err != nil {
		return err
	}
	if o.keys != "" && o.kms == "" {
		if err := c.ownKMS(ctx, &o); err != nil {
			return err
		}
	}
	// Wherever a program runs, this is its own node: the nodes have the same files, as real
	// ones have. Of a single node, people need not be there.
	here, node := filepath.Join(c.dir, "here"), filepath.Join(c.dir, "cp-1")
	if o.nodes > 1 {
		node = "/proc/self/cwd"
	}
	if err := os.Symlink(node, here); err != nil {
		return err
	}
	socket := filepath.Join(here, "socket.sock")
	var names, servers []string
	for i := range o.nodes {
		name := fmt.Sprintf("cp-%d", i+1)
		if err := c.node(ctx, name, socket, o); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		names = append(names, name)
		servers = append(servers, strings.TrimPrefix(c.nodes[i].URL(), "https://"))
	}
	if err := c.manifest(filepath.Join(c.dir, "cp-1", "manifests", "etcd.yaml"), c.etcd); err != nil {
		return err
	}
	kubeconfig := filepath.Join(c.dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, cluster.Kubeconfig(cluster.Token, c.nodes...), 0o600); err != nil {
		return err
	}
	free, err := c.host.Address(ctx)
	if err != nil {
		return err
	}
	here = filepath.Join(c.dir, "cp-1")
	path := func(name string) string { return filepath.Join(here, name) }
	if o.nodes > 1 { // the same on each: who uses it is there
		path = func(name string) string { return name }
	}
	where := "--encryption-config " + path("encryption.yaml") + " --apiserver https://" + strings.Join(servers, " --apiserver https://")
	c.env = append(c.env,
		"KUBECONFIG="+kubeconfig, "ETCDCTL_ENDPOINTS="+c.etcd.URL, "ETCD_DATA="+filepath.Join(c.dir, "etcd"), "HEALTH="+free,
		"ENCRYPTION="+path("encryption.yaml"), "MANIFESTS="+path("manifests"), "CONFIG="+path("aws-encryption-provider.yaml"),
		"NODE="+here, "NODES="+strings.Join(names, " "), "SERVERS="+strings.Join(servers, " "), "WHERE="+where)
	if o.keys != "" {
		c.env = append(c.env, "SOCKET="+socket)
	}
	return nil
}

// ownKMS starts one with a key. Its clock goes ahead by a month for a moment when the file
// $MONTH is made, which is then removed: a key that was to be deleted is.
func (c *control) ownKMS(ctx context.Context, o *options) (err error) {
	clock := func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
	if c.kms, err = c.host.KMS(ctx, kmsemulator.Options{Clock: clock}); err != nil {
		return err
	}
	c.undo = append(c.undo, c.kms.Close)
	o.kms = c.kms.URL()
	if o.keys == "new" {
		if o.keys, err = c.kms.CreateKey(cluster.Region, kmsemulator.KeyOptions{}); err != nil {
			return err
		}
	}
	c.env = append(c.env, "OLD="+o.keys, "MONTH="+c.month(), "AWS_ENDPOINT_URL_KMS="+o.kms)
	c.env = append(c.env, cluster.Credentials()...)
	return nil
}

func (c *control) month() string { return filepath.Join(c.dir, "month") }

// node starts the programs of one.
func (c *control) node(ctx context.Context, name, socket string, o options) error {
	dir := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Join(dir, "manifests"), 0o700); err != nil {
		return err
	}
	if o.keys != "" {
		file := "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nproviders:\n- name: aws\n  listen: " + socket +
			"\n  keys:\n  - key: " + strings.ReplaceAll(o.keys, ",", "\n  - key: ") + "\n"
		plugin, err := c.host.PluginByFile(ctx, cluster.PluginConfig{Dir: dir, WorkDir: dir, Env: []string{"AWS_ENDPOINT_URL_KMS=" + o.kms}}, file)
		if plugin != nil {
			c.undo = append(c.undo, func() error { return plugin.Stop(stopLimit) })
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "health"), []byte(strings.TrimPrefix(plugin.Health, "http://")), 0o600); err != nil {
			return err
		}
	}
	api, err := c.host.APIServer(ctx, cluster.APIServerConfig{
		Dir: dir, WorkDir: dir, Hostname: cmp.Or(o.host, name), Etcd: c.etcd.URL, Encryption: encryption(o, socket), AutomaticReload: true,
	})
	if api != nil {
		c.undo = append(c.undo, api.Kill)
	}
	if err != nil {
		return err
	}
	c.nodes = append(c.nodes, api)
	return c.manifest(filepath.Join(dir, "manifests", "kube-apiserver.yaml"), api)
}

// encryption is the first EncryptionConfiguration.
func encryption(o options, socket string) string {
	switch {
	case o.writes == "aescbc":
		const local = "    - aescbc: {keys: [{name: old, secret: c2VjcmV0IGlzIHNlY3VyZSwgb3IgaXMgaXQ/ICAgICA=}]}\n"
		return strings.Replace(cluster.Encryption(), "    - identity", local+"    - identity", 1)
	case o.writes == "identity" || o.keys == "":
		return cluster.Encryption()
	}
	names := map[string]string{"v1": "aws-v1"}
	return cluster.Encryption(cluster.Provider{Name: cmp.Or(names[o.writes], "aws-encryption-provider"), Version: o.writes, Socket: socket})
}

// A pod is what the kubelet would run.
type pod interface {
	Running() bool
	Kill() error
	Start(ctx context.Context) error
}

func (c *control) manifest(path string, p pod) error {
	c.pods[path] = p
	return os.WriteFile(path, nil, 0o600)
}

// keep runs each pod while its manifest is there, until ctx ends.
func (c *control) keep(ctx context.Context, restart bool) error {
	loaded := map[*cluster.APIServer]time.Time{} // when its file was written
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.aMonthLater(); err != nil {
			return err
		}
		for _, path := range slices.Sorted(maps.Keys(c.pods)) { // etcd first
			_, err := os.Stat(path)
			p := c.pods[path]
			api, _ := p.(*cluster.APIServer)
			if restart && err == nil && changed(loaded, api) {
				if err := p.Kill(); err != nil {
					return err
				}
			}
			switch {
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

// changed reports whether an API server has another file than when this was asked last.
func changed(loaded map[*cluster.APIServer]time.Time, api *cluster.APIServer) bool {
	if api == nil {
		return false
	}
	file, err := os.Stat(api.EncryptionFile)
	if err != nil || file.ModTime().Equal(loaded[api]) {
		return false
	}
	before := loaded[api]
	loaded[api] = file.ModTime()
	return !before.IsZero()
}

// aMonthLater lets the KMS see one for a moment, where that is asked for.
func (c *control) aMonthLater() error {
	if _, err := os.Stat(c.month()); err != nil || c.kms == nil {
		return nil //nolint:nilerr // it is not there
	}
	c.ahead.Store(int64(31 * 24 * time.Hour)) //nolint:mnd // longer than KMS lets a key wait
	c.kms.HasKey("")
	c.ahead.Store(0)
	return os.Remove(c.month())
}
