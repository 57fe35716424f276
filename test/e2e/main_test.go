// Package e2e runs the built plugin, over an emulated AWS KMS, under a real
// kube-apiserver and a real etcd and holds it to what it promises operators.
//
// The tests mostly wait, so they run side by side whatever the number of cores
// is. Together they take about ten minutes once the servers are built: give
// `go test` a -timeout of 30 minutes, and run ./cmd/servers first to see the
// build's progress.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// host starts every program of every test.
var host *cluster.Host //nolint:gochecknoglobals // TestMain makes it, once, before any test

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

// atOnce bounds the tests that run at a time. Most of them mostly wait; but each
// has an etcd and one or two API servers, and all of those start at once.
const atOnce = 10

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kms-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := flag.Set("test.parallel", strconv.Itoa(atOnce)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if host, err = cluster.NewHost(context.Background(), dir, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
