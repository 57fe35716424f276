// Command kubectl-kms says what a cluster's etcd stores, and under which key. kubectl
// runs it as "kubectl kms".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/snapshot"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// release is the version of the checkout, which make has the linker set: of this module
// Go would know only tags of its own, and a release has none. Empty: as Go says.
//
//nolint:gochecknoglobals // the linker can set nothing else; it is read once, here
var release string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := cli.Main(ctx, os.Args, cli.Streams{
		Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv, Stores: stores(), Version: release,
		OutTerminal: term.IsTerminal(int(os.Stdout.Fd())), ErrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
	})
	stop()
	os.Exit(code)
}

func stores() cli.Stores {
	return cli.Stores{
		Etcd: func(o etcd.Options) (store.Reader, error) {
			r, err := etcd.New(o)
			if err != nil {
				return nil, err // r is a nil that is no nil Reader
			}
			return r, nil
		},
		Point: func(ctx context.Context, o etcd.Options, prefixes []string) (cli.Point, error) {
			r, err := etcd.New(o)
			if err != nil {
				return nil, err
			}
			p, err := r.Point(ctx, prefixes)
			if err != nil {
				return nil, err // p is a nil that is no nil Point
			}
			return p, nil
		},
		Snapshot: func(file string, o snapshot.Options) store.Reader { return snapshot.New(file, o) },
	}
}
