// Command servers builds the kube-apiserver and the etcds that the tests run, and
// the clients that the docs' blocks run, unless the cache has them, and prints
// where they are. Running it before the tests keeps minutes of compilation out of
// their time limit and shows how far it is.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	bin, err := cluster.BuildServers(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	oldEtcd, err := cluster.BuildOldEtcd(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	clients, err := cluster.BuildClients(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("KUBE_APISERVER=%s\nETCD=%s\nETCD_3_6=%s\nKUBECTL=%s\nETCDCTL=%s\nETCDUTL=%s\n",
		bin.APIServer, bin.Etcd, oldEtcd, clients.Kubectl, clients.Etcdctl, clients.Etcdutl)
}
