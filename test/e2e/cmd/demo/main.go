// Command demo shows the plugin at work: it brings up an emulated AWS KMS, the
// plugin, etcd and a kube-apiserver on this machine, writes a secret, shows
// what etcd holds and what the API returns, and leaves everything running until
// Ctrl-C. Nothing of it is left behind.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, os.Stderr); err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "interrupted before the demo was ready")
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

// The secret that the demo writes.
const (
	secretName = "demo"
	plaintext  = "nobody should find this in etcd"
)

// run does everything, and undoes it when ctx ends.
func run(ctx context.Context, out, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "kms-demo-")
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

	fmt.Fprintln(progress, "building aws-encryption-provider")
	host, err := cluster.NewHost(ctx, dir, progress)
	if err != nil {
		return err
	}
	fmt.Fprintln(progress, "starting an emulated AWS KMS, etcd, aws-encryption-provider and kube-apiserver")
	kms, err := host.KMS(ctx, kmsemulator.Options{})
	if err != nil {
		return err
	}
	undo = append(undo, kms.Close)
	key, err := kms.CreateKey(cluster.Region, kmsemulator.KeyOptions{})
	if err != nil {
		return err
	}
	etcd, err := host.Etcd(ctx, dir)
	if etcd != nil {
		undo = append(undo, etcd.Close)
	}
	if err != nil {
		return err
	}
	provider := cluster.Provider{Name: "aws-encryption-provider", Version: "v2", Socket: filepath.Join(dir, "socket.sock")}
	plugin, err := host.Plugin(ctx, cluster.PluginConfig{
		Dir: dir, KMS: kms.URL(), Keys: []string{key}, Sockets: []string{provider.Socket},
	})
	if plugin != nil {
		undo = append(undo, func() error { return plugin.Stop(stopLimit) })
	}
	if err != nil {
		return err
	}
	api, err := host.APIServer(ctx, cluster.APIServerConfig{
		Dir: dir, Etcd: etcd.URL, Encryption: cluster.Encryption(provider), AutomaticReload: true,
	})
	if api != nil {
		undo = append(undo, api.Kill)
	}
	if err != nil {
		return err
	}

	if err := show(ctx, out, api, etcd); err != nil {
		return err
	}
	fmt.Fprintf(out, `
KMS key        %s
KMS            %s
plugin socket  %s
plugin health  %s/readyz
etcd           %s
kubeconfig     %s

Try:
  kubectl --kubeconfig %s create secret generic mine --from-literal=password=s3cret
  curl -sk -H 'Authorization: Bearer %s' %s%s
  curl -s %s/readyz

ready: everything runs until Ctrl-C
`, key, kms.URL(), provider.Socket, plugin.Health, etcd.URL, api.Kubeconfig,
		api.Kubeconfig, cluster.Token, api.URL(), cluster.SecretPath(secretName), plugin.Health)

	select {
	case <-ctx.Done():
		fmt.Fprintln(progress, "ending")
		return nil
	case <-api.Exited():
		return ended(&api.Program)
	case <-etcd.Exited():
		return ended(&etcd.Program)
	case <-plugin.Exited():
		return ended(&plugin.Program)
	}
}

// stopLimit is longer than the plugin waits for its running calls.
const stopLimit = 30 * time.Second

func ended(p *cluster.Program) error {
	return errors.Join(fmt.Errorf("%s has ended; its log ends:\n%s", p.Name, p.Tail(20)), p.ExitError())
}

// show writes a secret and prints it from both sides.
func show(ctx context.Context, out io.Writer, api *cluster.APIServer, etcd *cluster.Etcd) error {
	if err := api.CreateSecret(ctx, secretName, plaintext); err != nil {
		return err
	}
	values, err := etcd.Values(ctx, cluster.SecretKey(secretName))
	if err != nil {
		return err
	}
	raw := values[cluster.SecretKey(secretName)]
	stored, err := cluster.ParseStored(raw)
	if err != nil {
		return err
	}
	const shown = 256
	fmt.Fprintf(out, "A secret with the value %q was written. etcd holds of it, under %s, %d bytes:\n\n%s",
		plaintext, cluster.SecretKey(secretName), len(raw), hex.Dump(raw[:min(shown, len(raw))]))
	if len(raw) > shown {
		fmt.Fprintf(out, "... and %d more bytes\n", len(raw)-shown)
	}
	if bytes.Contains(raw, []byte(plaintext)) || bytes.Contains(raw, []byte(base64.StdEncoding.EncodeToString([]byte(plaintext)))) {
		return errors.New("the plaintext is in etcd: this must never happen, please report it")
	}
	fmt.Fprintf(out, "\nThe plaintext is not in it. Its DEK seed is wrapped by the KMS key\n  %s\n", stored.KeyID)

	got, err := api.Secret(ctx, secretName)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe API returns: %q\n", got)
	if got != plaintext {
		return fmt.Errorf("the API returned %q for the secret %q", got, plaintext)
	}
	return nil
}
