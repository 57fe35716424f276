// Command smoke runs the built program against the real AWS KMS, with one key of
// whoever runs it: see package smoke, and `make smoke-aws`. It exits with 0 when AWS
// does what the program relies on, 1 when not, and 2 where it was called wrongly.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/smoke"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	program := flag.String("program", "", "`PATH` of the built program")
	key := flag.String("key", "", "`ARN` of a symmetric key that the credentials here may use")
	flag.Parse()
	if *program == "" || *key == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "say which key: make smoke-aws KEY=arn:aws:kms:REGION:ACCOUNT:key/ID")
		os.Exit(2)
	}
	if err := smoke.Run(ctx, smoke.Options{Program: *program, Key: *key, Out: os.Stdout}); err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		os.Exit(1)
	}
}
