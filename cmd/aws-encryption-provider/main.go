// Command aws-encryption-provider wraps kube-apiserver's keys with AWS KMS.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
)

// docsURL is where the pages of docs are published, without a slash at its end:
// make DOCS_URL=https://... has the linker set it. Empty: nowhere.
//
//nolint:gochecknoglobals // the linker can set nothing else; it is read once, here
var docsURL string

func main() {
	signals := make(chan os.Signal, 16) // room for those that toggle, so that none that ends is lost
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1)
	if !signal.Ignored(syscall.SIGHUP) { // the terminal of dev was closed; under nohup it stays ignored
		signal.Notify(signals, syscall.SIGHUP)
	}
	signal.Ignore(syscall.SIGPIPE) // whoever read the log may go: the API server still needs its keys
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Streams{
		Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv, Environ: os.Environ, Signals: signals,
		Sockets: activation.Files(true), DocsURL: docsURL,
	}))
}
