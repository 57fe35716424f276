// Package faults shows what the plugin does while KMS fails: at every single
// call, by every kind of fault, once and for good.
//
// There is no API server here. The plugin is the built binary, KMS is the
// emulator inside the test's process, and the client that stands for the API
// server does as that does: it waits until the socket serves, gives each call
// the provider's default deadline of three seconds, and never tries again.
// Many plugins run at once, and mostly wait: an outage takes twenty seconds to
// be called one.
package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// maxPlugins bounds how many plugins run at once, at about 20 MB each.
const maxPlugins = "48"

// binary is the plugin that every test runs.
var binary string //nolint:gochecknoglobals // set once, before any test

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kms-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := flag.Set("test.parallel", maxPlugins); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if binary, err = cluster.BuildPlugin(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
