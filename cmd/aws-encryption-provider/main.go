// Command aws-encryption-provider wraps kube-apiserver's keys with AWS KMS.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1)
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Streams{
		Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv, Signals: signals,
	}))
}
