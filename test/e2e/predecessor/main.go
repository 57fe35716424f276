// Command predecessor stands in for the provider that this project replaces,
// so that the end-to-end tests can swap one for the other under a running API
// server. It behaves as that program is known to from outside and shares no
// code with it or with ours:
//
//   - it serves KMS v1beta1 and v2 on one socket, after removing whatever file
//     is in the socket's place;
//   - a ciphertext is the character 1 and KMS's CiphertextBlob; with --bare, as
//     in its first releases, v1 writes the blob alone. v1 reads both, v2 only
//     the first;
//   - Decrypt names no key to KMS, so it opens what any key made;
//   - Status answers v2beta1, the value of --key as key_id, and "err" after a
//     failed call;
//   - it writes no annotations and ignores what it is given.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"google.golang.org/grpc"
	v1 "k8s.io/kms/apis/v1beta1"
	v2 "k8s.io/kms/apis/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("predecessor", flag.ContinueOnError)
	key := flags.String("key", "", "key ARN")
	region := flags.String("region", "", "Region")
	listen := flags.String("listen", "/var/run/kmsplugin/socket.sock", "unix socket")
	endpoint := flags.String("kms-endpoint", "", "KMS URL")
	bare := flags.Bool("bare", false, "write v1 as the first releases did")
	if err := flags.Parse(args); err != nil {
		return err
	}
	settings, err := config.LoadDefaultConfig(ctx, config.WithRegion(*region))
	if err != nil {
		return err
	}
	p := &provider{key: *key, bare: *bare, kms: kms.NewFromConfig(settings, func(o *kms.Options) {
		if *endpoint != "" {
			o.BaseEndpoint = aws.String(*endpoint)
		}
	})}

	if err := os.Remove(*listen); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", *listen)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	v1.RegisterKeyManagementServiceServer(server, v1Service{provider: p})
	v2.RegisterKeyManagementServiceServer(server, v2Service{provider: p})
	context.AfterFunc(ctx, server.GracefulStop)
	fmt.Fprintf(os.Stderr, "predecessor serves %s\n", *listen)
	return server.Serve(l)
}
